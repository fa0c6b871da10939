"""What a diagnosis would do, shown before any weights are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ilp_service.diagnosis.prepare import Prepared, prepare
from ilp_service.diagnosis.request import DiagnosisRequest
from ilp_service.evaluation.distractors import Distractors, Option
from ilp_service.evaluation.statements import statements
from ilp_service.plugin_loading import load_plugins
from ilp_service.samples.rendering import Renderer
from ilp_service.samples.sample import Sample
from ilp_service.tracking.store import Tracking

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Preview:
    """One sample as it will be scored: decoded tokens, 1 where a token is in the loss, and the options."""

    sample: Sample
    tokens: tuple[str, ...]
    loss_mask: tuple[int, ...]
    options: tuple[Option, ...]

    def text(self) -> str:
        """For a terminal: token by token, those in the loss in brackets."""
        marked = zip(self.tokens, self.loss_mask, strict=True)
        tokens = " ".join(f"[{token!r}]" if mask else repr(token) for token, mask in marked)
        options = "\n".join(f"    {option.source:>14}  {option.text[:100]!r}" for option in self.options)
        asked = "; ".join(repr(f"{statement} …") for statement in statements(self.sample.prompt)) or "no rule fits"
        sample = self.sample
        return (
            f"{sample.sample_id}  subset {sample.subset!r}, row {sample.position}, turn {sample.turn}\n"
            f"  tokens, those in the loss in [brackets]:\n    {tokens}\n"
            f"  base asked in statements: {asked}\n"
            f"  options ({len(self.options)}; the base's own answer joins them in the run):\n{options}"
        )

    def record(self) -> dict[str, object]:
        """For programs."""
        return {
            "sample_id": self.sample.sample_id,
            "tokens": list(self.tokens),
            "loss_mask": list(self.loss_mask),
            "statements": list(statements(self.sample.prompt)),
            "options": [{"text": option.text, "source": option.source} for option in self.options],
        }


def preview(renderer: Renderer, sample: Sample, options: Sequence[Option]) -> Preview:
    """Render one sample and mark its loss mask."""
    rendered = renderer.render(sample)
    ids = rendered.prompt_ids + rendered.response_ids
    mask = (0,) * len(rendered.prompt_ids) + (1,) * len(rendered.response_ids)
    return Preview(sample, tuple(renderer.token_texts(ids)), mask, tuple(options))


def _amounts(prepared: Prepared, distractors: Distractors, request: DiagnosisRequest) -> dict[str, int]:
    """How much is scored: samples, options and tokens of one pass over the options (each prompt read once)."""
    prompts = sum(prepared.rendering.column("prompt_tokens").to_pylist())
    lengths = prepared.rendering.column("response_tokens").to_pylist()
    counts = [len(distractors.options(sample.sample_id)) for sample in prepared.samples]
    passes = 2 if prepared.checkpoint.has_base else 1
    options = sum(counts)
    return {
        "samples": len(prepared.samples),
        "quarantined": prepared.quarantine.num_rows,
        "options": options,
        "models": passes,
        "prompt_tokens_a_pass": prompts,
        "option_tokens_a_pass_at_most": sum(n * length for n, length in zip(counts, lengths, strict=True)),
        "generations": len(prepared.samples) * passes * (1 + request.settings.evaluation.samples)
        if request.settings.evaluation.generate
        else 0,
    }


def show(request: DiagnosisRequest, say: Callable[[str], None], *, as_json: bool) -> str:
    """Three samples as they will be scored, and the amount of work; no MLflow run is made.

    Raises:
        IlpError: Anything that the diagnosis itself would refuse.
    """
    load_plugins(request.plugin_dirs)
    prepared = prepare(request, Tracking(experiment=request.experiment))
    limit = request.settings.evaluation.long_answer_tokens
    long = [tokens > limit for tokens in prepared.rendering.column("response_tokens").to_pylist()]
    distractors = Distractors(prepared.samples, long, {}, request.settings.evaluation, request.settings.seed)
    previews = [preview(prepared.renderer, s, distractors.options(s.sample_id)) for s in prepared.samples[:SHOWN]]
    amounts = _amounts(prepared, distractors, request)
    inputs = {
        "model": prepared.reference.resolved,
        "base": prepared.reference.base,
        "base_from": prepared.reference.base_from,
        "format": prepared.data.format,
        "rendering": prepared.renderer.describe(),
        "trajectory": prepared.trajectory_source,
    }
    if as_json:
        return json.dumps({**inputs, **amounts, "previews": [one.record() for one in previews]})
    for name, value in {**inputs, **amounts}.items():
        say(f"{name}: {value}")
    return "\n\n".join(one.text() for one in previews)
