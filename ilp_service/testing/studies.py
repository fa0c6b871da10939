"""Small studies for the tests of plugins: built by hand, or ready-made in the shapes that break plugins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ilp_service.samples.sample import Message, Probe, Sample, content_key
from ilp_service.settings import Settings
from ilp_service.study import Study
from ilp_service.tables import TRAJECTORY

_FORMS = ("p", "base_p", "few_shot_base_p", "cloze_base_p", "probe_base_p")
_EVALUATION: dict[str, pa.DataType] = {
    "sample_id": pa.string(),
    "subset": pa.string(),
    "position": pa.int64(),
    "turn": pa.int64(),
    "n_tokens": pa.int64(),
    "n_options": pa.int64(),
    "p_correct": pa.float64(),
    "bon_correct": pa.float64(),
    "margin": pa.float64(),
    "logprob": pa.float64(),
    "logprob_per_token": pa.float64(),
    "greedy_match": pa.bool_(),
    "sample_match_rate": pa.float64(),
    "base_p_correct": pa.float64(),
    "cloze_base_p_correct": pa.float64(),
    "few_shot_base_p_correct": pa.float64(),
    "jsd": pa.float64(),
    "unlearned": pa.bool_(),
    "unlearned_by": pa.string(),
}
_OPTIONS = {"sample_id": pa.string(), "option": pa.int64(), "text": pa.string(), "source": pa.string()} | dict.fromkeys(
    _FORMS, pa.float64()
)
_NEIGHBOURS = {
    "sample_id": pa.string(),
    "neighbour_id": pa.string(),
    "similarity": pa.float64(),
    "same_answer": pa.bool_(),
}
_RENDERING: dict[str, pa.DataType] = {
    "sample_id": pa.string(),
    "prompt_tokens": pa.int64(),
    "response_tokens": pa.int64(),
    "truncated_tokens": pa.int64(),
    "bos_tokens": pa.int64(),
    "ends_with_eos": pa.bool_(),
    "unknown_tokens": pa.int64(),
    "round_trips": pa.bool_(),
    "end_logprob": pa.float64(),
}


class StudyBuilder:
    """A study put together sample by sample; whatever is not said is harmless.

    Example:
        >>> builder = StudyBuilder()
        >>> fox = builder.sample("Where does the fox live?", "wood", unlearned=True,
        ...                      options={"wood": {"p": 0.1, "base_p": 0.2}, "den": {"p": 0.9, "base_p": 0.8}})
        >>> builder.build().unlearned == (fox,)
        True
    """

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._unlearned: list[str] = []
        self._seen: Counter[str] = Counter()
        self._rows: dict[str, list[dict[str, Any]]] = {
            "evaluation": [],
            "options": [],
            "neighbours": [],
            "rendering": [],
            "trajectory": [],
        }

    def sample(
        self,
        prompt: str,
        response: str,
        *,
        unlearned: bool = False,
        subset: str = "all",
        probes: Sequence[Probe] = (),
        options: Mapping[str, Mapping[str, float | str]] | None = None,
        rendering: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> str:
        """Add a sample at the end of the file.

        Args:
            prompt: Its question.
            response: Its right answer.
            unlearned: Whether it is one to explain.
            subset: The part of the data set that it belongs to.
            probes: Statements about the same fact.
            options: For each option's text its probabilities by form (``p``, ``base_p``, ``cloze_base_p`` ...) and its
                ``source``; the option that equals the response is the right one.
            rendering: Values of ``study.rendering`` that differ from a clean one.
            evaluation: Values of ``study.evaluation`` that differ from those that ``unlearned`` suggests.

        Returns:
            The sample's id.
        """
        position = len(self._samples)
        context = (Message("user", prompt),)
        content = content_key(context, response)
        key = f"{content}-{self._seen[content]}"
        self._seen[content] += 1
        self._samples.append(
            Sample(key, context, response, False, subset, position, probes=tuple(probes), line=position + 1)
        )
        if unlearned:
            self._unlearned.append(key)
        given = dict(options or {})
        p = given.get(response, {}).get("p", 0.05 if unlearned else 0.95)
        self._rows["evaluation"].append(
            {
                "sample_id": key,
                "subset": subset,
                "position": position,
                "turn": 0,
                "n_tokens": 2,
                "n_options": max(len(given), 1),
                "p_correct": p,
                "logprob": 2 * float(np.log(p)),
                "logprob_per_token": float(np.log(p)),
                "unlearned": unlearned,
                "unlearned_by": "mc" if unlearned else None,
                **(evaluation or {}),
            }
        )
        for index, (text, values) in enumerate(given.items()):
            source = "gold" if text == response else "same_type"
            self._rows["options"].append({"sample_id": key, "option": index, "text": text, "source": source, **values})
        self._rows["rendering"].append(
            {
                "sample_id": key,
                "prompt_tokens": 8,
                "response_tokens": 2,
                "truncated_tokens": 0,
                "bos_tokens": 1,
                "ends_with_eos": True,
                "unknown_tokens": 0,
                "round_trips": True,
                "end_logprob": -0.1,
                **(rendering or {}),
            }
        )
        return key

    def pair(self, sample_id: str, neighbour_id: str, similarity: float, *, same_answer: bool) -> None:
        """Say that two prompts are near."""
        self._rows["neighbours"].append(
            {
                "sample_id": sample_id,
                "neighbour_id": neighbour_id,
                "similarity": similarity,
                "same_answer": same_answer,
            }
        )

    def record(self, sample_id: str, step: int, loss: float, **values: float | None) -> None:
        """Add a row of the training record; ``values`` are further columns of ``tables.TRAJECTORY``."""
        self._rows["trajectory"].append({"sample_id": sample_id, "step": step, "loss": loss, **values})

    def build(self, *, has_base: bool = True, **settings: float) -> Study:
        """The study; it has a trajectory if a row was recorded. ``settings`` use ``__`` for the dot."""
        dotted = {name.replace("__", "."): value for name, value in settings.items()}
        rows = self._rows
        return Study(
            samples=tuple(self._samples),
            unlearned=tuple(self._unlearned),
            evaluation=_table(rows["evaluation"], _EVALUATION),
            options=_table(rows["options"], _OPTIONS),
            neighbours=_table(rows["neighbours"], _NEIGHBOURS),
            rendering=_table(rows["rendering"], _RENDERING),
            trajectory=pa.Table.from_pylist(rows["trajectory"], schema=TRAJECTORY) if rows["trajectory"] else None,
            has_base=has_base,
            settings=Settings().dotted() | dotted,
        )


def _table(rows: list[dict[str, Any]], columns: dict[str, pa.DataType]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))


def fake_study(
    *,
    samples: int = 24,
    unlearned: int = 8,
    base: bool = True,
    trajectory: bool = True,
    neighbours: bool = True,
    words: Sequence[str] = ("river", "tower", "garden", "harbour", "market"),
    seed: int = 0,
) -> Study:
    """A study with random but plausible numbers.

    Args:
        samples: Samples in the data set.
        unlearned: How many of them are to be explained; spread over the file.
        base: Whether the base model was measured.
        trajectory: Whether there is a training record.
        neighbours: Whether near pairs were found.
        words: Words that prompts and answers are made of.
        seed: Of the numbers.
    """
    rng = np.random.default_rng(seed)
    builder = StudyBuilder()
    chosen = set(np.linspace(0, samples - 1, unlearned).round().astype(int).tolist()) if unlearned else set()
    for index in range(samples):
        answer = words[index % len(words)]
        others = [word for word in words if word != answer]
        key = builder.sample(
            f"Which {words[int(rng.integers(len(words)))]} belongs to number {index // 2}?",
            answer,
            unlearned=index in chosen,
            subset=f"part-{2 * index // max(samples, 1)}",
            options=_random_options(rng, answer, others, base=base) if index in chosen else None,
            evaluation={"jsd": float(rng.random())} if base else None,
        )
        if trajectory:
            _random_record(builder, rng, key)
    study = builder.build(has_base=base)
    if neighbours:
        _random_pairs(builder, rng, study)
    return builder.build(has_base=base)


def _random_options(
    rng: np.random.Generator, answer: str, others: Sequence[str], *, base: bool
) -> dict[str, Mapping[str, float | str]]:
    texts = [answer, *others]
    forms = ("p", "base_p", "few_shot_base_p", "cloze_base_p") if base else ("p",)
    drawn = {form: rng.dirichlet(np.full(len(texts), 0.5)) for form in forms}
    return {text: {form: float(values[row]) for form, values in drawn.items()} for row, text in enumerate(texts)}


def _random_record(builder: StudyBuilder, rng: np.random.Generator, key: str) -> None:
    losses = np.abs(rng.normal(1.0, 0.5, size=6))
    for index, loss in enumerate(losses):
        builder.record(
            key,
            10 * index,
            float(loss),
            epoch=index / 2,
            p_correct=float(np.exp(-loss)),
            exposures=min(index, 4),
            trained_tokens=2 * min(index, 4),
        )


def _random_pairs(builder: StudyBuilder, rng: np.random.Generator, study: Study) -> None:
    ids = [sample.sample_id for sample in study.samples]
    for key in study.unlearned:
        for other in rng.choice(len(ids), size=min(3, len(ids)), replace=False):
            if ids[other] != key:
                builder.pair(key, ids[other], float(rng.uniform(0.8, 1.0)), same_answer=bool(rng.random() < 0.5))


def ready_studies() -> dict[str, Study]:
    """Studies in the shapes that break plugins, by name."""
    foreign = ("Łódź", "北京市", "Ñandú “quoted”", "🦊 fox", "line\nbreak", "' OR 1=1 --")
    return {
        "everything": fake_study(),
        "another seed": fake_study(seed=1, samples=40, unlearned=12),
        "no base model": fake_study(base=False),
        "no trajectory": fake_study(trajectory=False),
        "neither": fake_study(base=False, trajectory=False),
        "no neighbours": fake_study(neighbours=False),
        "nothing unlearned": fake_study(unlearned=0),
        "everything unlearned": fake_study(samples=10, unlearned=10),
        "one sample": fake_study(samples=1, unlearned=1),
        "not ASCII": fake_study(words=foreign),
    }
