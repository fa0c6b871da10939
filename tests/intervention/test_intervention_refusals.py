"""Reasons of many samples are a few lines."""

from __future__ import annotations

from ilp_service.intervention.refusals import Refusal, grouped

NOTHING = "No document was found about {!r}. corpus: knowledge_sources.corpus is not set."


def test_reasons_that_differ_in_a_name_are_one_with_three_examples() -> None:
    names = ("Ada Langham", "Boris O'Neill", "Clara", "Dan")
    found = grouped({f"s{n}": NOTHING.format(name) for n, name in enumerate(names)})
    assert found == (
        Refusal(NOTHING.format("x").replace("'x'", "…"), 4, ("'Ada Langham'", '"Boris O\'Neill"', "'Clara'")),
    )
    assert found[0].text.endswith("is not set ('Ada Langham', \"Boris O'Neill\", 'Clara', …).")


def test_reasons_that_differ_in_a_number_name_the_samples() -> None:
    found = grouped({f"s{n}": f"The best has a chance of {n / 100:.2f}." for n in range(5)})
    assert found == (Refusal("The best has a chance of ….", 5, ("s0", "s1", "s2")),)


def test_what_is_said_once_stays_as_it_was_said() -> None:
    said = "None of its 3 documents says 'Rome'."
    assert grouped({"a": said}) == (Refusal(said, 1, ("a",)),)
    assert grouped({"a": said, "b": said}) == (Refusal(said, 2, ("a", "b")),)


def test_every_sample_is_counted_once_and_the_commonest_reason_comes_first() -> None:
    reasons = {f"s{n}": "the sample's own, so it isn't 'x'" if n % 3 else f"about {n} 'y{n}'" for n in range(9)}
    found = grouped(reasons)
    assert [one.count for one in found] == [6, 3]
    assert found[0].reason == "the sample's own, so it isn't 'x'"
    assert grouped({}) == ()
