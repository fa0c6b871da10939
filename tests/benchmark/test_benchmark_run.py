"""One command from seeds to figures: what it refuses, what it leaves, and what it prints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ilp_service.attribution.meta import MetaClassifier, untrained_meta
from ilp_service.benchmark import crossing, folds, run
from ilp_service.benchmark.command import HELD_OUT_WORLDS, TRAINING_WORLDS, benchmark
from ilp_service.benchmark.crossing import Examined
from ilp_service.benchmark.plots import plot_reliability, plot_risk_coverage
from ilp_service.benchmark.recipe import BuiltWorld
from ilp_service.benchmark.run import Place, Plan, Steps, deal, run_benchmark
from ilp_service.errors import DataFormatError, SettingsError
from ilp_service.settings import Settings
from ilp_service.tables import write_table
from tests.benchmark.made_up import labels, predictions, verdicts
from tests.benchmark.made_worlds import causes, made_world

FAMILIES = ["qwen2", "llama"]


@pytest.fixture(autouse=True)
def _rules_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(table: pa.Table, seed: int = 0) -> MetaClassifier:
        return untrained_meta()

    monkeypatch.setattr(crossing, "train_meta", train)
    monkeypatch.setattr(crossing, "builtin_meta", untrained_meta)
    monkeypatch.setattr(crossing, "left_out", lambda *_: {"causes": {}})


def made_steps(asked: Counter[Place] | None = None) -> Steps:
    worlds: dict[str, Examined] = {}

    def build(place: Place) -> BuiltWorld:
        if asked is not None:
            asked[place] += 1
        made = made_world(*place)
        worlds[made.findings.built.name] = made
        return made.findings.built

    return Steps(build, lambda built: worlds[built.name].labels, lambda built, _labels: worlds[built.name])


def plan(out: Path) -> Plan:
    return Plan(deal(FAMILIES, ["100", "101"]), deal(FAMILIES, ["0", "1", "2", "3"]), "small", out)


def test_seeds_are_dealt_in_turn_so_that_no_two_families_share_one() -> None:
    dealt = deal(["qwen2", "llama", "olmo2"], ["0", "1", "2", "3"])
    assert dealt == (("qwen2", 0), ("llama", 1), ("olmo2", 2), ("qwen2", 3))
    assert deal(FAMILIES, ["llama:7", "0", "qwen2:9", "1"]) == (("llama", 7), ("qwen2", 0), ("qwen2", 9), ("llama", 1))
    for worlds in (TRAINING_WORLDS, HELD_OUT_WORLDS):
        seeds = [world.partition(":")[2] for world in worlds]
        assert [f"{family}:{seed}" for family, seed in deal(["qwen2", "llama", "olmo2"], seeds)] == list(worlds)


@pytest.mark.parametrize(
    ("families", "seeds", "message"),
    [
        (["gpt9"], ["0"], "'gpt9' is unknown"),
        ([], ["0"], "No family"),
        (FAMILIES, ["first"], "'first' is neither"),
        (FAMILIES, ["olmo2:1"], "'olmo2:1' is neither"),
        (FAMILIES, ["-1"], "'-1' is neither"),
        (FAMILIES, ["²"], "'²' is neither"),
        (FAMILIES, ["12345678901"], "'12345678901' is neither"),
        (["qwen2"], ["1", "1"], "qwen2:1 is named twice"),
    ],
)
def test_worlds_that_cannot_be_are_refused(families: list[str], seeds: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        deal(families, seeds)


def test_what_would_fail_after_hours_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    asked: Counter[Place] = Counter()
    held_out = deal(FAMILIES, ["100", "101"])
    for scored, training, message in (
        (held_out, held_out, "to be trained on and scored"),
        (held_out, deal(FAMILIES, ["0", "1"]), "two are needed"),
        ((), deal(FAMILIES, ["0", "1", "2", "3"]), "No seed of a world to score"),
    ):
        with pytest.raises(SettingsError, match=message):
            run_benchmark(Plan(scored, training, "small", tmp_path), (), made_steps(asked), lambda _line: None)
    assert not asked


def test_a_run_leaves_its_tables_plots_and_figures_and_each_can_be_scored_again(tmp_path: Path) -> None:
    told: list[str] = []
    asked: Counter[Place] = Counter()
    report = run_benchmark(plan(tmp_path), causes(), made_steps(asked), told.append)
    assert set(asked.values()) == {1}
    assert len(asked) == 6
    for name in (
        "macro_f1",
        "macro_f1_no_order_rarity",
        "macro_f1_no_trajectory",
        "rules_macro_f1",
        "ece",
        "precision_at_80_coverage",
        "verified",
        "recovery",
        "seconds",
    ):
        assert name in report, name
    assert json.loads((tmp_path / "scores.json").read_text()) == json.loads(json.dumps(report))
    assert report["trained_on"] == {
        "llama": ["qwen2-small-0", "qwen2-small-2"],
        "qwen2": ["llama-small-1", "llama-small-3"],
    }
    assert (tmp_path / "reliability.svg").read_text().lstrip().startswith("<?xml")
    assert (tmp_path / "risk_coverage.svg").stat().st_size > 1000
    for built in (made_world(*place).findings for place in plan(tmp_path).held_out):
        write_table(built.truth, tmp_path / built.built.name / "truth.parquet")
    path = str(tmp_path / "predictions" / "repaired_rules.parquet")
    again = CliRunner().invoke(benchmark, ["score", path, "--worlds", str(tmp_path), "--json"])
    assert json.loads(again.stdout)["macro_f1"] == report["repaired_rules_macro_f1"] == 1.0
    assert any("llama is left out" in line for line in told)


def test_the_same_run_gives_the_same_figures(tmp_path: Path) -> None:
    first, second = (run_benchmark(plan(tmp_path / name), causes(), made_steps(), lambda _line: None) for name in "ab")
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    files = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.*")) for name in "ab"]
    assert files[0] == files[1]
    for path in files[0]:
        if path.suffix in (".svg", ".parquet"):
            assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_what_was_said_is_kept_until_a_label_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    cross_one = crossing.cross_one

    def counted(others: Sequence[Examined], *rest: Any, **options: Any) -> crossing.Fold:  # noqa: ANN401
        calls.append(len(others))
        return cross_one(others, *rest, **options)

    monkeypatch.setattr(crossing, "cross_one", counted)
    monkeypatch.setattr(folds, "_code", lambda _causes: b"the code of this test")
    first = run_benchmark(plan(tmp_path), causes(), made_steps(), lambda _line: None)
    again = run_benchmark(plan(tmp_path), causes(), made_steps(), lambda _line: None)
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert len(calls) == 2
    steps = made_steps()
    fewer = Steps(steps.build, lambda built: steps.label(built).slice(built.seed == 0), steps.examine)
    changed = Steps(
        fewer.build, fewer.label, lambda built, labels: Examined(steps.examine(built, labels).findings, labels)
    )
    run_benchmark(plan(tmp_path), causes(), changed, lambda _line: None)
    assert len(calls) == 3


def test_another_place_in_the_data_or_a_lost_record_is_asked_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def compute() -> crossing.Fold:
        calls.append("asked")
        return crossing.Fold((), {}, {}, {"causes": {}})

    keep = folds.kept_in(tmp_path, causes(), Settings(), 0)
    world = made_world("qwen2", 0)
    study = world.findings.study
    moved = (replace(study.samples[0], position=999), *study.samples[1:])
    for number, other in enumerate(
        (
            study,
            replace(study, samples=moved),
            replace(study, trajectory=None),
            replace(study, neighbours=study.neighbours.slice(1)),
            replace(study, rendering=study.rendering.slice(1)),
        ),
        start=1,
    ):
        seen = Examined(replace(world.findings, study=other), world.labels)
        assert keep("qwen2", [], [seen], compute) == keep("qwen2", [], [seen], compute)
        assert len(calls) == number


def test_what_is_kept_is_kept_under_the_code_that_was_loaded_not_under_later_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    steps = made_steps()

    def code(_causes: object) -> bytes:
        order.append("code")
        return b"code"

    def build(place: Place) -> BuiltWorld:
        order.append("world")
        return steps.build(place)

    monkeypatch.setattr(folds, "_code", code)
    run_benchmark(plan(tmp_path), causes(), replace(steps, build=build), lambda _line: None)
    assert order == ["code"] + ["world"] * 6


def test_json_is_one_object_on_stdout_and_progress_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ordinary_steps", lambda *_: made_steps())
    options = ["--families", "qwen2,llama", "--seeds", "100,101", "--train-seeds", "0,1,2,3", "--out", str(tmp_path)]
    found = CliRunner().invoke(benchmark, [*options, "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["worlds"] == ["llama-small-101", "qwen2-small-100"]
    assert "world 1 of 6: qwen2:0" in found.stderr
    shown = CliRunner().invoke(benchmark, options).stdout
    assert "macro_f1_no_trajectory" in shown
    assert "recovered beyond the placebo" in shown


def test_anybodys_file_is_scored_from_the_command_line(tmp_path: Path) -> None:
    held = labels(worlds=["a-small-1", "b-small-2"])
    write_table(held, tmp_path / "labels.parquet")
    pq.write_table(predictions(held), tmp_path / "mine.parquet")
    arguments = ["score", str(tmp_path / "mine.parquet"), "--worlds", str(tmp_path)]
    found = CliRunner().invoke(benchmark, arguments)
    assert found.exit_code == 0, found.output
    assert f"{held.num_rows} planted samples of 2 worlds" in found.stdout
    assert json.loads(CliRunner().invoke(benchmark, [*arguments, "--json"]).stdout)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--world", "qwen2:²"], "is no world"),
        (["table", "--world", "qwen2:1", "--world", "qwen2:01"], "named twice"),
        (["build", "--sft-seed", "-1"], "-1"),
        (["check", "--other-sft-seed", "-1"], "-1"),
        (["table", "--out", "."], "is a directory"),
    ],
)
def test_what_could_not_be_built_is_a_wrong_use(arguments: list[str], message: str) -> None:
    found = CliRunner().invoke(benchmark, arguments)
    assert found.exit_code == 2
    assert message in found.stderr


@pytest.mark.parametrize("text", ["{", "[1]", '{"worlds": []}', '{"worlds": 1, "trained_on": {}}'])
def test_scores_of_something_else_make_no_page(tmp_path: Path, text: str) -> None:
    scores, target = tmp_path / "scores.json", tmp_path / "page.md"
    scores.write_text(text)
    target.write_text("as it was")
    found = CliRunner().invoke(benchmark, ["page", "--scores", str(scores), "--into", str(target)])
    assert isinstance(found.exception, DataFormatError)
    assert str(scores) in str(found.exception)
    assert target.read_text() == "as it was"


def test_every_command_says_what_it_does() -> None:
    for name, command in benchmark.commands.items():
        assert command.help, name
        found = CliRunner().invoke(benchmark, [name, "--help"])
        assert found.exit_code == 0
    assert set(benchmark.commands) == {"build", "table", "check", "labels", "score", "page", "interventions"}


def test_plots_are_written_in_either_form(tmp_path: Path) -> None:
    found = verdicts([["a"], ["a"], ["b"]], ["a", "b", "b"], [0.9, 0.4, 0.7])
    plot_reliability(found, tmp_path / "plot.png")
    plot_risk_coverage({"ours": found}, tmp_path / "plot.svg")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "AURC" in (tmp_path / "plot.svg").read_text()
