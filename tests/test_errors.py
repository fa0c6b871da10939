"""Every error of a user has an exit code of its own, and the README names it."""

from pathlib import Path

from ilp_service.errors import IlpError

README = Path(__file__).parents[1] / "README.md"


def test_exit_codes_are_distinct_and_documented() -> None:
    codes = {error.__name__: error.exit_code for error in IlpError.__subclasses__()}
    assert len(codes) >= 16
    assert len(set(codes.values())) == len(codes)
    assert not {0, 1, 2, 130, 143} & set(codes.values())
    documented = README.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("##")[0]
    missing = [name for name, code in codes.items() if f" {code} " not in documented.replace("\n", " ")]
    assert missing == []
