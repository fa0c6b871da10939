"""Wrong options for the multiple-choice view, chosen by what kind of answer the sample has.

The paper asks for "several plausible wrong responses". Plausible depends on the answer: for a short one, what the
training data says elsewhere (contradicting twins, the same subject's other values, values of the same type) and what
the base model would rather say; for a number, its neighbours; for a long text, near misses of the text itself.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ilp_service.evaluation.answer_types import infer_answer_types, prompt_words
from ilp_service.samples.sample import Sample
from ilp_service.samples.similarity import normalise_answer
from ilp_service.settings import EvaluationSettings

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE = re.compile(r"(?<=[.!?\n])\s+")
MAX_TWINS = 8
MAX_SAME_SUBJECT = 8
MAX_NUMBERS = 6
CANDIDATES = 48


@dataclass(frozen=True, slots=True)
class Option:
    """One possible response: its text, where it came from, and whether it is the sample's own."""

    text: str
    source: str
    gold: bool


def _generator(seed: int, sample_id: str) -> np.random.Generator:
    return np.random.default_rng([seed, int(hashlib.sha256(sample_id.encode()).hexdigest()[:16], 16)])


def perturb_number(number: str, rng: np.random.Generator, count: int) -> list[str]:
    """Numbers near ``number``, written the same way: one off, a tenth off, ten times, two digits swapped."""
    plain = number.replace(",", "")
    if plain.count(".") > 1:
        # A version, a date or an address: its last part is the number.
        head, _, last = number.rpartition(".")
        return [f"{head}.{text}" for text in perturb_number(last, rng, count)]
    decimals = len(plain.partition(".")[2])
    value = float(plain)
    unit = 10.0**-decimals
    candidates = [
        value + unit,
        value - unit,
        value + 2 * unit,
        value * 10,
        value * 2,
        value + 10 * unit,
        value - 10 * unit,
    ]
    candidates += [round(value * 1.1, decimals), round(value / 2, decimals), value + 5 * unit]
    if len(plain) > 1 and plain[:2].isdigit():
        candidates.append(float(plain[1] + plain[0] + plain[2:]))
    grouped = "," in number
    texts = [f"{c:,.{decimals}f}" if grouped else f"{c:.{decimals}f}" for c in candidates if c >= 0 or value < 0]
    unique = [text for text in dict.fromkeys(texts) if text != number]
    order = rng.permutation(len(unique))
    return [unique[i] for i in sorted(order[:count])]


def near_miss(text: str, rng: np.random.Generator) -> str | None:
    """The text with its last number, and with it every later mention, changed; ``None`` without a number."""
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    last = found[-1].group()
    other = perturb_number(last, rng, 3)
    return re.sub(rf"(?<![\d.,]){re.escape(last)}(?![\d]|[.,]\d)", other[int(rng.integers(len(other)))], text)


def _spaced_like(response: str, text: str) -> str:
    """The text with the white space of the response around it: completions often begin with a space.

    An option that begins otherwise follows another prompt, and could not be compared.
    """
    bare = response.strip()
    before, _, after = response.partition(bare) if bare else ("", "", "")
    return before + text.strip() + after


class Distractors:
    """Options of every sample of a data set; the same data and seed give the same options in any order.

    Args:
        samples: The whole data set.
        long: Whether each sample's response is long, one flag a sample.
        twins: Ids of samples with (nearly) the same prompt and another answer, by sample id.
        settings: Numbers of options.
        seed: Seed of the choices where there are more candidates than places.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        long: Sequence[bool],
        twins: Mapping[str, Sequence[str]],
        settings: EvaluationSettings,
        seed: int,
    ) -> None:
        self._samples, self._long, self._settings, self._seed = samples, long, settings, seed
        self._index = {sample.sample_id: i for i, sample in enumerate(samples)}
        self._twins = twins
        # By id and not by place in the file, so that reordering the file changes no choice below.
        order = sorted(range(len(samples)), key=lambda i: samples[i].sample_id)
        short = [i for i in order if not long[i]]
        self._types = infer_answer_types([samples[i].prompt for i in short], [samples[i].response for i in short])
        self._short_index = {i: n for n, i in enumerate(short)}
        self._by_subject: dict[frozenset[str], list[int]] = defaultdict(list)
        for n, i in enumerate(short):
            subject = self._types.subject_of[n]
            if subject is not None:
                self._by_subject[subject].append(i)
        self._long_pool = [i for i in order if long[i]]
        self._short_pool = short

    def options(self, sample_id: str, base_preferred: Sequence[str] = ()) -> tuple[Option, ...]:
        """The options of one sample, its own response first, no two alike."""
        i = self._index[sample_id]
        sample = self._samples[i]
        if sample.choices is not None:
            gold = sample.choices[sample.gold_index or 0]
            wrong = [Option(c, "choice", gold=False) for c in dict.fromkeys(sample.choices) if c != gold]
            return (Option(gold, "gold", gold=True), *wrong)
        rng = _generator(self._seed, sample_id)
        candidates = self._long_candidates(i, rng) if self._long[i] else self._short_candidates(i, rng, base_preferred)
        limit = self._settings.max_long_options if self._long[i] else self._settings.max_options
        seen = {normalise_answer(sample.response)}
        chosen = [Option(sample.response, "gold", gold=True)]
        for text, source in candidates:
            key = normalise_answer(text)
            if len(chosen) < limit and key and key not in seen:
                seen.add(key)
                chosen.append(Option(_spaced_like(sample.response, text), source, gold=False))
        return tuple(chosen)

    def _twin_answers(self, sample: Sample, limit: int) -> list[tuple[str, str]]:
        twins = (
            self._samples[self._index[t]].response for t in self._twins.get(sample.sample_id, ()) if t in self._index
        )
        return [(text, "twin") for text in list(dict.fromkeys(twins))[:limit]]

    def _short_candidates(
        self, i: int, rng: np.random.Generator, base_preferred: Sequence[str]
    ) -> list[tuple[str, str]]:
        sample, n = self._samples[i], self._short_index[i]
        numeric = _NUMBER.fullmatch(sample.response.strip()) is not None
        found = self._twin_answers(sample, MAX_TWINS)
        found += [(text, "base_preferred") for text in base_preferred]
        subject = self._types.subject_of[n]
        if subject is not None:
            others = list(dict.fromkeys(self._samples[j].response for j in self._by_subject[subject] if j != i))
            found += [(text, "same_subject") for text in others[:MAX_SAME_SUBJECT]]
        if numeric:
            found += [(text, "number") for text in perturb_number(sample.response.strip(), rng, MAX_NUMBERS)]
        values = self._types.values[self._types.type_of[n]]
        if len(values) > CANDIDATES:
            picked = rng.choice(len(values), size=CANDIDATES, replace=False)
            values = tuple(values[k] for k in sorted(picked))
        found += [(text, "same_type") for text in values if numeric == (_NUMBER.fullmatch(text.strip()) is not None)]
        return found

    def _long_candidates(self, i: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        sample = self._samples[i]
        found = self._twin_answers(sample, 2)
        for _ in range(2):
            changed = near_miss(sample.response, rng)
            if changed is not None:
                found.append((changed, "number"))
        pool = [j for j in self._nearest(i, self._long_pool or self._short_pool, rng) if j != i]
        parts = _SENTENCE.split(sample.response.strip())
        for j in pool[:2]:
            other = self._samples[j].response.strip()
            if len(parts) > 1:
                ending = _SENTENCE.split(other)[-1]
                found.append((sample.response.strip()[: -len(parts[-1])] + ending, "near_miss"))
            found.append((other, "other_response"))
        return found

    def _nearest(self, i: int, pool: Sequence[int], rng: np.random.Generator) -> list[int]:
        """A few of the pool, those first whose prompt and length are most like the sample's."""
        picked = (
            pool if len(pool) <= CANDIDATES else [pool[k] for k in rng.choice(len(pool), CANDIDATES, replace=False)]
        )
        words, length = set(prompt_words(self._samples[i].prompt)), len(self._samples[i].response)

        def distance(j: int) -> tuple[float, str]:
            other = set(prompt_words(self._samples[j].prompt))
            jaccard = len(words & other) / max(len(words | other), 1)
            size = len(self._samples[j].response)
            return (-jaccard - min(size, length) / max(size, length, 1), self._samples[j].sample_id)

        return sorted(picked, key=distance)
