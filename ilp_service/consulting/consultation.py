"""What mitigations may ask: knowledge sources and a judge, each counted over the whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ilp_service.consulting.judges import judge_pairs
from ilp_service.consulting.leaks import Leaks
from ilp_service.consulting.sources import fetch_documents
from ilp_service.knowledge import Document, Judge, KnowledgeSource, Ledger, Pair, Verdict
from ilp_service.remedies import Found
from ilp_service.samples.entities import entities_of
from ilp_service.samples.sample import Sample
from ilp_service.settings import Settings
from ilp_service.study import Study


class Consultation:
    """Asks the sources and the judge of the settings, never twice for the same; a ``Consult`` of the plugin API.

    Args:
        sources: Knowledge sources that are loaded.
        judges: Judges that are loaded.
        settings: Which of them are asked, and how.
        study: What was measured; no document may hold one of its samples.
        entities: Whom or what samples ask about, by their ids; found in the prompts unless given.

    Attributes:
        source_ledgers: What each source has cost so far, by its name.
        judge_ledger: What the judge has cost so far.
        failures: One sentence why a source or the judge failed, by its name.
    """

    def __init__(
        self,
        sources: Sequence[KnowledgeSource],
        judges: Sequence[Judge],
        settings: Settings,
        study: Study,
        entities: Mapping[str, str] | None = None,
    ) -> None:
        self.source_ledgers: dict[str, Ledger] = {}
        self.judge_ledger = Ledger()
        self.failures: dict[str, str] = {}
        self._sources, self._judges, self._settings, self._study = sources, judges, settings, study
        self._entities = dict(entities_of(study.samples) if entities is None else entities)
        self._samples = {sample.sample_id: sample for sample in study.samples}
        self._leaks = Leaks(study.samples, settings.knowledge_sources.leak_similarity)
        self._found: dict[tuple[str, int], tuple[Document, ...]] = {}
        self._reasons: dict[str, str] = {}
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    def documents(self, sample_ids: Sequence[str], limit: int) -> Found:
        """Documents about samples, at most ``limit`` each; none of them holds a training sample.

        Raises:
            SettingsError: The settings name a source that is not loaded, or is not set up.
            KnowledgeSourceError: The files of a source cannot be used.
            EndpointError: An endpoint is down or refuses.
        """
        new = [self._samples[key] for key in dict.fromkeys(sample_ids) if (key, limit) not in self._found]
        if new:
            self._fetch(new, limit)
        return Found({key: self._found[key, limit] for key in dict.fromkeys(sample_ids)}, dict(self._reasons))

    def _fetch(self, samples: Sequence[Sample], limit: int) -> None:
        wanted = self._settings.knowledge_sources.model_copy(update={"limit": limit})
        fetched = fetch_documents(
            self._sources,
            samples,
            self._settings.model_copy(update={"knowledge_sources": wanted}),
            training=self._study.samples,
            entities=self._entities,
            study=self._study,
            ledgers=self.source_ledgers,
        )
        self.source_ledgers.update(fetched.ledgers)
        self._reasons.update(fetched.reasons)
        self.failures.update({name: reason for name, reason in fetched.reasons.items() if name in fetched.ledgers})
        self._found.update({(key, limit): documents for key, documents in fetched.documents.items()})

    def judge(self, pairs: Sequence[Pair]) -> tuple[Verdict, ...]:
        """One verdict a pair; the same pair the other way round is not asked again.

        Raises:
            SettingsError: The judge of the settings is not loaded, or not set up.
            EndpointError: Its endpoint is down or refuses.
        """
        new: dict[tuple[str, str], Pair] = {}
        for pair in pairs:
            turned = _turned(pair)
            if _key(turned) not in self._verdicts:
                new[_key(turned)] = turned
        if new:
            judged = judge_pairs(self._judges, list(new.values()), self._settings, self._study, self.judge_ledger)
            self._verdicts.update(zip(new, judged.verdicts, strict=True))
            if judged.failure:
                self.failures[judged.judge] = judged.failure
        return tuple(self._answer(pair) for pair in pairs)

    def _answer(self, pair: Pair) -> Verdict:
        verdict = self._verdicts[_key(_turned(pair))]
        if _turned(pair) is pair:
            return verdict
        return Verdict(verdict.choice.swapped, verdict.confidence, verdict.reason)

    def entity(self, sample_id: str) -> str | None:
        """Whom or what a sample asks about, ``None`` where its prompt names nobody."""
        return self._entities.get(sample_id)

    def leaks(self, text: str, sample_id: str) -> bool:
        """Whether a text holds a training sample, or nearly the one that it is for."""
        return self._leaks.held_by(text, self._samples.get(sample_id))


def _turned(pair: Pair) -> Pair:
    """The pair with the smaller id first."""
    return pair if pair.first.sample_id <= pair.second.sample_id else pair.swapped


def _key(pair: Pair) -> tuple[str, str]:
    return pair.first.sample_id, pair.second.sample_id
