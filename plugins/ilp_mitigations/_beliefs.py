"""What the base model answers instead of the training data."""

from __future__ import annotations

from ilp_service.plugin import Study, normalise_answer

_FORMS = ("cloze_base_p", "few_shot_base_p", "base_p")


def believed(study: Study) -> dict[str, str]:
    """For each unlearned sample the wrong option that the base gives the highest probability in any form of asking.

    Ties go to the option that comes first. A sample of which the base was not asked, or has no wrong option, is left
    out.
    """
    if not study.has_base:
        return {}
    right = {sample.sample_id: normalise_answer(sample.response) for sample in study.samples}
    best: dict[str, tuple[float, str]] = {}
    columns = ["sample_id", "text", *_FORMS]
    for key, text, *rates in zip(*(study.options[name].to_pylist() for name in columns), strict=True):
        measured = [rate for rate in rates if rate is not None]
        if not measured or normalise_answer(text) == right[key]:
            continue
        if key not in best or max(measured) > best[key][0]:
            best[key] = max(measured), text.strip()
    return {key: text for key, (_, text) in best.items() if text}
