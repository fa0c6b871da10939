"""The benchmark script, without lm-eval, which is not needed for anything else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "scoring.py"
    spec = importlib.util.spec_from_file_location("benchmark_scoring", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_scoring", module)
    spec.loader.exec_module(module)
    return module


def test_a_missing_lm_eval_is_named_with_its_remedy(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(sys, "argv", ["scoring.py", "--json"])
    assert script.main() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pip install 'ilp-service[bench]'" in captured.err


def test_the_summary_is_the_worst_of_all_models(script: ModuleType) -> None:
    results = [
        script.Result(model, shape.name, 1, 1, 2.0, 1.0, speed, difference, difference * 100, 0)
        for model, speed, difference in (("small", 3.0, 1e-5), ("large", 2.0, 4e-5))
        for shape in script.SHAPES
    ]
    summary = script.summarise(results)
    assert summary["max_abs_difference"] == 4e-5
    assert {shape.key: summary[shape.key] for shape in script.SHAPES} == dict.fromkeys(
        ("long_options_speedup", "many_options_speedup", "letters_speedup", "label_set_speedup"), 2.0
    )
    assert "of the allowed" in script.table(results, summary)


def test_shapes_have_the_options_they_say(script: ModuleType) -> None:
    for shape in script.SHAPES:
        prompts = script.make_prompts(shape, 3, seed=0)
        lengths = [len(option.split()) for _, options in prompts for option in options]
        assert (min(lengths), max(lengths)) >= shape.option[:1]
        assert max(lengths) <= shape.option[1]
        assert all(len(set(options)) == shape.options for _, options in prompts)
        assert (prompts[0][1] == prompts[1][1]) is shape.shared


def test_every_word_is_one_token(script: ModuleType) -> None:
    tokenizer = script.make_tokenizer()
    for shape in script.SHAPES:
        [(prompt, options)] = script.make_prompts(shape, 1, seed=0)
        for text in (prompt, *options):
            assert tokenizer.encode(text, add_special_tokens=False) == [int(word[1:]) for word in text.split()]
