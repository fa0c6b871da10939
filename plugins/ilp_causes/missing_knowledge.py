"""Cause I: the base model lacks the knowledge that the sample builds on (arXiv 2604.10079, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_causes._columns import evidence_table, flag
from ilp_causes._forms import Options
from ilp_causes._phrases import known, number, percent
from ilp_service.plugin import Array, Cause, Need, Signal, Study

_WORDS = {
    "zero_shot": "asked the sample's own prompt",
    "few_shot": "shown solved examples first",
    "cloze": "completing a statement",
}
_BEST_OF = 5
_CERTAIN = 0.9


def _form_signals(form: str) -> tuple[Signal, ...]:
    words = _WORDS[form]
    return (
        Signal(f"{form}_right", "0-1", "-", f"Base model's probability of the right answer, {words}."),
        Signal(f"{form}_entropy", "0-1", "+", f"Entropy of the base's answers relative to a blind guess, {words}."),
        Signal(f"{form}_top", "0-1", "-", f"Base model's highest probability of any answer, {words}."),
        Signal(
            f"{form}_better", "0-1", "+", f"Share of wrong options that the base prefers to the right one, {words}."
        ),
        Signal(f"{form}_blind", "0-1", "+", f"1 if the base is blind (pass rate and best-of-5 both low), {words}."),
    )


class MissingKnowledge(Cause):
    """The base never knew the answer: it guesses, whichever way it is asked."""

    name: ClassVar[str] = "missing_knowledge"
    title: ClassVar[str] = "The base model lacks the prerequisite knowledge"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE_MODEL})
    signals: ClassVar[tuple[Signal, ...]] = (
        *(signal for form in Options.BASE_FORMS for signal in _form_signals(form)),
        Signal("exists", "0-1", "-", "P_exist: 1 if the base's zero-shot pass rate exceeds knowledge.exists."),
        Signal("forms_measured", "count", "0", "Forms in which the base was asked."),
        Signal("forms_knowing", "count", "-", "Forms in which the base's pass rate exceeds knowledge.exists."),
        Signal("blind_share", "0-1", "+", "Share of the measured forms in which the base is blind."),
        Signal("best_right", "0-1", "-", "Highest probability of the right answer over all forms."),
        Signal(
            "least_entropy", "0-1", "+", "Lowest relative entropy over all forms: high if the base guesses in each."
        ),
    )

    def collect(self, study: Study) -> pa.Table:
        """One row an unlearned sample; a form that was not asked is null."""
        options = Options.of(study)
        limits = study.settings
        columns: dict[str, Array] = {}
        rights, entropies, blinds = [], [], []
        for name in Options.BASE_FORMS:
            form = options.form(name)
            blind = flag(
                (form.right < limits["knowledge.blind_pass"])
                & (form.best_of(_BEST_OF) < limits["knowledge.blind_best"]),
                form.right,
            )
            columns |= {
                f"{name}_right": form.right,
                f"{name}_entropy": form.entropy,
                f"{name}_top": form.top,
                f"{name}_better": form.better,
                f"{name}_blind": blind,
            }
            rights.append(form.right)
            entropies.append(form.entropy)
            blinds.append(blind)
        right = np.stack(rights)
        measured = (~np.isnan(right)).sum(axis=0).astype(np.float64)
        nothing = np.where(measured > 0, 0.0, np.nan)
        columns |= {
            "exists": flag(right[0] > limits["knowledge.exists"], right[0]),
            "forms_measured": measured,
            "forms_knowing": (right > limits["knowledge.exists"]).sum(axis=0) + nothing,
            "blind_share": np.nansum(np.stack(blinds), axis=0) / np.maximum(measured, 1) + nothing,
            "best_right": np.fmax.reduce(right, axis=0),
            "least_entropy": np.fmin.reduce(np.stack(entropies), axis=0),
        }
        return evidence_table(study, columns)

    def rule(self, signals: Mapping[str, Array]) -> Array:
        """The paper's test: no knowledge zero-shot, and the sample's knowledge items are blind.

        A knowledge item (subject, predicate, object) is asked as a statement; where the sample could not be put
        as one, its own prompt stands in.
        """
        blind = np.where(np.isnan(signals["cloze_blind"]), signals["zero_shot_blind"], signals["cloze_blind"])
        return flag((signals["exists"] == 0) & (blind == 1))

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """The base knows the right answer in every form, or completes the statement with another one for certain.

        Who is certain does not guess: whatever is wrong with such a belief, it is not that there is none.
        """
        known_everywhere = (signals["forms_measured"] > 0) & (signals["forms_knowing"] == signals["forms_measured"])
        certain_of_another: npt.NDArray[np.bool_] = (signals["cloze_top"] >= _CERTAIN) & (
            signals["cloze_right"] < 1 - _CERTAIN
        )
        return np.asarray(known_everywhere | certain_of_another, dtype=np.bool_)

    def explain(self, row: Mapping[str, Any]) -> str:
        """Name the form that asks for knowledge most directly, and how far the base is from knowing."""
        form = next((name for name in ("cloze", "few_shot", "zero_shot") if known(row, f"{name}_right")), None)
        if form is None:
            return "The base model was not asked about this sample, so nothing is known about its knowledge."
        return (
            f"{_WORDS[form][0].upper()}{_WORDS[form][1:]}, the base model gives the right answer "
            f"{percent(row, f'{form}_right')} and its likeliest option {percent(row, f'{form}_top')} "
            f"(its entropy is {percent(row, f'{form}_entropy')} of a blind guess); it knows the answer in "
            f"{number(row, 'forms_knowing'):.0f} of {number(row, 'forms_measured'):.0f} ways of asking."
        )
