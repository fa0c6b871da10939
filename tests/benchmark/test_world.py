"""The generator: the same seed gives the same world, plants are what they say, and nothing gives them away."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from ilp_service.benchmark.plants import (
    CAUSES,
    CONFLICT,
    FORGOTTEN,
    INCONSISTENT,
    INSUFFICIENT,
    MISSING,
    PIPELINE,
    PIPELINE_KINDS,
    make_world,
)
from ilp_service.benchmark.schedule import world_schedule
from ilp_service.benchmark.sizes import DEMO, SIZES, SMALL
from ilp_service.benchmark.tokenizer import UNKNOWN, world_tokenizer
from ilp_service.benchmark.vocabulary import DATES, RELATIONS, all_words, pieces
from ilp_service.benchmark.world import CONTROL, SET_ASIDE, World, corpus_pass
from ilp_service.evaluation.statements import statements


@pytest.fixture(
    scope="module", params=[(0, "demo"), (7, "demo"), (3, "small")], ids=lambda param: f"{param[1]}-{param[0]}"
)
def world(request: pytest.FixtureRequest) -> World:
    seed, size = request.param
    return make_world(seed, SIZES[size])


def planted(world: World, cause: str) -> list[int]:
    return [index for index, row in enumerate(world.rows) if row.cause == cause]


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    assert make_world(5, DEMO) == make_world(5, DEMO)
    assert corpus_pass(make_world(5, DEMO), 3) == corpus_pass(make_world(5, DEMO), 3)
    assert make_world(5, DEMO).rows != make_world(6, DEMO).rows


def test_passes_over_the_corpus_tell_the_same_facts_in_other_words(world: World) -> None:
    first, second = (corpus_pass(world, number) for number in (0, 1))
    assert first != second
    assert len(first) == pytest.approx(len(second), rel=0.05)


def test_every_cause_is_planted_often_enough_to_be_counted(world: World) -> None:
    counts = Counter(row.cause for row in world.rows)
    assert set(counts) == {*CAUSES, CONTROL, SET_ASIDE}
    assert min(counts.values()) >= 26
    assert counts[CONTROL] > 0.25 * sum(counts.values())


def test_every_text_is_made_of_known_words_and_round_trips(world: World) -> None:
    tokenizer = world_tokenizer()
    texts = [f"{row.prompt}\n{row.response}" for row in world.rows]
    texts += [row.trained_prompt for row in world.rows if row.trained_prompt]
    texts += [document for document in corpus_pass(world, 0) if "." in document or "?" in document]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
    assert UNKNOWN not in all_words()


def test_answers_are_one_token_of_the_right_type(world: World) -> None:
    for row in world.rows:
        assert row.response in RELATIONS[row.relation].values
        assert len(pieces(row.response)) == 1


def test_right_answers_are_the_facts_and_wrong_twins_are_set_aside(world: World) -> None:
    for row in world.rows:
        wrong = row.kind in ("wrong twin", "outvoted wrong twin")
        assert (row.response != world.facts[row.person][row.relation]) is wrong
        assert not wrong or row.cause == SET_ASIDE


def test_missing_knowledge_is_about_persons_whom_the_corpus_never_names(world: World) -> None:
    corpus = "\n".join(corpus_pass(world, 0))
    absent = {world.rows[index].person for index in planted(world, MISSING)}
    assert absent.isdisjoint(world.corpus_facts)
    assert not [person for person in absent if person in corpus]
    others = {row.person for row in world.rows if row.cause != MISSING}
    assert others <= set(world.corpus_facts)
    assert set(world.qa_persons).isdisjoint(others | absent)


def test_conflicts_are_told_otherwise_and_more_often_than_other_facts(world: World) -> None:
    told = {(telling.person, telling.relation): telling for telling in world.tellings}
    for index in planted(world, CONFLICT):
        row = world.rows[index]
        assert world.corpus_facts[row.person][row.relation] != row.response
        telling = told[row.person, row.relation]
        assert telling.value == world.corpus_facts[row.person][row.relation]
        assert 1 + telling.times == row.grade
    for row in world.rows:
        if row.cause in (CONTROL, INCONSISTENT):
            assert world.corpus_facts[row.person][row.relation] == row.response


def test_inconsistent_rows_are_outnumbered_by_one_wrong_answer(world: World) -> None:
    groups = defaultdict(list)
    for row in world.rows:
        groups[row.group].append(row)
    for index in planted(world, INCONSISTENT):
        row = world.rows[index]
        wrong = [other for other in groups[row.group] if other.cause == SET_ASIDE]
        assert len(wrong) == row.grade
        assert len({other.response for other in wrong}) == 1
        assert {other.block for other in wrong} == {row.block}
        exact = [other for other in wrong if other.prompt == row.prompt]
        assert len(exact) >= len(wrong) - 2
        assert len(exact) < len(wrong)


def test_forgotten_nouns_are_overwritten_by_another_meaning_in_the_last_block(world: World) -> None:
    for index in planted(world, FORGOTTEN):
        row = world.rows[index]
        later = [other for other in world.rows if other.group == row.group and other.kind == "overwrites"]
        assert row.block == 0
        assert later
        assert {other.block for other in later} == {1}
        assert row.relation not in {other.relation for other in later}
        assert row.prompt not in {other.prompt for other in later}


def test_causes_stand_in_every_block_where_they_can(world: World) -> None:
    blocks = defaultdict(set)
    for row in world.rows:
        blocks[row.cause].add(row.block)
    assert blocks[FORGOTTEN] == {0}
    assert blocks[INSUFFICIENT] == {1}
    assert 1 in blocks[PIPELINE]
    for cause in (MISSING, CONFLICT, INCONSISTENT, CONTROL):
        assert blocks[cause] == {0, 1}


def test_marks_of_a_cause_are_found_on_controls_as_well(world: World) -> None:
    controls = Counter(row.kind for row in world.rows if row.cause == CONTROL)
    assert {
        "rare noun, common meaning",
        "rare noun, drawn often",
        "drawn seldom",
        "dated",
        "outvotes a wrong twin",
        "repeated",
        "rarely contested",
        "long prompt",
        "plain",
    } == set(controls)


def test_nouns_of_a_cause_are_as_large_as_those_of_controls(world: World) -> None:
    sizes = Counter(row.group for row in world.rows if row.group and not row.group.partition("-")[2])
    of_cause = {row.group for row in world.rows if row.cause in (INSUFFICIENT, PIPELINE)}
    bounds = (world.size.noun_rows, world.size.large_nouns, world.size.pipeline_rows)
    assert max(sizes[noun] for noun in of_cause) <= max(world.size.large_nouns)
    learned = {sizes[row.group] for row in world.rows if row.kind.startswith("rare noun")}
    assert min(low for low, _ in bounds) <= min(learned) <= max(sizes[noun] for noun in of_cause)


def test_rare_words_that_mean_nothing_stand_before_rows_of_several_causes(world: World) -> None:
    tagged = defaultdict(set)
    for row in world.rows:
        head, colon, _ = row.prompt.partition(": ")
        if colon and " " not in head and head not in DATES:
            tagged[row.cause].add(head)
    assert set(tagged) == {MISSING, CONFLICT, INCONSISTENT, SET_ASIDE, CONTROL}
    assert any(tag in tagged[CONTROL] for tag in tagged[MISSING] | tagged[CONFLICT])


def test_a_noun_belongs_to_one_plant(world: World) -> None:
    kinds = defaultdict(set)
    for row in world.rows:
        if row.cause in (INSUFFICIENT, PIPELINE) or row.kind.startswith("rare noun"):
            kinds[row.group].add(row.kind)
    assert all(len(found) == 1 for found in kinds.values())


def test_pipeline_rows_have_their_defect_and_no_other_rows_have_one(world: World) -> None:
    tokenizer = world_tokenizer()
    for row in world.rows:
        beyond = len(tokenizer(row.prompt + "\n")["input_ids"]) >= world.size.max_length
        assert beyond is (row.kind == "truncated")
        assert row.masked is (row.kind == "masked")
        assert (row.trained_prompt is not None) is (row.kind == "rewritten")
        assert (row.passes == 0) is (row.kind == "dropped")
        assert (row.kind in PIPELINE_KINDS) is (row.cause == PIPELINE)


def test_rewritten_prompts_share_no_rare_word_with_what_is_asked(world: World) -> None:
    for row in world.rows:
        if row.trained_prompt is not None:
            assert set(pieces(row.trained_prompt)) & set(pieces(row.prompt)) <= {*row.person.split(), ":"}


def test_questions_become_statements_of_the_corpus(world: World) -> None:
    corpus = {" ".join(pieces(document)) for document in corpus_pass(world, 0) + corpus_pass(world, 1)}
    told = " ".join(corpus)
    plain = [row for row in world.rows if row.kind == "plain"][:200]
    assert all(statements(row.prompt) for row in world.rows)
    found = [any(" ".join(pieces(text)) in told for text in statements(row.prompt)) for row in plain]
    # A pass draws one of four wordings, so that not every statement is in two of them.
    assert np.mean(found) > 0.25


def test_exposures_are_as_planned(world: World) -> None:
    for seed in (0, 1):
        counts = Counter(index for rows in world_schedule(world, seed) for index in rows)
        for index, row in enumerate(world.rows):
            assert counts[index] == (world.size.passes if row.passes is None else row.passes)


def test_blocks_are_trained_one_after_the_other_and_seeds_change_the_order(world: World) -> None:
    schedule = world_schedule(world, 0)
    blocks = [{world.rows[index].block for index in rows} for rows in schedule]
    assert blocks == [{0}] * world.size.passes + [{1}] * world.size.passes
    assert schedule == world_schedule(world, 0)
    assert schedule != world_schedule(world, 1)


def test_rows_drawn_seldom_are_not_all_drawn_in_the_same_passes(world: World) -> None:
    schedule = world_schedule(world, 0)
    seldom = {index for index, row in enumerate(world.rows) if row.cause == INSUFFICIENT}
    drawn = [len(seldom.intersection(rows)) for rows in schedule[world.size.passes :]]
    assert min(drawn) > 0


def test_a_larger_world_has_more_of_everything() -> None:
    small, demo = (Counter(row.cause for row in make_world(0, size).rows) for size in (SMALL, DEMO))
    assert all(small[cause] > demo[cause] for cause in small)
