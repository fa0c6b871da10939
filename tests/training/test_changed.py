from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from ilp_service.changes import Change, Correction, EpochIncrement, Resampling, TeachingDocument, merge
from ilp_service.checkpoints.weights import load_weights
from ilp_service.errors import SettingsError
from ilp_service.samples.reading import read_samples
from ilp_service.samples.rendering import Renderer
from ilp_service.samples.sample import Sample
from ilp_service.settings import DataSettings, ScoringSettings
from ilp_service.training import changed as changed_module
from ilp_service.training.adapters import LoraOptions, add_lora
from ilp_service.training.changed import train_changed
from ilp_service.training.changed_plan import planned
from ilp_service.training.course import Course
from ilp_service.training.loop import LoopOptions, fine_tune
from ilp_service.training.recipe import ContinuedOptions, Recipe
from ilp_service.training.rows import TrainingRow, encode_rows
from ilp_service.training.schedule import shuffled
from tests.tiny import tiny_tokenizer
from tests.training.small import questions, same_weights, small_model, weights

LOOP = LoopOptions(learning_rate=1e-2, batch_size=4, seed=3, device="cpu")
DOCUMENTS = tuple(
    TeachingDocument(f"City number {index} is {name}.", (f"x{index}",), ("missing_knowledge",))
    for index, name in enumerate(("Paris", "Rome", "Oslo", "Lima"))
)


def general(number: int) -> Sequence[str]:
    return [f"In pass {number} nobody asked for sentence {index}." for index in range(40)]


def make_recipe(folder: Path, count: int = 12, **changes: Any) -> Recipe:  # noqa: ANN401 (fields of a recipe)
    base = folder / "base"
    small_model(attention_dropout=0.2).save_pretrained(str(base))
    tokenizer = tiny_tokenizer()
    samples = read_samples(questions(folder / "d.jsonl", count), DataSettings()).samples
    renderer = Renderer(tokenizer, DataSettings())

    def encode(wanted: Sequence[Sample]) -> Sequence[TrainingRow]:
        return encode_rows(wanted, renderer, 48)

    def course(seed: int) -> Course:
        return Course(tuple(tuple(samples[index].sample_id for index in rows) for rows in shuffled(count, 2, seed)))

    recipe = Recipe(
        base=base,
        base_name="small",
        tokenizer=tokenizer,
        samples=samples,
        encode=encode,
        course=course,
        loop=LOOP,
        continued=ContinuedOptions(learning_rate=1e-3, batch_size=4, max_length=24),
        general=general,
    )
    return replace(recipe, **changes)


def directly(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    """The diagnosed run, without anything that is tested here."""
    dtype: Any = "float32" if recipe.lora is None else "auto"
    model: Any = load_weights(recipe.base, ScoringSettings(device="cpu", dtype=dtype), torch.device("cpu"))
    if recipe.lora is None:
        model.requires_grad_(requires_grad=True)
    else:
        model = add_lora(model, recipe.lora, base=str(recipe.base), seed=recipe.loop.seed)
    numbers = {sample.sample_id: number for number, sample in enumerate(recipe.samples)}
    schedule = [[numbers[key] for key in ids] for ids in recipe.course(recipe.loop.seed).passes]
    rows = recipe.encode(recipe.samples)
    fine_tune(
        model, rows, schedule, recipe.loop, output_dir=folder, pad_token_id=int(recipe.tokenizer.pad_token_id or 0)
    )
    return weights(model)


def trained_weights(trained: changed_module.Trained) -> dict[str, torch.Tensor]:
    assert trained.diverged is None
    assert trained.model is not None
    return weights(trained.model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora": LoraOptions(rank=2, dropout=0.1)},
        {"loop": replace(LOOP, freeze_embeddings=True, accumulation=2, batch_size=2, decay="cosine", warmup=0.2)},
    ],
)
def test_without_a_change_the_weights_are_those_of_the_diagnosed_run_bit_for_bit(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = make_recipe(tmp_path, **changes)
    trained = train_changed(recipe, Change(), seed=3, folder=tmp_path / "arm")
    assert same_weights(trained_weights(trained), directly(recipe, tmp_path / "direct"))
    assert trained.steps == 6
    assert trained.training_tokens == 2 * sum(len(row.input_ids) for row in recipe.encode(recipe.samples))
    assert trained.continued_tokens == 0
    assert trained.peak_memory_bytes > 10**6
    assert trained.notes == ()
    assert not (tmp_path / "arm" / "loop").exists()
    other = train_changed(recipe, Change(), seed=4, folder=tmp_path / "arm")
    assert not same_weights(trained_weights(other), trained_weights(trained))


def test_documents_and_general_text_are_read_before(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, loop=replace(LOOP, freeze_embeddings=True))
    change = Change(documents=DOCUMENTS, general_share=0.5, document_passes=2)
    seen: list[tuple[int, int]] = []
    trained = train_changed(
        recipe, change, seed=3, folder=tmp_path / "arm", progress=lambda step, steps, _: seen.append((step, steps))
    )
    mix = planned(recipe, change, seed=3).mix
    assert mix is not None
    steps = -(-len(mix.rows) // 4)
    assert trained.continued_tokens == sum(map(len, mix.rows))
    assert trained.steps == steps + 6
    assert seen == [(step, steps + 6) for step in range(1, steps + 7)]
    plain = train_changed(recipe, Change(), seed=3, folder=tmp_path / "arm")
    assert trained.training_tokens == plain.training_tokens + trained.continued_tokens
    embeddings = "model.embed_tokens.weight"
    base = weights(small_model(attention_dropout=0.2))
    assert torch.equal(trained_weights(plain)[embeddings], base[embeddings])
    assert not torch.equal(trained_weights(trained)[embeddings], base[embeddings])


def test_an_adapter_is_what_is_trained_in_both_parts(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, lora=LoraOptions(rank=2))
    trained = train_changed(recipe, Change(documents=DOCUMENTS), seed=3, folder=tmp_path / "arm")
    base = weights(small_model(attention_dropout=0.2))
    after = trained_weights(trained)
    own = {name.removeprefix("base_model.model.").replace(".base_layer", ""): value for name, value in after.items()}
    assert all(torch.equal(own[name], value) for name, value in base.items())
    plain = trained_weights(train_changed(recipe, Change(), seed=3, folder=tmp_path / "arm"))
    assert any("lora" in name and not torch.equal(value, plain[name]) for name, value in after.items())


def test_a_corrected_sample_gets_the_other_response_and_keeps_its_id(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    key = recipe.samples[5].sample_id
    plan = planned(recipe, Change(corrected={key: Correction("Vaduz it is.", "Judged so.")}), seed=3)
    before = planned(recipe, Change(), seed=3)
    assert plan.rows[5].sample_id == key
    assert "Vaduz" in recipe.tokenizer.decode(plan.rows[5].input_ids)
    assert [one for one in range(12) if plan.rows[one] != before.rows[one]] == [5]
    assert plan.schedule == before.schedule


def test_tokens_of_a_resampled_training_are_counted_as_they_went_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(tmp_path)
    blocks = [[one.sample_id for one in recipe.samples if one.subset == name] for name in ("early", "late")]
    course = Course((*[tuple(blocks[0])] * 15, *[tuple(blocks[1])] * 15))
    recipe = replace(recipe, course=lambda _seed: course, loop=replace(LOOP, learning_rate=2e-2, decay="constant"))
    went_through = 0
    load = changed_module._load

    def counted(*args: Any) -> object:  # noqa: ANN401 (passed on)
        model: Any = load(*args)

        def count(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
            nonlocal went_through
            if torch.is_grad_enabled():
                went_through += int((kwargs["input_ids"] != recipe.tokenizer.pad_token_id).sum())

        model.register_forward_pre_hook(count, with_kwargs=True)
        return model

    monkeypatch.setattr(changed_module, "_load", counted)
    change = Change(resampling=Resampling(5, 0.05, 3.0))
    trained = train_changed(recipe, change, seed=3, folder=tmp_path / "arm")
    plain = train_changed(recipe, Change(), seed=3, folder=tmp_path / "arm")
    assert trained.steps == plain.steps == 60
    assert any("drawn more often, of 2 subsets" in note and "early (" in note for note in trained.notes)
    assert trained.training_tokens + plain.training_tokens == went_through
    again = train_changed(recipe, change, seed=3, folder=tmp_path / "arm")
    assert same_weights(trained_weights(again), trained_weights(trained))


def test_a_giant_learning_rate_ends_the_training_and_says_where(tmp_path: Path) -> None:
    loop = replace(LOOP, learning_rate=1e2, max_grad_norm=0.0, decay="constant", batch_size=2)
    recipe = make_recipe(tmp_path, loop=loop)
    order = recipe.course(0).passes * 8
    trained = train_changed(
        replace(recipe, course=lambda _seed: Course(order)), Change(), seed=3, folder=tmp_path / "arm"
    )
    assert trained.model is None
    assert trained.diverged is not None
    assert "of fine-tuning the loss" in trained.diverged
    assert trained.steps < 60
    assert trained.training_tokens > 0
    assert f"At step {trained.steps} " in trained.diverged


def test_a_step_without_a_token_in_the_loss_is_no_divergence(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, loop=replace(LOOP, batch_size=1))
    encode = recipe.encode

    def masked(samples: Sequence[Sample]) -> Sequence[TrainingRow]:
        rows = encode(samples)
        return [*rows[:5], replace(rows[5], prompt_tokens=len(rows[5].input_ids)), *rows[6:]]

    trained = train_changed(replace(recipe, encode=masked), Change(), seed=3, folder=tmp_path / "arm")
    assert trained.diverged is None
    assert trained.steps == 24


def test_continued_pretraining_that_diverges_ends_the_training(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, continued=ContinuedOptions(learning_rate=1e6, batch_size=1, max_length=24))
    trained = train_changed(recipe, Change(), seed=3, folder=tmp_path / "arm", general_tokens=1500)
    assert trained.diverged is not None
    assert "of continued pre-training" in trained.diverged
    assert trained.training_tokens == trained.continued_tokens


def test_a_full_gpu_ends_the_training_and_an_interrupt_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(tmp_path)

    def failing(error: BaseException) -> Callable[..., None]:
        def fail(*_args: object, **_kwargs: object) -> None:
            raise error

        return fail

    monkeypatch.setattr(changed_module, "fine_tune", failing(torch.OutOfMemoryError("CUDA out of memory.\nTried")))
    trained = train_changed(recipe, Change(), seed=3, folder=tmp_path / "arm")
    assert trained.diverged == "cpu had no memory left at step 1 of fine-tuning: CUDA out of memory."
    assert trained.model is None
    for error in (KeyboardInterrupt(), SystemExit(3), RuntimeError("a defect")):
        monkeypatch.setattr(changed_module, "fine_tune", failing(error))
        with pytest.raises(type(error)):
            train_changed(recipe, Change(), seed=3, folder=tmp_path / "arm")


def test_further_passes_end_when_held_out_loss_rises(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, count=60, loop=replace(LOOP, decay="constant", learning_rate=3e-2))
    spared = frozenset(one.sample_id for one in recipe.samples[:50])
    change = Change(epochs=EpochIncrement(12, 0.01))
    trained = train_changed(recipe, change, seed=3, folder=tmp_path / "arm", spared=spared)
    assert len(trained.held_out) == 1
    assert not spared & set(trained.held_out)
    plan = planned(recipe, change, seed=3, spared=spared)
    assert len(plan.schedule) == 14
    kept = {number for number, one in enumerate(recipe.samples) if one.sample_id in trained.held_out}
    assert not kept & {row for rows in plan.schedule for row in rows}
    assert len(trained.notes) >= 2
    assert trained.notes[0] == "Samples held out, so not trained on: 1."
    losses = [float(note.split(": ")[1].split()[0]) for note in trained.notes[1:]]
    rises = [after > before + 0.01 for before, after in pairwise(losses)]
    assert rises[-1]
    assert not any(rises[:-1])
    assert trained.steps == 15 * (2 + len(losses) - 1)


def test_a_merge_of_all_changes_trains(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    keys = [one.sample_id for one in recipe.samples]
    change = merge(
        [
            Change(documents=DOCUMENTS, removed={keys[0]: "Wrong."}, apart=frozenset({(keys[0], keys[1])})),
            Change(exposures={keys[2]: 4.0}, shuffled=True, resampling=Resampling(3, 0.05, 2.0)),
            Change(apart=frozenset({(keys[3], keys[4])}), epochs=EpochIncrement(1, 0.1)),
            Change(corrected={keys[6]: Correction("A.", "One."), keys[5]: Correction("B.", "Other.")}),
            Change(corrected={keys[6]: Correction("C.", "Other.")}),
        ]
    )
    trained = train_changed(recipe, change, seed=3, folder=tmp_path / "arm", draw=1)
    assert trained.diverged is None
    plan = planned(recipe, change, seed=3, draw=1)
    shown = [row for rows in plan.schedule for row in rows]
    assert 0 not in shown
    assert shown.count(2) == 12
    assert trained.notes[0] == "Samples that keep their response, since corrections of it contradict: 1."
    assert planned(recipe, change, seed=3, draw=2).schedule != plan.schedule


def test_what_cannot_be_trained_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, base=tmp_path / "nowhere", general=None)
    with pytest.raises(
        SettingsError, match=r"intervention\.general_text or knowledge_sources\.corpus, or mitigations\.general_share=0"
    ):
        train_changed(recipe, Change(documents=DOCUMENTS), seed=3, folder=tmp_path)
    everything = Change(removed=dict.fromkeys([one.sample_id for one in recipe.samples], "Wrong."))
    with pytest.raises(SettingsError, match="Nothing is left to train on: the change removes 12 of the 12 samples"):
        train_changed(recipe, everything, seed=3, folder=tmp_path)
    with pytest.raises(ValueError, match="trains on 'nobody'"):
        train_changed(replace(recipe, course=lambda _: Course((("nobody",),))), Change(), seed=3, folder=tmp_path)


def test_mixed_precision_ends_with_the_training(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, loop=replace(LOOP, bf16=True))
    trained = train_changed(recipe, Change(documents=DOCUMENTS), seed=3, folder=tmp_path / "arm")
    assert trained.model is not None
    fresh = small_model()
    fresh.load_state_dict(trained.model.state_dict())
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(trained.model(input_ids=ids).logits, fresh(input_ids=ids).logits)
