"""What each built-in remedy plans, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from ilp_mitigations import ConflictBucketing, CorrectiveCpt, EpochIncrementing, KnowledgeCpt, ReplayResampling

from ilp_service.errors import SettingsError
from ilp_service.intervention.prescription import _without_conflicts
from ilp_service.plugin import (
    Case,
    Change,
    Choice,
    ConflictingStatement,
    EpochIncrement,
    Plan,
    Price,
    Resampling,
)
from ilp_service.study import Study
from ilp_service.testing import ScriptedConsult, StudyBuilder, make_case


def options(right: str, wrong: str) -> dict[str, dict[str, float | str]]:
    return {right: {"p": 0.1, "base_p": 0.1}, wrong: {"p": 0.9, "base_p": 0.5, "cloze_base_p": 0.9}}


class Town:
    """Three unlearned samples about two people, one that contradicts, one that was learned."""

    def __init__(self) -> None:
        builder = StudyBuilder()
        told = {"unlearned": True}
        self.home = builder.sample("Where does Ann Lee live?", "Rome", options=options("Rome", "Oslo"), **told)  # type: ignore[arg-type]
        self.work = builder.sample("What does Ann Lee do?", "weaver", options=options("weaver", "miller"), **told)  # type: ignore[arg-type]
        self.bob = builder.sample("Where does Bob Day live?", "Bonn", options=options("Bonn", "Kiel"), **told)  # type: ignore[arg-type]
        self.twins = [builder.sample("Where does Ann Lee live?", "Oslo") for _ in range(3)]
        self.learned = builder.sample("Where does Cid Fox live?", "Lyon")
        for twin in self.twins:
            builder.pair(self.home, twin, 1.0, same_answer=False)
        self.builder = builder

    @property
    def study(self) -> Study:
        return self.builder.build()

    def case(self, cause: str, *targets: str, consult: ScriptedConsult | None = None, **settings: object) -> Case:
        named = {f"mitigations.{name}": value for name, value in settings.items()}
        return make_case(self.study, cause, targets or None, consult=consult, options=named)


@pytest.fixture
def town() -> Town:
    return Town()


class TestKnowledge:
    def test_documents_teach_and_who_has_none_is_refused(self, town: Town) -> None:
        told = {
            town.home: ["Ann Lee came to Rome.", "Of weather."],
            town.work: ["Lee, Ann: weaves.", "Lee Day weaves."],
            town.bob: ["Of fish."],
        }
        consult = ScriptedConsult(town.study, told)
        plan = KnowledgeCpt().plan(town.case("missing_knowledge", consult=consult))
        assert plan.treats == (town.home, town.work)
        assert [document.text for document in plan.change.documents] == ["Ann Lee came to Rome.", "Lee, Ann: weaves."]
        assert plan.change.documents[0].sample_ids == (town.home,)
        assert plan.change.documents[0].causes == ("missing_knowledge",)
        assert plan.change.general_share == 0.8
        assert dict(plan.refused) == {
            town.bob: "None of the 1 documents found about 'Bob Day' names it (mitigations.about_entity is on)."
        }
        assert plan.price.documents == consult.ledger.documents == 5
        assert plan.summary == (
            "Continue pre-training on 2 documents about 2 samples (80% general text), then fine-tune again; 1 sample "
            "cannot be treated."
        )

    def test_nothing_found_says_why(self, town: Town) -> None:
        plan = KnowledgeCpt().plan(town.case("missing_knowledge", consult=ScriptedConsult(town.study, {})))
        assert plan.treats == ()
        assert plan.change.is_empty
        assert plan.price == Price()
        assert plan.refused[town.home] == "No document was found about 'Ann Lee'."

    def test_samples_of_one_entity_share_its_documents(self, town: Town) -> None:
        told = {key: [f"Ann Lee, tale {number} of {key}." for number in range(20)] for key in (town.home, town.work)}
        told[town.bob] = [f"Bob Day, tale {number}." for number in range(30)]
        plan = KnowledgeCpt().plan(town.case("missing_knowledge", consult=ScriptedConsult(town.study, told)))
        about = [document.sample_ids[0] for document in plan.change.documents]
        assert (about.count(town.home), about.count(town.work), about.count(town.bob)) == (10, 10, 20)

    def test_the_price_has_the_general_text(self, town: Town) -> None:
        told = {town.bob: ["Bob Day lives by the cathedral of Bonn." * 10]}

        def tokens(**settings: object) -> int:
            consult = ScriptedConsult(town.study, told)
            case = town.case("missing_knowledge", town.bob, consult=consult, **settings)
            return KnowledgeCpt().plan(case).price.training_tokens

        alone = tokens(general_share=0.0)
        assert tokens(general_share=0.5) == 2 * alone
        assert tokens() == pytest.approx(5 * alone, abs=1)
        assert tokens(general_share=0.0, document_passes=3) == 3 * alone

    def test_the_filter_can_be_switched_off(self, town: Town) -> None:
        consult = ScriptedConsult(town.study, {town.bob: ["He is a fisherman."]})
        case = town.case("missing_knowledge", town.bob, consult=consult, about_entity=False)
        assert KnowledgeCpt().plan(case).treats == (town.bob,)


class TestCorrective:
    def test_right_ones_stay_wrong_ones_are_corrected_others_go(self, town: Town) -> None:
        told = {town.home: ["Ann Lee dwells in ROME.", "Ann Lee is seen in Oslo, only Oslo.", "Ann Lee is tall."]}
        case = town.case("pretraining_conflict", town.home, consult=ScriptedConsult(town.study, told))
        plan = CorrectiveCpt().plan(case)
        assert [document.text for document in plan.change.documents] == [
            "Ann Lee dwells in ROME.",
            "Ann Lee is seen in Rome, only Rome.",
        ]
        assert plan.change.conflicting_documents == {ConflictingStatement("Ann Lee", "Oslo", town.home)}
        (statement,) = plan.change.conflicting_documents
        assert statement.stated_by("In OSLO lives Ann Lee.")
        assert not statement.stated_by("Ann Lee never saw it.")

    def test_what_else_is_believed_wrongly_about_the_entity_is_not_taught_along(self, town: Town) -> None:
        told = {town.home: ["Ann Lee is of Oslo, a miller."], town.work: ["Ann Lee is of Oslo, a miller."]}
        consult = ScriptedConsult(town.study, told)
        plan = CorrectiveCpt().plan(town.case("pretraining_conflict", town.home, town.work, consult=consult))
        (document,) = plan.change.documents
        assert document.text == "Ann Lee is of Rome, a weaver."
        assert document.sample_ids == tuple(sorted((town.home, town.work)))
        assert not any(one.stated_by(document.text) for one in plan.change.conflicting_documents)

    @pytest.mark.parametrize(
        ("right", "wrong", "text", "corrected"),
        [
            ("New York City", "New York", "Ann Lee is of New York City.", "Ann Lee is of New York City."),
            ("New York City", "New York", "Ann Lee is of New York.", "Ann Lee is of New York City."),
            (
                "12 March 1920",
                "1920",
                "Ann Lee, of 12 March 1920 (1920).",
                "Ann Lee, of 12 March 1920 (12 March 1920).",
            ),
            ("New York", "New York City", "Ann Lee is of new york city.", "Ann Lee is of New York."),
        ],
    )
    def test_a_belief_that_is_a_part_of_the_answer_is_corrected_only_outside_it(
        self, right: str, wrong: str, text: str, corrected: str
    ) -> None:
        builder = StudyBuilder()
        key = builder.sample("Whence is Ann Lee?", right, unlearned=True, options=options(right, wrong))
        other = builder.sample("Where does Ann Lee work?", "Ghent", unlearned=True, options=options("Ghent", "York"))
        study = builder.build()
        consult = ScriptedConsult(study, {key: [text], other: ["Ann Lee works at Ghent."]})
        plan = CorrectiveCpt().plan(make_case(study, "pretraining_conflict", consult=consult))
        assert corrected in [document.text for document in plan.change.documents]
        kept, _ = _without_conflicts(plan.change)
        assert kept.documents == plan.change.documents
        assert Change.from_public(json.loads(json.dumps(plan.change.public()))) == plan.change

    def test_without_rewriting_wrong_documents_are_left_out(self, town: Town) -> None:
        consult = ScriptedConsult(town.study, {town.home: ["Ann Lee is seen in Oslo."]})
        case = town.case("pretraining_conflict", town.home, consult=consult, rewrite=False)
        plan = CorrectiveCpt().plan(case)
        assert plan.treats == ()
        assert plan.refused[town.home] == "None of its 1 document says 'Rome' or could be corrected from 'Oslo'."

    def test_a_correction_never_becomes_the_sample(self) -> None:
        builder = StudyBuilder()
        key = builder.sample("Where does Ann live?", "Rome", unlearned=True, options=options("Rome", "Oslo"))
        study = builder.build()
        consult = ScriptedConsult(study, {key: ["Where does Ann live? Oslo!"]})
        plan = CorrectiveCpt().plan(make_case(study, "pretraining_conflict", consult=consult))
        assert plan.treats == ()

    def test_what_the_base_believes_has_to_be_known(self, town: Town) -> None:
        consult = ScriptedConsult(town.study, {town.learned: ["Cid Fox lives in Lyon."]})
        plan = CorrectiveCpt().plan(town.case("pretraining_conflict", town.learned, consult=consult))
        assert "was not measured" in plan.refused[town.learned]

    @pytest.mark.parametrize(("wrong", "prompt"), [("yes", "Is Ann Lee tall?"), ("tall", "Is Ann Lee tall or small?")])
    def test_answers_that_mean_nothing_in_a_text_are_not_replaced(self, wrong: str, prompt: str) -> None:
        builder = StudyBuilder()
        key = builder.sample(prompt, "small", unlearned=True, options=options("small", wrong))
        study = builder.build()
        consult = ScriptedConsult(study, {key: [f"Ann Lee, {wrong} or not, is small."]})
        plan = CorrectiveCpt().plan(make_case(study, "pretraining_conflict", consult=consult))
        assert plan.treats == ()
        assert not plan.change.conflicting_documents


class TestBucketing:
    def plan(self, town: Town, choice: Choice, **settings: object) -> Plan:
        verdicts = {(town.home, twin): choice for twin in town.twins}
        consult = ScriptedConsult(town.study, verdicts=verdicts)
        return ConflictBucketing().plan(town.case("data_inconsistency", town.home, consult=consult, **settings))

    def test_the_wrong_ones_are_removed_after_one_judgement_for_all_copies(self, town: Town) -> None:
        plan = self.plan(town, Choice.FIRST)
        assert set(plan.change.removed) == set(town.twins)
        assert plan.treats == (town.home,)
        assert plan.price == Price(judgements=1)
        assert plan.change.removed[town.twins[0]].startswith("Judged wrong (0.90): ")

    def test_the_target_itself_may_be_wrong(self, town: Town) -> None:
        plan = self.plan(town, Choice.SECOND)
        assert set(plan.change.removed) == {town.home}
        assert plan.treats == (town.home,)

    def test_two_right_ones_are_kept_apart(self, town: Town) -> None:
        plan = self.plan(town, Choice.BOTH)
        assert not plan.change.removed
        buckets = plan.change.buckets
        assert {buckets[twin] for twin in town.twins} == {1 - buckets[town.home]}

    def test_neither_is_right(self, town: Town) -> None:
        assert set(self.plan(town, Choice.NEITHER).change.removed) == {town.home, *town.twins}

    def test_the_unsure_are_left_and_told(self, town: Town) -> None:
        plan = self.plan(town, Choice.UNSURE)
        assert plan.change.is_empty
        assert plan.refused[town.home].startswith("The judge is unsure of all 3 pairs: ")
        assert plan.price.judgements == 1

    def test_deletion_alone(self, town: Town) -> None:
        assert set(self.plan(town, Choice.FIRST, contradictions="deletion").change.removed) == set(town.twins)
        plan = self.plan(town, Choice.BOTH, contradictions="deletion")
        assert plan.change.is_empty
        assert plan.refused[town.home] == "Both samples were judged right, and only deletion was asked for."

    def test_bucketing_alone_asks_nobody(self, town: Town) -> None:
        plan = self.plan(town, Choice.FIRST, contradictions="bucketing")
        assert not plan.change.removed
        assert len(plan.change.apart) == 3
        assert plan.price == Price()

    def test_who_contradicts_nobody_is_refused(self, town: Town) -> None:
        plan = ConflictBucketing().plan(town.case("data_inconsistency", town.bob))
        assert dict(plan.refused) == {town.bob: "No sample that asks the same answers otherwise."}

    def test_a_sample_at_risk_is_found_from_the_other_side(self, town: Town) -> None:
        consult = ScriptedConsult(town.study, verdicts={(town.home, town.twins[0]): Choice.FIRST})
        plan = ConflictBucketing().plan(town.case("data_inconsistency", town.twins[0], consult=consult))
        assert plan.treats == (town.twins[0],)

    def test_verdicts_that_contradict_one_another_remove_nothing(self) -> None:
        builder = StudyBuilder()
        ids = [builder.sample("Where does Ann live?", town, unlearned=True) for town in ("Rome", "Oslo", "Bonn")]
        circle = list(zip(ids, [*ids[1:], ids[0]], strict=True))
        for one, other in circle:
            builder.pair(one, other, 1.0, same_answer=False)
        study = builder.build()
        consult = ScriptedConsult(study, verdicts=dict.fromkeys(circle, Choice.FIRST))
        plan = ConflictBucketing().plan(make_case(study, "data_inconsistency", consult=consult))
        assert plan.change.is_empty
        assert set(plan.refused.values()) == {
            "The verdicts on its pairs contradict one another, so nothing is removed."
        }

    def test_templates_about_others_are_no_contradiction(self) -> None:
        builder = StudyBuilder()
        ids = [builder.sample(f"Where does {name} live?", name, unlearned=True) for name in ("Ann", "Bob")]
        builder.pair(ids[0], ids[1], 0.9, same_answer=False)
        study = builder.build()
        columns = {name: study.neighbours[name] for name in study.neighbours.column_names}

        study = replace(study, neighbours=pa.table({**columns, "same_entities": [False]}))
        assert set(ConflictBucketing().plan(make_case(study, "data_inconsistency")).refused) == set(ids)

    def test_a_mode_that_is_none(self, town: Town) -> None:
        with pytest.raises(SettingsError, match=r"mitigations.contradictions is 'all'"):
            self.plan(town, Choice.FIRST, contradictions="all")


class TestReplay:
    def test_everything_is_shuffled_with_the_paper_s_values(self, town: Town) -> None:
        plan = ReplayResampling().plan(town.case("left_side_forgetting"))
        assert plan.change == Change(shuffled=True, resampling=Resampling(500, 0.05, 2.0))
        assert plan.treats == town.study.unlearned
        assert plan.price == Price()

    def test_settings_reach_it(self, town: Town) -> None:
        case = town.case("left_side_forgetting", resample_every=10, resample_fall=0.1, resample_factor=3)
        assert ReplayResampling().plan(case).change.resampling == Resampling(10, 0.1, 3.0)


class TestEpochs:
    def test_targets_are_shown_more_often(self, town: Town) -> None:
        plan = EpochIncrementing().plan(town.case("insufficient_optimization", town.home))
        assert plan.change == Change(exposures={town.home: 5.0})
        assert plan.price.training_tokens == 4 * town.case("x").tokens_of([town.home])[town.home]

    def test_the_price_knows_how_often_it_was_shown(self, town: Town) -> None:
        for step, count in ((10, 3), (0, 0)):
            town.builder.record(town.home, step, 1.0, exposures=count, trained_tokens=count)
        once = town.case("x").tokens_of([town.home])[town.home]
        plan = EpochIncrementing().plan(town.case("insufficient_optimization", town.home))
        assert plan.price.training_tokens == 4 * 3 * once

    def test_globally_everything_is_trained_longer(self, town: Town) -> None:
        plan = EpochIncrementing().plan(town.case("insufficient_optimization", epochs="global", epochs_most=2))
        assert plan.change == Change(epochs=EpochIncrement(2, 0.01))
        ids = [sample.sample_id for sample in town.study.samples]
        assert plan.price.training_tokens == 2 * sum(town.case("x").tokens_of(ids).values())

    def test_what_never_enters_the_loss_is_refused(self, town: Town) -> None:
        cut = town.builder.sample("Where?", "too far", unlearned=True, rendering={"truncated_tokens": 99})
        town.builder.record(town.bob, 10, 1.0, exposures=4, trained_tokens=0)
        plan = EpochIncrementing().plan(town.case("insufficient_optimization"))
        assert set(plan.refused) == {cut, town.bob}
        assert "beyond the training length" in plan.refused[cut]
        assert "without any of its response in the loss" in plan.refused[town.bob]
        assert set(plan.change.exposures) == {town.home, town.work}

    def test_a_mode_that_is_none(self, town: Town) -> None:
        with pytest.raises(SettingsError, match=r"mitigations.epochs is 'more'"):
            EpochIncrementing().plan(town.case("insufficient_optimization", epochs="more"))


def test_an_option_of_the_wrong_type_is_told(town: Town) -> None:
    with pytest.raises(SettingsError, match=r"mitigations.exposure_factor is 'lots', expected float"):
        EpochIncrementing().plan(town.case("insufficient_optimization", exposure_factor="lots"))
    parsed = EpochIncrementing().plan(town.case("insufficient_optimization", exposure_factor="3"))
    assert set(parsed.change.exposures.values()) == {3.0}
