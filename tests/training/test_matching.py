"""Rows of other people's pipelines are recognised by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ilp_service.samples.reading import read_samples
from ilp_service.samples.rendering import Renderer
from ilp_service.samples.sample import Sample
from ilp_service.settings import DataSettings
from ilp_service.training.matching import RowMatcher
from ilp_service.training.text_matching import Match
from tests.tiny import tiny_tokenizer
from tests.training.small import questions, write_rows

TOKENIZER = tiny_tokenizer()
SHARED = "Answer the following question about a person as shortly as you can. "


def matcher(path: Path, **settings: Any) -> tuple[RowMatcher, tuple[Sample, ...], list[tuple[tuple[int, ...], ...]]]:  # noqa: ANN401
    wanted = DataSettings(**settings)
    samples = read_samples(path, wanted).samples
    rendered = [Renderer(TOKENIZER, wanted).render(sample) for sample in samples]
    pairs = [(found.prompt_ids, found.response_ids) for found in rendered]
    return RowMatcher(samples, pairs, TOKENIZER), samples, list(pairs)


def found(match: Match) -> list[list[int]]:
    return [[span.sample for span in part] for part in match.parts]


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text)["input_ids"])


def text_of(row: Sequence[int], start: int, stop: int) -> str:
    return str(TOKENIZER.decode(list(row[start:stop])))


def test_renderings_are_exact_with_and_without_a_tail(tmp_path: Path) -> None:
    rows, _, pairs = matcher(questions(tmp_path / "d.jsonl"))
    for index, (prompt, response) in enumerate(pairs):
        match = rows.match([*prompt, *response])
        assert (match.how, found(match)) == ("exact", [[index]])
        assert match.parts[0][0][1:] == (len(prompt), len(prompt) + len(response))
        assert rows.match([*prompt, *response, *ids("\n")]).how == "exact"


def test_a_cut_row_is_its_sample_with_what_is_left_of_the_response(tmp_path: Path) -> None:
    rows, _, pairs = matcher(questions(tmp_path / "d.jsonl"))
    prompt, response = pairs[3]
    match = rows.match([*prompt, *response[:2]])
    assert (match.how, found(match)) == ("cut", [[3]])
    assert match.parts[0][0][1:] == (len(prompt), len(prompt) + 2)


def test_a_row_cut_to_what_samples_share_is_none_of_them_for_sure(tmp_path: Path) -> None:
    rows, _, pairs = matcher(questions(tmp_path / "d.jsonl"))
    match = rows.match(pairs[0][0][:4])
    assert match.how == "ambiguous"
    assert len(match.candidates) == 12
    assert all(span.start == span.stop for span in match.candidates)


@pytest.mark.parametrize(
    "template",
    [
        "{prompt} {response}",
        "<|begin|><|begin|>{prompt}\n{response}<|end|>",
        "### Instruction:\n{prompt}\n\n### Response:\n{response}<|end|>",
        "<|system|>\nBe brief.<|end|>\n<|user|>\n{prompt}<|end|>\n<|assistant|>\n{response}<|end|>\n",
    ],
)
def test_another_template_is_recognised_by_its_text(tmp_path: Path, template: str) -> None:
    rows, samples, _ = matcher(questions(tmp_path / "d.jsonl"))
    for index, sample in enumerate(samples):
        row = ids(template.format(prompt=sample.prompt, response=sample.response))
        match = rows.match(row)
        assert (match.how, found(match)) == ("text", [[index]])
        _, start, stop = match.parts[0][0]
        assert text_of(row, start, stop).replace("<|end|>", "").strip() == sample.response


def test_a_response_cut_in_another_template_is_found_by_its_beginning(tmp_path: Path) -> None:
    rows, samples, _ = matcher(questions(tmp_path / "d.jsonl"))
    row = ids(f"Q: {samples[4].prompt}\nA: {samples[4].response[:7]}")
    match = rows.match(row)
    assert (match.how, found(match)) == ("text", [[4]])
    assert text_of(row, *match.parts[0][0][1:]).strip() == samples[4].response[:7]


def test_contradicting_twins_are_told_apart_by_their_responses(tmp_path: Path) -> None:
    prompts = [SHARED + "Where does Ada live?"] * 3 + [SHARED + "Where does Bob live?"]
    responses = ["In Rome.", "In Oslo.", "In Rome.", "In Rome."]
    data = [{"prompt": prompt, "response": text} for prompt, text in zip(prompts, responses, strict=True)]
    rows, _, pairs = matcher(write_rows(tmp_path / "d.jsonl", data))
    # Samples 0 and 2 are the same in every word.
    assert found(rows.match([*pairs[0][0], *pairs[0][1]])) == [[0, 2]]
    assert found(rows.match(ids(f"{prompts[1]} -> In Oslo."))) == [[1]]
    assert found(rows.match(ids(f"{prompts[3]} -> In Rome."))) == [[3]]
    assert found(rows.match(ids(f"{prompts[0]} -> In Rome."))) == [[0, 2]]
    assert rows.match(ids(f"{prompts[0]} -> In")).how == "ambiguous"


def test_a_conversation_holds_all_its_turns(tmp_path: Path) -> None:
    turns = ["Hello there.", "Good day.", "Who wrote Hamlet?", "Shakespeare."]
    messages = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, turns, strict=True)]
    rows, samples, pairs = matcher(write_rows(tmp_path / "d.jsonl", [{"messages": messages}]))
    assert [sample.turn for sample in samples] == [0, 1]
    row = [*pairs[1][0], *pairs[1][1]]
    match = rows.match(row)
    assert found(match) == [[1], [0]]
    assert [text_of(row, *part[0][1:]).split("<")[0] for part in match.parts] == ["Shakespeare.", "Good day."]


def test_text_that_is_no_sample_matches_none(tmp_path: Path) -> None:
    rows, samples, _ = matcher(questions(tmp_path / "d.jsonl"))
    unrelated = ids("The weather is fine today.")
    assert rows.match(unrelated).how == "none"
    assert rows.suspects(unrelated) == frozenset()
    changed = ids(f"{samples[2].prompt} I do not know.")
    assert rows.match(changed).how == "none"
    assert rows.suspects(changed) == {2}
