"""The demo's table of what was found beside what was planted."""

from ilp_service.benchmark.demo import comparison

TRUTH = {"a": "missing_knowledge", "b": "missing_knowledge", "c": "control", "d": "set_aside", "e": "missing_knowledge"}
FOUND = [
    ("missing_knowledge", "missing_knowledge"),
    ("missing_knowledge", "unattributed"),
    ("control", "missing_knowledge"),
]


def test_every_cause_stands_beside_its_plant() -> None:
    text = comparison(FOUND, TRUTH, ["missing_knowledge", "pretraining_conflict"])
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["missing_knowledge"] == ["2", "3", "2", "50%"]
    assert rows["pretraining_conflict"] == ["0", "0", "0", "-"]
    assert rows["unattributed"] == ["1"]
    assert "1 of them (100.0%) are unlearned" in text
