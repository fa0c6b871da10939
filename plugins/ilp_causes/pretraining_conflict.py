"""Cause II: the base model firmly holds another answer (arXiv 2604.10079, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_causes._columns import Indices, column, evidence_table, flag, ratio
from ilp_causes._forms import Form, Options
from ilp_causes._phrases import known, number, percent, quote, text
from ilp_service.plugin import Array, Cause, Need, Signal, Study

_WORDS = {"zero_shot": "for the same prompt", "few_shot": "after solved examples", "cloze": "as a statement"}
_LEANING = 0.2
"""An answer that a model gives in less than one of five runs is not one that it holds (the paper's T)."""


def _form_signals(form: str) -> tuple[Signal, ...]:
    return (
        Signal(f"{form}_wrong", "0-1", "+", f"Base model's highest probability of a wrong answer, {_WORDS[form]}."),
        Signal(f"{form}_margin", "-1-1", "+", f"That probability minus the right answer's, {_WORDS[form]}."),
    )


class PretrainingConflict(Cause):
    """Fine-tuning had to overwrite what pre-training taught, and did not."""

    name: ClassVar[str] = "pretraining_conflict"
    title: ClassVar[str] = "The training answer conflicts with what pre-training taught"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE_MODEL})
    signals: ClassVar[tuple[Signal, ...]] = (
        *(signal for form in Options.BASE_FORMS for signal in _form_signals(form)),
        Signal("confident_error", "0-1", "+", "1 if the base gives a wrong answer above knowledge.confident_error."),
        Signal("confident_share", "0-1", "+", "Share of the measured forms with such a confident error."),
        Signal("strongest_wrong", "0-1", "+", "Highest probability of a wrong answer over all forms."),
        Signal("strongest_margin", "-1-1", "+", "Largest lead of a wrong answer over the right one over all forms."),
        Signal("forms_agree", "0-1", "+", "Share of the measured forms that prefer the same wrong answer."),
        Signal("jsd", "0-1", "+", "Jensen-Shannon divergence of the base's and the tuned model's answers, bits."),
        Signal("diverges", "0-1", "+", "1 if that divergence exceeds knowledge.divergence."),
        Signal("tuned_on_base_answer", "0-1", "+", "Tuned model's probability of the base's preferred wrong answer."),
        Signal(
            "wrong_mass_share", "0-1", "+", "That probability as a share of all the tuned model gives to wrong answers."
        ),
        Signal("tuned_agrees", "0-1", "+", "1 if the tuned model's first wrong answer is the base's."),
        Signal(
            "base_answer", "text", "0", "The base's preferred wrong answer, from the form where it leads most.", "text"
        ),
        Signal("base_answer_form", "text", "0", "The form in which the base was asked for it.", "text"),
    )

    def collect(self, study: Study) -> pa.Table:
        """One row an unlearned sample; a form that was not asked is null."""
        options = Options.of(study)
        limits = study.settings
        forms = [options.form(name) for name in Options.BASE_FORMS]
        wrong = np.stack([form.wrong for form in forms])
        margin = wrong - np.stack([form.right for form in forms])
        measured = (~np.isnan(wrong)).sum(axis=0)
        unknown = np.where(measured > 0, 0.0, np.nan)
        confident = wrong > limits["knowledge.confident_error"]
        # argmax over NaN-free margins: the first form wins ties, so the choice never depends on rounding of others.
        strongest = np.where(np.isnan(margin), -np.inf, margin).argmax(axis=0)
        preferred = np.stack([form.wrong_row for form in forms])[strongest, np.arange(options.count)]
        tuned = options.form("tuned")
        p = options.tuned()
        on_base = np.where(preferred >= 0, p[np.maximum(preferred, 0)] if len(p) else np.nan, np.nan)
        jsd = column(study.evaluation, "jsd", study.unlearned)
        columns: dict[str, Array | list[str | None]] = {
            "confident_error": flag(confident[0], wrong[0]),
            "confident_share": confident.sum(axis=0) / np.maximum(measured, 1) + unknown,
            "strongest_wrong": np.fmax.reduce(wrong, axis=0),
            "strongest_margin": np.fmax.reduce(margin, axis=0),
            "forms_agree": _agreement(forms, preferred) / np.maximum(measured, 1) + unknown,
            "jsd": jsd.clip(0, 1),
            "diverges": flag(jsd > limits["knowledge.divergence"], jsd),
            "tuned_on_base_answer": on_base,
            "wrong_mass_share": ratio(on_base, 1 - tuned.right).clip(0, 1),
            "tuned_agrees": flag(tuned.wrong_row == preferred, on_base),
            "base_answer": options.texts(preferred),
            "base_answer_form": [
                Options.BASE_FORMS[form] if row >= 0 else None for form, row in zip(strongest, preferred, strict=True)
            ],
        }
        for name, form in zip(Options.BASE_FORMS, forms, strict=True):
            columns |= {f"{name}_wrong": form.wrong, f"{name}_margin": form.wrong - form.right}
        return evidence_table(study, columns)

    def rule(self, signals: Mapping[str, Array]) -> Array:
        """The paper's test: the base is confidently wrong on the prompt, and D_JS exceeds its threshold."""
        return flag((signals["confident_error"] == 1) & (signals["diverges"] == 1))

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """In no form does the base lean to a wrong answer."""
        leans_nowhere: npt.NDArray[np.bool_] = (signals["strongest_wrong"] < _LEANING) | (
            signals["strongest_margin"] <= 0
        )
        return leans_nowhere

    def explain(self, row: Mapping[str, Any]) -> str:
        """Quote the base's answer, its probability, and what the tuned model does with it."""
        form = text(row, "base_answer_form", "")
        if form not in _WORDS:
            return "The base model was not asked about this sample, so no conflict can be shown."
        right = number(row, f"{form}_wrong") - number(row, f"{form}_margin")
        still = (
            f", and the tuned model still gives it {percent(row, 'tuned_on_base_answer')}"
            if known(row, "tuned_on_base_answer")
            else ""
        )
        return (
            f"Asked {_WORDS[form]}, the base model answers {quote(row, 'base_answer')} with probability "
            f"{number(row, f'{form}_wrong'):.2f} against {right:.2f} for the training answer{still}."
        )


def _agreement(forms: list[Form], preferred: Indices) -> Array:
    """In how many forms the most probable wrong answer is the preferred one, shape ``(unlearned,)``."""
    same = np.stack([(form.wrong_row == preferred) & (preferred >= 0) for form in forms])
    return np.asarray(same.sum(axis=0), dtype=np.float64)
