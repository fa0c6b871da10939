"""The training of a checkpoint is found, and done again it makes the same weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pyarrow as pa
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ilp_service.changes import Change
from ilp_service.errors import SettingsError
from ilp_service.intervention.known_training import KnownTraining, known_training, order_of, read_recipe
from ilp_service.intervention.measuring import Measurer
from ilp_service.intervention.recipes import Schedule, course_tokens, recipe_of
from ilp_service.intervention.reopening import Diagnosed, reopen
from ilp_service.tables import TRAJECTORY
from ilp_service.tracking.store import Tracking
from ilp_service.training.adapters import LoraOptions
from ilp_service.training.changed import train_changed
from ilp_service.training.sft import save_model
from ilp_service.training.trajectory import SEVERAL_DEVICES
from tests.intervention.conftest import LOOP, Place


@pytest.fixture
def diagnosed(place: Place) -> Diagnosed:
    return reopen(place.run_id, Tracking(), lambda _line: None)


def test_doing_the_training_again_makes_the_diagnosed_model(diagnosed: Diagnosed, place: Place, tmp_path: Path) -> None:
    recipe = recipe_of(diagnosed, Tracking())
    assert replace(recipe.loop, device="cpu") == LOOP
    assert recipe.lora is None
    again = train_changed(recipe, Change(), seed=recipe.loop.seed, folder=tmp_path)
    assert again.model is not None
    saved = load_file(place.model / "model.safetensors")
    state = again.model.state_dict()
    assert saved
    assert all(state[name].equal(value) for name, value in saved.items())
    assert again.training_tokens == course_tokens(recipe)
    measure = Measurer(diagnosed, held_out=("Ada works in Rome.",))
    table, loss = measure(again.model)
    original, original_loss = measure.original()
    assert table.to_pylist() == original.to_pylist()
    assert loss == original_loss
    columns = ["sample_id", "p_correct", "unlearned", "greedy_match"]
    assert table.select(columns).to_pylist() == diagnosed.evaluation.select(columns).to_pylist()


def test_it_says_where_each_part_is_known_from(diagnosed: Diagnosed) -> None:
    recipe = recipe_of(diagnosed, Tracking())
    where = dict(recipe.where)
    assert set(where) == {"base", "optimizer", "order", "passes", "weights", "data", "general text"}
    run_id = diagnosed.prepared.reference.run_id
    assert all(f"the run {run_id} of ilp train" in where[name] for name in ("optimizer", "order", "passes", "data"))


def test_without_a_record_of_ilp_train_the_training_record_tells(diagnosed: Diagnosed) -> None:
    reference = replace(diagnosed.prepared.reference, run_id=None)
    facts = {**diagnosed.prepared.facts, "model_digest": "another"}
    stranger = replace(diagnosed, prepared=replace(diagnosed.prepared, reference=reference, facts=facts))
    known = known_training(stranger, Tracking())
    recipe, own = recipe_of(stranger, Tracking(), known=known), recipe_of(diagnosed, Tracking())
    assert "loop.weight_decay" not in known.values
    assert recipe.loop == own.loop
    assert [Counter(part) for part in recipe.course(3).passes] == [Counter(part) for part in own.course(3).passes]
    assert dict(recipe.where)["order"] == "sequential, as the training record shows"


def test_what_matters_and_nobody_knows_is_asked_for(diagnosed: Diagnosed, tmp_path: Path) -> None:
    reference = replace(diagnosed.prepared.reference, run_id=None, model_dir=tmp_path / "nowhere" / "model")
    prepared = replace(diagnosed.prepared, reference=reference, facts={}, trajectory=None, trajectory_path=None)
    stranger = replace(diagnosed, prepared=prepared)
    with pytest.raises(
        SettingsError, match=r"nothing says loop\.learning_rate, loop\.batch_size, epochs, order; .*--rec"
    ):
        recipe_of(stranger, Tracking())
    file = tmp_path / "recipe.yaml"
    file.write_text("loop: {learning_rate: 1e-3, batch_size: 4}\nepochs: 2\norder: shuffled\nlora.rank: 2\n")
    recipe = recipe_of(stranger, Tracking(), file=file, method="lora")
    assert (recipe.loop.learning_rate, recipe.loop.batch_size) == (1e-3, 4)
    assert recipe.lora is not None
    assert recipe.lora.rank == 2
    assert Counter(recipe.course(0).exposures.values()) == {2: len(recipe.samples)}
    assert f"--recipe {file}" in dict(recipe.where)["optimizer"]


@pytest.mark.parametrize(
    ("more", "batch_size", "accumulation"),
    [
        ({}, 32, 2),
        ({"devices": 1}, 32, 2),
        ({"devices": 8}, 4, 16),
        # Written before the number of devices was.
        ({"exposures_unknown_because": SEVERAL_DEVICES}, None, 2),
    ],
)
def test_a_training_on_several_devices_is_done_again_with_as_many_rows_a_step(
    diagnosed: Diagnosed, more: dict[str, object], batch_size: int | None, accumulation: int
) -> None:
    facts = {"batch_size": 32, "gradient_accumulation_steps": 2, **more}
    reference = replace(diagnosed.prepared.reference, run_id=None)
    prepared = replace(diagnosed.prepared, reference=reference, trajectory_path=None, facts=facts)
    known = known_training(replace(diagnosed, prepared=prepared), Tracking()).part("loop")
    assert (known.get("batch_size"), known["accumulation"]) == (batch_size, accumulation)


def with_adapter(diagnosed: Diagnosed, base: Path, folder: Path, **options: Any) -> Diagnosed:  # noqa: ANN401 (PEFT's)
    """The same diagnosis of somebody's adapter, about whose training the training record tells."""
    config = peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options})
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(folder))
    reference = replace(diagnosed.prepared.reference, run_id=None, kind="adapter", model_dir=folder)
    facts = {**diagnosed.prepared.facts, "model_digest": "another"}
    return replace(diagnosed, prepared=replace(diagnosed.prepared, reference=reference, facts=facts))


def test_an_adapter_is_trained_again_in_the_shape_in_which_it_was_saved(
    diagnosed: Diagnosed, place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    plain = recipe_of(with_adapter(diagnosed, place.base, folder), Tracking())
    own = recipe_of(
        with_adapter(diagnosed, place.base, folder, use_rslora=True, modules_to_save=["lm_head"]), Tracking()
    )
    assert own.digest != plain.digest
    assert "of rank 2 on q_proj, with modules_to_save, use_rslora, " in dict(own.where)["weights"]
    again = train_changed(own, Change(), seed=0, folder=tmp_path / "again")
    assert again.model is not None
    assert again.diverged is None
    save_model(again.model, own.tokenizer, tmp_path / "trained")
    (weights,) = (tmp_path / "trained").glob("*.safetensors")
    assert {name.split(".")[-2] for name in load_file(weights)} == {"lora_A", "lora_B", "lm_head"}
    measured, _ = Measurer(diagnosed)(again.model)
    assert measured.num_rows == len(own.samples)


def test_a_plain_adapter_may_stand_in_for_one_that_is_not_trained_here(
    diagnosed: Diagnosed, place: Place, tmp_path: Path
) -> None:
    stranger = with_adapter(diagnosed, place.base, tmp_path / "adapter", init_lora_weights="pissa")
    with pytest.raises(SettingsError, match=r"init_lora_weights = 'pissa', which is not trained here; .*--recipe"):
        recipe_of(stranger, Tracking())
    file = tmp_path / "recipe.yaml"
    file.write_text("method: lora\nlora.rank: 3\n")
    assert recipe_of(stranger, Tracking(), file=file).lora == LoraOptions(rank=3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loop: {rate: 1}", "has 'loop.rate', which is none"),
        ("epochs: none", "epochs = 'none'; expected a number above 0"),
        ("order: random", "order = 'random'; expected one of shuffled, sequential, file"),
        ("loop.batch_size: 2.5", "loop.batch_size = 2.5; expected a whole number"),
        ("epochs: .inf", "epochs = inf; expected a number above 0"),
        ("epochs: true", "epochs = True; expected a number above 0"),
        ("limit: 0", "limit = 0; expected a whole number of at least 1"),
        ("shuffle_inside: 1", "shuffle_inside = 1; expected true or false"),
        ("loop: {batch_size: 0}", "loop.batch_size = 0; expected a whole number of at least 1"),
        ("loop: {learning_rate: .nan}", "loop.learning_rate = nan; expected a number above 0"),
        ("loop: {warmup: 3}", "loop.warmup = 3; expected a number from 0 to 1"),
        ("loop: {seed: -1}", "loop.seed = -1; expected a whole number from 0 to 4294967295"),
        ("lora: {targets: }", "lora.targets = None; expected a name of layers, or a list of them"),
        ("lora: {targets: [1]}", r"lora.targets = \[1\]; expected a name"),
        ("lora: {rank: 0}", "lora.rank = 0; expected a whole number of at least 1"),
        ("data: {max_length: long}", "data.max_length = 'long': Input should be a valid integer"),
        ("data: {max_length: 1}", "data.max_length = 1: Input should be greater"),
        ("- 1", "holds list; expected names with values"),
    ],
)
def test_a_recipe_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        read_recipe(file)


def test_a_recipe_file_may_leave_numbers_unset_and_write_them_in_any_way(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "epochs: 1.5\nlimit:\nloop: {save_every: , learning_rate: 1e-5, decay: cosine}\n"
        "data: {max_length: 9, append_eos: false}\nlora: {targets: q_proj}\n"
    )
    assert read_recipe(file) == {
        "epochs": 1.5,
        "limit": None,
        "loop.save_every": None,
        "loop.learning_rate": 1e-5,
        "loop.decay": "cosine",
        "data.max_length": 9,
        "data.append_eos": False,
        "lora.targets": ("q_proj",),
    }


@pytest.mark.parametrize(
    "text",
    [
        '[{"prompt": "a", "response": "b"}]',
        '{"data": [{"prompt": "a", "response": "b"}]}',
        '{"request": 1, "result": {"model": "x"}}',
        '{"request": {"loop": {}, "data_settings": []}, "result": {"model": "x"}}',
        "no json",
    ],
)
def test_data_that_is_called_train_json_is_no_record_of_the_training(
    diagnosed: Diagnosed, tmp_path: Path, text: str
) -> None:
    (tmp_path / "train.json").write_text(text)
    reference = replace(diagnosed.prepared.reference, run_id=None, model_dir=tmp_path / "model")
    prepared = replace(diagnosed.prepared, reference=reference, facts={"seed": 3}, trajectory_path=None)
    assert known_training(replace(diagnosed, prepared=prepared), Tracking()).values == {"loop.seed": 3}


@pytest.mark.parametrize("order", ["shuffled", "sequential", "file"])
def test_counts_of_the_record_are_kept_whatever_the_order_and_the_seed(order: str) -> None:
    ids = tuple(f"s{number}" for number in range(12))
    subsets = ("a",) * 6 + ("b",) * 6
    counts = {"s0": 0, "s1": 1, "s2": 7, "s7": 2, "s9": 3}
    schedule = Schedule(ids, subsets, order, True, 3, counts)
    for seed in (0, 5):
        course = schedule(seed)
        assert {key: course.exposures.get(key, 0) for key in ids} == {**dict.fromkeys(ids, 3), **counts}
        if order == "sequential":
            assert all(len({subsets[ids.index(key)] for key in part}) == 1 for part in course.passes)
    assert schedule(5) == schedule(5)


def test_the_order_of_subsets_is_seen_in_when_their_exposures_grow() -> None:
    def record(grown: dict[str, list[int]]) -> pa.Table:
        rows = [
            {"sample_id": subset, "subset": subset, "step": step, "exposures": count}
            for subset, counts in grown.items()
            for step, count in enumerate(counts)
        ]
        return pa.Table.from_pylist(rows, schema=TRAJECTORY)

    assert order_of(record({"a": [0, 1, 2, 2, 2], "b": [0, 0, 1, 2, 3]}), ("a", "b")) == "sequential"
    assert order_of(record({"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 3, 4]}), ("a", "b")) == "shuffled"
    assert order_of(record({"a": [0, 4], "b": [0, 4]}), ("a", "b")) is None
    assert order_of(None, ("a", "b")) is None
    assert order_of(None, ("a",)) == "shuffled"


def test_who_says_what_is_told_once() -> None:
    values = {"loop.seed": 1, "loop.batch_size": 2, "order": "file"}
    known = KnownTraining(values, dict(zip(values, ("A", "B", "A"), strict=True)))
    assert known.said_by("loop.") == "A, B"
    assert known.said_by("order") == "A"
    assert known.part("loop") == {"seed": 1, "batch_size": 2}
