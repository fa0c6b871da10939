"""A built world has its parts, its record shows the planned exposures, and building again does nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
from transformers import AutoModelForCausalLM

from ilp_service.benchmark import recipe
from ilp_service.benchmark.families import FAMILIES, tiny_model
from ilp_service.benchmark.plants import PIPELINE, make_world
from ilp_service.benchmark.recipe import TRUTH, BuiltWorld, build_world, cloze_accuracy, read_truth
from ilp_service.benchmark.sizes import WorldSize
from ilp_service.checkpoints.loading import load_tokenizer
from ilp_service.samples.reading import read_samples
from ilp_service.settings import DataSettings
from ilp_service.stages import stage
from ilp_service.training.trajectory import read_trajectory


def test_the_data_file_shows_nothing_of_what_was_planted(tiny_world: BuiltWorld) -> None:
    rows = [json.loads(line) for line in tiny_world.data.read_text().splitlines()]
    assert {tuple(sorted(row)) for row in rows} == {("prompt", "response", "subset")}
    assert {row["subset"] for row in rows} == {"part-1", "part-2"}
    assert len(rows) == tiny_world.facts["rows"]


def test_the_truth_names_every_sample_once(tiny_world: BuiltWorld, tiny_size: WorldSize) -> None:
    data = read_samples(tiny_world.data, DataSettings())
    truth = read_truth(tiny_world.truth)
    assert data.quarantine.num_rows == 0
    assert truth.schema.equals(TRUTH)
    assert truth["sample_id"].to_pylist() == [sample.sample_id for sample in data.samples]
    assert truth["cause"].to_pylist() == [row.cause for row in make_world(1, tiny_size).rows]


def test_the_record_shows_who_took_part_in_the_training(tiny_world: BuiltWorld, tiny_size: WorldSize) -> None:
    known = read_samples(tiny_world.data, DataSettings()).all_ids
    record = read_trajectory(tiny_world.trajectory, known)
    last = record.filter(pc.equal(record["step"], pc.max(record["step"])))
    seen = {
        key: (exposures, tokens)
        for key, exposures, tokens in zip(
            *(last[name].to_pylist() for name in ("sample_id", "exposures", "trained_tokens")), strict=True
        )
    }
    truth = read_truth(tiny_world.truth)
    rows = make_world(1, tiny_size).rows
    kinds = Counter()
    for key, row in zip(truth["sample_id"].to_pylist(), rows, strict=True):
        exposures, tokens = seen[key]
        if row.cause == PIPELINE:
            kinds[row.kind] += 1
            assert tokens == 0
            assert (exposures == 0) is (row.kind in ("dropped", "rewritten"))
        else:
            assert exposures == (tiny_size.passes if row.passes is None else row.passes)
            assert tokens == 2 * exposures
    assert len(kinds) == 4


def test_building_again_does_nothing_and_another_training_seed_keeps_the_base(
    tiny_world: BuiltWorld, tiny_size: WorldSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tiny_world.base.parent
    weights = (tiny_world.base / "model.safetensors").read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("built twice")

    monkeypatch.setattr(recipe, "_build_base", refuse)
    other = build_world(out, family="llama", seed=1, size=tiny_size, sft_seed=1)
    assert (other.base / "model.safetensors").read_bytes() == weights
    assert other.model != tiny_world.model
    monkeypatch.setattr(recipe, "_fine_tune", refuse)
    assert build_world(out, family="llama", seed=1, size=tiny_size) == tiny_world


def test_a_killed_stage_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    def killed() -> None:
        with stage(tmp_path / "base", "digest") as folder:
            assert folder is not None
            (folder / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert not (tmp_path / "base").exists()
    with stage(tmp_path / "base", "digest") as folder:
        assert folder is not None
        assert not list(folder.iterdir())
    with stage(tmp_path / "base", "digest") as folder:
        assert folder is None
    with stage(tmp_path / "base", "other digest") as folder:
        assert folder is not None


def test_fine_tuning_changes_the_model_but_not_its_embeddings(tiny_world: BuiltWorld) -> None:
    base, tuned = (
        AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        for folder in (tiny_world.base, tiny_world.model)
    )
    assert torch.equal(base.get_input_embeddings().weight, tuned.get_input_embeddings().weight)
    assert not torch.equal(base.model.layers[0].mlp.up_proj.weight, tuned.model.layers[0].mlp.up_proj.weight)


def test_the_saved_tokenizer_reads_as_it_was_written(tiny_world: BuiltWorld) -> None:
    text = "what is Ada Ashby's job?\nbaker"
    for folder in (tiny_world.base, tiny_world.model):
        tokenizer = load_tokenizer(folder)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_an_untrained_base_knows_no_facts(tiny_size: WorldSize) -> None:
    world = make_world(1, tiny_size)
    tokenizer = recipe.world_tokenizer()
    model = tiny_model("qwen2", vocabulary=len(tokenizer), pad=0, end=2, seed=0).eval()
    assert cloze_accuracy(model, world) < 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_one_size_and_their_own_seeded_weights(family: str) -> None:
    first, again, other = (tiny_model(family, vocabulary=547, pad=0, end=2, seed=seed) for seed in (0, 0, 1))
    assert first.config.model_type == family
    assert sum(weight.numel() for weight in first.parameters()) == pytest.approx(0.7e6, rel=0.1)
    weights = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("name", "value"), [("family", "gpt2"), ("size", "huge")])
def test_an_unknown_family_or_size_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        build_world(tmp_path, **{"family": "qwen2", "size": "demo", name: value})
