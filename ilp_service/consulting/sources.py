"""Documents from the knowledge sources that the settings allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ilp_service.consulting.leaks import Leaks
from ilp_service.errors import IlpError, SettingsError
from ilp_service.knowledge import Document, KnowledgeSource, Ledger, Query, Setup
from ilp_service.samples.sample import Sample
from ilp_service.settings import Settings
from ilp_service.study import Study


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the sources gave.

    Attributes:
        documents: For each sample that was asked about, by its id, its documents: the first source's first.
        ledgers: What each source that was asked cost, by its name.
        leaks: How many documents of each source were left out because they hold a training sample.
        reasons: One sentence for each source that was not asked, or failed, by its name.
    """

    documents: Mapping[str, tuple[Document, ...]]
    ledgers: Mapping[str, Ledger]
    leaks: Mapping[str, int]
    reasons: Mapping[str, str]


def fetch_documents(
    sources: Sequence[KnowledgeSource],
    samples: Sequence[Sample],
    settings: Settings,
    *,
    training: Sequence[Sample],
    entities: Mapping[str, str] | None = None,
    study: Study | None = None,
    ledgers: Mapping[str, Ledger] | None = None,
) -> Fetched:
    """Ask the sources that are set up, one after the other, until every sample has its documents.

    Args:
        sources: Those that are loaded.
        samples: The samples that need documents.
        settings: ``knowledge_sources`` names which sources are asked, in which order, and for how many documents.
        training: Every sample of the fine-tuning data: no document may hold one.
        entities: Whom or what a sample asks about, by its id, where it is known.
        study: What was measured.
        ledgers: What each source has cost so far in this run, by its name; they are counted on, so that budgets hold
            for the whole run.

    Raises:
        SettingsError: The settings name a source that is not loaded, or is not set up.
        KnowledgeSourceError: The files of a source cannot be used.
        EndpointError: An endpoint is down or refuses.
    """
    wanted = settings.knowledge_sources
    asked, reasons = _asked(sources, settings, study, ledgers or {})
    leaks = Leaks(training, wanted.leak_similarity)
    found: dict[str, list[Document]] = {sample.sample_id: [] for sample in samples}
    by_id = {sample.sample_id: sample for sample in samples}
    left_out: dict[str, int] = {}
    spent: dict[str, Ledger] = {}
    for source, setup in asked:
        queries = [
            Query(key, sample.prompt, (entities or {}).get(key))
            for key, sample in by_id.items()
            if len(found[key]) < wanted.limit
        ]
        if not queries:
            reasons[source.name] = "Every sample has its documents already."
            continue
        spent[source.name] = setup.ledger
        answers = ask_source(source, queries, wanted.limit, setup)
        if isinstance(answers, str):
            reasons[source.name] = answers
            continue
        left_out[source.name] = 0
        for query, answer in zip(queries, answers, strict=True):
            clean = [one for one in answer if not leaks.held_by(one.text, by_id[query.sample_id])]
            left_out[source.name] += len(answer) - len(clean)
            known = {one.text for one in found[query.sample_id]}
            new = {one.text: one for one in clean if one.text not in known}
            found[query.sample_id] += list(new.values())[: wanted.limit - len(known)]
    return Fetched(
        MappingProxyType({key: tuple(documents) for key, documents in found.items()}),
        MappingProxyType(spent),
        MappingProxyType(left_out),
        MappingProxyType(reasons),
    )


def ask_source(
    source: KnowledgeSource, queries: Sequence[Query], limit: int, setup: Setup
) -> tuple[tuple[Document, ...], ...] | str:
    """What a source answers, held to its contract and counted in the setup's ledger; or one sentence why it failed.

    Raises:
        IlpError: What a user can mend goes through.
    """
    try:
        answers = tuple(tuple(answer) for answer in source.documents(tuple(queries), limit, setup))
    except IlpError:
        raise
    # A plugin's code may raise anything.
    except Exception as error:  # noqa: BLE001
        return f"{source.name} failed: {type(error).__name__}: {str(error).strip()[:200]}"
    setup.ledger.documents += sum(len(answer) for answer in answers)
    return _breach(source, queries, limit, answers) or answers


def _asked(
    sources: Sequence[KnowledgeSource], settings: Settings, study: Study | None, ledgers: Mapping[str, Ledger]
) -> tuple[list[tuple[KnowledgeSource, Setup]], dict[str, str]]:
    order = settings.knowledge_sources.order
    by_name = {source.name: source for source in sources}
    unknown = [name for name in order if name not in by_name]
    if unknown:
        raise SettingsError(
            f"knowledge_sources.order names {unknown[0]!r}, which is not loaded; loaded are {', '.join(by_name)}."
        )
    asked: list[tuple[KnowledgeSource, Setup]] = []
    reasons: dict[str, str] = {}
    for name in order or by_name:
        ledger = ledgers.get(name) or Ledger()
        setup = Setup(settings.knowledge_options(), settings.work_dir, ledger, study)
        lacks = by_name[name].missing(setup)
        if lacks is None:
            asked.append((by_name[name], setup))
        elif order:
            raise SettingsError(f"knowledge_sources.order names {name!r}, which cannot be asked: {lacks}")
        else:
            reasons[name] = lacks
    return asked, reasons


def _breach(
    source: KnowledgeSource, queries: Sequence[Query], limit: int, answers: Sequence[Sequence[object]]
) -> str | None:
    if len(answers) != len(queries):
        return f"{source.name} answered {len(answers)} queries, expected {len(queries)}."
    for answer in answers:
        if len(answer) > limit:
            return f"{source.name} returned {len(answer)} documents for a query, expected at most {limit}."
        scores = []
        for one in answer:
            if not isinstance(one, Document):
                return f"{source.name} returned {type(one).__name__}, expected Document."
            if not isinstance(one.text, str) or not one.text.strip() or not isinstance(one.source, str):
                return f"{source.name} returned a document whose text is {one.text!r:.60} of source {one.source!r:.60}."
            if not isinstance(one.score, int | float) or not math.isfinite(one.score):
                return f"{source.name} returned a document with the score {one.score!r}, expected a finite number."
            scores.append(one.score)
        if scores != sorted(scores, reverse=True):
            return f"{source.name} returned documents out of order; expected the highest score first."
    return None
