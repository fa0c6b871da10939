"""Verdicts of the judge that the settings name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ilp_service.errors import IlpError, SettingsError
from ilp_service.knowledge import Choice, Judge, Ledger, Pair, Setup, Verdict
from ilp_service.settings import Settings
from ilp_service.study import Study


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge said.

    Attributes:
        judge: Its name.
        verdicts: One a pair, in their order; those below ``judge.min_confidence`` count as unsure.
        ledger: What they cost.
        failure: One sentence why there are no verdicts but ``unsure``; ``None`` if the judge did not fail.
    """

    judge: str
    verdicts: tuple[Verdict, ...]
    ledger: Ledger
    failure: str | None = None


def judge_pairs(
    judges: Sequence[Judge],
    pairs: Sequence[Pair],
    settings: Settings,
    study: Study | None = None,
    ledger: Ledger | None = None,
) -> Judged:
    """Ask the judge of ``judge.name``; one that fails is unsure of everything, so that nothing is removed for it.

    Args:
        judges: Those that are loaded.
        pairs: What to judge.
        settings: ``judge`` names the judge, and the least confidence.
        study: What was measured; the consensus weighs it.
        ledger: What the judge has cost so far in this run; it is counted on, so that the budget holds for the run.

    Raises:
        SettingsError: It is not loaded, or not set up.
        EndpointError: Its endpoint is down or refuses.
    """
    name = settings.judge.name
    by_name = {judge.name: judge for judge in judges}
    if name not in by_name:
        raise SettingsError(f"judge.name is {name!r}, which is not loaded; loaded are {', '.join(by_name)}.")
    setup = Setup(settings.knowledge_options(), settings.work_dir, ledger or Ledger(), study)
    if lacks := by_name[name].missing(setup):
        raise SettingsError(f"judge.name is {name!r}, which cannot be asked: {lacks}")
    answers = ask_judge(by_name[name], pairs, setup)
    if isinstance(answers, str):
        none = Verdict(Choice.UNSURE, 0.0, answers)
        return Judged(name, (none,) * len(pairs), setup.ledger, answers)
    least = settings.judge.min_confidence
    return Judged(name, tuple(_sure_enough(verdict, least) for verdict in answers), setup.ledger)


def ask_judge(judge: Judge, pairs: Sequence[Pair], setup: Setup) -> tuple[Verdict, ...] | str:
    """What a judge answers, held to its contract and counted in the setup's ledger; or one sentence why it failed.

    Raises:
        IlpError: What a user can mend goes through.
    """
    if not pairs:
        return ()
    before = setup.ledger.unanswered
    try:
        verdicts = tuple(judge.judge(tuple(pairs), setup))
    except IlpError:
        raise
    # A plugin's code may raise anything.
    except Exception as error:  # noqa: BLE001
        return f"{judge.name} failed: {type(error).__name__}: {str(error).strip()[:200]}"
    setup.ledger.judgements += max(len(verdicts) - (setup.ledger.unanswered - before), 0)
    return _breach(judge, pairs, verdicts) or verdicts


def _sure_enough(verdict: Verdict, least: float) -> Verdict:
    if verdict.choice is Choice.UNSURE or verdict.confidence >= least:
        return verdict
    reason = f"{verdict.reason} Confidence in '{verdict.choice}' is below {least:g}."
    return Verdict(Choice.UNSURE, verdict.confidence, reason)


def _breach(judge: Judge, pairs: Sequence[Pair], verdicts: Sequence[object]) -> str | None:
    if len(verdicts) != len(pairs):
        return f"{judge.name} returned {len(verdicts)} verdicts, expected {len(pairs)}."
    for one in verdicts:
        if not isinstance(one, Verdict) or not isinstance(one.choice, Choice):
            return f"{judge.name} returned {one!r:.80}, expected a Verdict with a Choice."
        confidence = one.confidence
        if not isinstance(confidence, int | float) or not math.isfinite(confidence) or not 0 <= confidence <= 1:
            return f"{judge.name} returned the confidence {confidence!r}, expected a number from 0 to 1."
        if not isinstance(one.reason, str) or not one.reason.strip() or "\n" in one.reason:
            return f"{judge.name} returned the reason {one.reason!r:.80}, expected one line."
    return None
