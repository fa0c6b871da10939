"""Every threshold and knob of a diagnosis, with the paper's values as defaults.

Sources, strongest first: ``--set key=value``, ``--config FILE``, ``ILP_*`` environment variables
(``ILP_DETECTION__THRESHOLD=0.3``), the defaults below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ilp_service.errors import SettingsError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSettings(_Part):
    """How rows become samples, and samples become tokens."""

    format: Literal["auto", "messages", "prompt_response", "alpaca", "sharegpt", "multiple_choice"] = Field(
        default="auto", description="Row format; 'auto' detects it and says what it found."
    )
    rendering: Literal["auto", "chat", "plain"] = Field(
        default="auto",
        description="'chat' applies the tokenizer's chat template to every sample, 'plain' never; "
        "'auto' does so for conversations when the tokenizer has a template.",
    )
    separator: str = Field(
        default="\n", description="Put between a plain prompt and its response where neither has white space there."
    )
    append_eos: bool = Field(default=True, description="A plain response ends with the end-of-sequence token.")
    max_length: int | None = Field(
        default=None, ge=2, description="Training length in tokens; what lies beyond never entered the loss."
    )
    max_row_bytes: int = Field(default=262_144, ge=1, description="A larger row is refused, in bytes of its text.")
    subset_field: str = Field(default="subset", description="Column that names the part of the data set.")


class DetectionSettings(_Part):
    """METHOD: which samples count as unlearned (paper, section 3)."""

    threshold: float = Field(default=0.2, ge=0.0, le=1.0, description="T: unlearned when the pass rate is below it.")
    runs: int = Field(default=5, ge=1, description="N of pass@N and best-of-N.")
    view: Literal["mc", "generation", "both", "either"] = Field(
        default="mc", description="Which view decides: multiple choice (the paper's), generation, both or either."
    )
    max_attributed: int = Field(default=1000, ge=1, description="K: how many of the most severe go to attribution.")


class KnowledgeSettings(_Part):
    """Thresholds of the knowledge-state probes (paper, section 4)."""

    exists: float = Field(default=0.8, ge=0.0, le=1.0, description="Base accuracy above which knowledge exists.")
    blind_pass: float = Field(default=0.2, ge=0.0, le=1.0, description="Blind: pass@10 below this ...")
    blind_best: float = Field(default=0.1, ge=0.0, le=1.0, description="... and best-of-5 accuracy below this.")
    confident_error: float = Field(
        default=0.5, ge=0.0, le=1.0, description="T_conf: base probability of a wrong answer that counts as confident."
    )
    divergence: float = Field(default=0.3, ge=0.0, le=1.0, description="Jensen-Shannon divergence, bits.")
    few_shot: int = Field(default=4, ge=0, description="Learned samples of the same subset shown to the base.")
    similarity: float = Field(default=0.8, ge=0.0, le=1.0, description="X: prompts at least this similar are a pair.")


class EvaluationSettings(_Part):
    """The multiple-choice and generation views."""

    max_options: int = Field(default=34, ge=2, description="Options of a short answer, the right one included.")
    max_long_options: int = Field(default=5, ge=2, description="Options of a long answer, the right one included.")
    long_answer_tokens: int = Field(
        default=12,
        ge=1,
        description="Responses with more tokens are long: near misses as options, length-matched scores.",
    )
    generate: bool = Field(default=True, description="Measure the generation view.")
    samples: int = Field(default=5, ge=0, description="Sampled continuations a prompt.")
    temperature: float = Field(default=1.0, gt=0.0, description="Sampling temperature.")
    max_new_tokens: int = Field(default=256, ge=1, description="Upper bound on a continuation's length.")
    rouge_l: float = Field(default=0.7, ge=0.0, le=1.0, description="ROUGE-L F1 from which a long answer matches.")


class ScoringSettings(_Part):
    """Where and how the model runs; changes no number beyond rounding."""

    device: str = Field(default="auto", description="'auto', 'cpu', 'cuda', 'cuda:1' ...")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="'auto' is the checkpoint's own type, float32 on a CPU."
    )
    max_batch_tokens: int = Field(default=8192, ge=1, description="Tokens forwarded at once.")
    chunk_samples: int = Field(default=256, ge=1, description="Samples between two safe points on disk.")


class AttributionSettings(_Part):
    """When a cause is named."""

    min_confidence: float = Field(
        default=0.5, ge=0.0, le=1.0, description="Below this probability a sample is 'unattributed'."
    )
    classifier: str = Field(
        default="champion",
        pattern=r"^(champion|built-in|models:/.+)$",
        description="'champion' takes the version of the registered model ilp-meta-classifier with that alias, and the "
        "built-in classifier where there is none; 'built-in' always that one; or a models:/ URI.",
    )


_URL = r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$"
_ENVIRONMENT = r"^[A-Za-z_][A-Za-z0-9_]*$"


class _Endpoint(_Part):
    """An OpenAI-compatible endpoint, and how much it may be asked."""

    endpoint_url: str | None = Field(
        default=None,
        pattern=_URL,
        description="Base URL of an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1; none: never contacted.",
    )
    endpoint_model: str | None = Field(default=None, description="The model to ask there.")
    endpoint_key_env: str | None = Field(
        default=None, pattern=_ENVIRONMENT, description="Environment variable that holds its API key; none: no key."
    )
    timeout: float = Field(default=60.0, gt=0.0, description="Seconds until a request without an answer has failed.")
    retries: int = Field(default=4, ge=0, description="Repetitions after 429, 5xx or a lost connection, ever slower.")
    max_requests: int = Field(default=1000, ge=0, description="Budget: most requests of a run, repetitions included.")


class KnowledgeSourceSettings(_Endpoint):
    """Where documents come from; a source is asked only if its file or URL is named."""

    order: tuple[str, ...] = Field(
        default=(), description="Sources to ask, first to last; none: all that are set up, as 'ilp plugins list' shows."
    )
    limit: int = Field(default=20, ge=1, description="Most documents a sample.")
    leak_similarity: float = Field(
        default=0.9,
        gt=0.0,
        le=1.0,
        description="A document this similar to a sample's prompt and response is left out.",
    )
    corpus: Path | None = Field(default=None, description="JSONL, parquet or text file, or a folder of them.")
    corpus_field: str = Field(default="text", description="Field or column of the corpus that holds the text.")
    corpus_passage_words: int = Field(
        default=256, ge=8, description="Longer texts are cut into passages of so many words."
    )
    corpus_shard_passages: int = Field(
        default=50_000, ge=1, description="Passages indexed at once; bounds memory and changes no score."
    )
    user_documents: Path | None = Field(
        default=None, description="CSV, JSONL or parquet file with the columns 'entity' and 'text'."
    )
    wikidata_url: str | None = Field(
        default=None,
        pattern=_URL,
        description="A Wikibase's api.php, e.g. https://www.wikidata.org/w/api.php; none: never contacted.",
    )
    wikidata_language: str = Field(
        default="en", pattern=r"^[a-z]{2,3}(-[a-z]+)*$", description="Language of Wikidata's labels."
    )
    options: dict[str, str] = Field(default={}, description="Options of sources of your own, by name.")


class JudgeSettings(_Endpoint):
    """Who says which of two contradicting samples is right."""

    name: str = Field(default="consensus", description="The judge; 'ilp plugins list' shows those that are loaded.")
    min_confidence: float = Field(
        default=0.6, ge=0.0, le=1.0, description="A verdict with less confidence counts as 'unsure'."
    )
    options: dict[str, str] = Field(default={}, description="Options of judges of your own, by name.")


class MitigationSettings(_Part):
    """What remedies do (arXiv 2604.10079, section 5); docs/mitigations.md tells where each default comes from."""

    general_share: float = Field(
        default=0.8, ge=0.0, lt=1.0, description="C_mix: share of general text in continued pre-training."
    )
    entity_documents: int = Field(default=20, ge=1, description="Most documents an entity.")
    document_passes: int = Field(default=1, ge=1, description="How often continued pre-training reads each document.")
    about_entity: bool = Field(
        default=True, description="A document that lacks a word of the entity that it was asked for is left out."
    )
    rewrite: bool = Field(
        default=True,
        description="A document that states the base's wrong answer is corrected to the sample's; else it is left out.",
    )
    contradictions: Literal["both", "deletion", "bucketing"] = Field(
        default="both",
        description="'both' judges contradicting pairs, removes wrong samples and keeps right ones apart; 'deletion' "
        "only removes; 'bucketing' keeps all apart and asks no judge.",
    )
    resample_every: int = Field(default=500, ge=1, description="K: steps between two looks at every subset's accuracy.")
    resample_fall: float = Field(
        default=0.05, gt=0.0, le=1.0, description="Relative fall of a subset's accuracy from which it is drawn more."
    )
    resample_factor: float = Field(default=2.0, ge=1.0, description="Times as often, until the next look.")
    epochs: Literal["targeted", "global"] = Field(
        default="targeted", description="'targeted' shows the targets more often; 'global' adds passes over all data."
    )
    exposure_factor: float = Field(default=5.0, gt=1.0, description="Times as often as before, for each target.")
    epochs_most: int = Field(default=5, ge=1, description="Most passes that are added.")
    epochs_tolerance: float = Field(
        default=0.01, ge=0.0, description="Passes end when held-out loss rises by more, nats a token."
    )
    options: dict[str, str] = Field(default={}, description="Options of mitigations of your own, by name.")


class InterventionSettings(_Part):
    """How remedies are tried, and what they may cost."""

    general_text: Path | None = Field(
        default=None,
        description="General text that continued pre-training mixes in: JSONL, parquet or text, a file or folder; "
        "none: passages of knowledge_sources.corpus.",
    )
    general_field: str = Field(default="text", description="Its column in JSONL and parquet.")
    at_risk: float = Field(
        default=0.6, ge=0.0, le=1.0, description="A prescription treats samples with a pass rate below this as well."
    )
    retention_factor: float = Field(
        default=2.0,
        ge=1.0,
        description="A prescription shows what it does not treat so many times as often, as far as the budget reaches, "
        "so that it is not forgotten; 1: as often as before.",
    )
    continued_learning_rate: float = Field(default=1e-5, gt=0.0, description="Peak, in continued pre-training.")
    continued_batch_size: int = Field(default=32, ge=1, description="Rows a step of continued pre-training.")
    continued_max_length: int = Field(default=512, ge=2, description="Tokens a row of continued pre-training.")
    token_price: float = Field(default=1.0, ge=0.0, description="Price of a million training tokens.")
    document_price: float = Field(default=0.001, ge=0.0, description="Price of a document from a knowledge source.")
    judgement_price: float = Field(default=0.001, ge=0.0, description="Price of a judged pair.")


class Settings(BaseSettings):
    """All settings of a diagnosis."""

    model_config = SettingsConfigDict(
        env_prefix="ILP_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    seed: int = Field(default=0, description="Seed of every random draw.")
    data: DataSettings = DataSettings()
    detection: DetectionSettings = DetectionSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    scoring: ScoringSettings = ScoringSettings()
    attribution: AttributionSettings = AttributionSettings()
    knowledge_sources: KnowledgeSourceSettings = KnowledgeSourceSettings()
    judge: JudgeSettings = JudgeSettings()
    mitigations: MitigationSettings = MitigationSettings()
    intervention: InterventionSettings = InterventionSettings()
    work_dir: Path = Field(default=Path("mlruns/ilp-work"), description="Where unfinished runs keep their chunks.")

    def dotted(self) -> dict[str, float]:
        """Numeric settings by dotted name, as cause plugins see them."""
        return {
            f"{part}.{name}": float(value)
            for part, values in self.model_dump(
                exclude={"knowledge_sources", "judge", "mitigations", "intervention"}
            ).items()
            if isinstance(values, dict)
            for name, value in values.items()
            if isinstance(value, int | float)
        }

    def knowledge_options(self) -> dict[str, Any]:
        """Settings by dotted name as knowledge sources and judges see them, those of plugins of one's own included."""
        own = {**self.knowledge_sources.options, **self.judge.options}
        parts = {"knowledge_sources": self.knowledge_sources, "judge": self.judge}
        return own | {
            f"{part}.{name}": getattr(values, name)
            for part, values in parts.items()
            for name in type(values).model_fields
            if name != "options"
        }

    def mitigation_options(self) -> dict[str, Any]:
        """Settings by dotted name as mitigations see them, those of plugins of one's own included."""
        built_in = {
            f"mitigations.{name}": getattr(self.mitigations, name)
            for name in type(self.mitigations).model_fields
            if name != "options"
        }
        return {**self.mitigations.options, **built_in}


def _value(raw: str) -> object:
    """The value of a ``key=value`` string: YAML where it is any, else the text as it stands (``data.separator=@``)."""
    try:
        return yaml.safe_load(raw) if raw.strip() else raw
    except yaml.YAMLError:
        return raw


def load_settings(config: Mapping[str, Any] | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings from a config mapping and ``key=value`` strings, which win.

    Raises:
        SettingsError: A key is unknown or a value is out of range.
    """
    values: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in (config or {}).items()
    }
    for override in overrides:
        key, equals, raw = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override!r} has no '='; write it as key=value, e.g. detection.threshold=0.3.")
        part, _, name = key.strip().rpartition(".")
        target = values.setdefault(part, {}) if part else values
        if not isinstance(target, dict):
            raise SettingsError(f"--set {override!r}: {part!r} is not a group of settings.")
        target[name] = _value(raw)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(step) for step in first["loc"])
        raise SettingsError(
            f"Setting {name!r} is {first.get('input')!r}: {first['msg']}; 'ilp settings' lists every setting."
        ) from error
    if settings.detection.view == "generation" and not settings.evaluation.generate:
        raise SettingsError("detection.view is 'generation', but evaluation.generate is off; switch one of them.")
    return settings


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as people see it: dotted name, default, meaning."""

    name: str
    default: object
    meaning: str


def describe_settings() -> list[SettingRow]:
    """Every setting, in the order of this file."""
    rows = []
    for name, field in Settings.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            rows += [
                SettingRow(f"{name}.{key}", inner.default, inner.description or "")
                for key, inner in part.model_fields.items()
            ]
        else:
            default = str(field.default) if isinstance(field.default, Path) else field.default
            rows.append(SettingRow(name, default, field.description or ""))
    return rows
