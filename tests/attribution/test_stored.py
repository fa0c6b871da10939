"""The registered classifier, through a real store: restored to the last bit, or refused in a sentence."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from ilp_service.attribution.builtin import signals_digest
from ilp_service.attribution.card import card
from ilp_service.attribution.chosen import BUILT_IN, choose_classifier, misfit
from ilp_service.attribution.meta import MetaClassifier, untrained_meta
from ilp_service.attribution.registration import log_classifier
from ilp_service.attribution.stored import ESTIMATOR, EXTRA, FACTS, SignalsFacts, facts_of, restore
from ilp_service.errors import IlpWarning, ModelNotFoundError, SourceUnreadableError
from ilp_service.tracking.classifier import CHAMPION, MODEL_NAME, register_classifier
from ilp_service.tracking.store import Tracking
from tests.attribution.tables import BUILT_IN as CAUSES
from tests.attribution.tables import FakeCause, evidence_rows, signals_table, without

FACTS_OF_SIGNALS = SignalsFacts("0" * 64, 600, {"worlds": {"0": {}}})


def register(meta: MetaClassifier, tracking: Tracking, alias: str | None = CHAMPION) -> str:
    with tracking.run("register") as run:
        uri = log_classifier(run, meta, facts_of(meta, FACTS_OF_SIGNALS, 0), "# card")
        version = register_classifier(run, uri, description="# card", tags={})
    if alias:
        tracking.set_alias(MODEL_NAME, str(version.version), alias)
    return version.resolved


@pytest.fixture(scope="session")
def _files(meta: MetaClassifier, tmp_path_factory: pytest.TempPathFactory, _store_template: Path) -> Path:
    """The files of a classifier that was registered in a store of its own."""
    place = tmp_path_factory.mktemp("registered")
    shutil.copy(_store_template, place / "mlflow.db")
    tracking = Tracking(f"sqlite:///{place / 'mlflow.db'}")
    return tracking.fetch(tracking.find(register(meta, tracking)), place / "downloads")


@pytest.fixture
def folder(_files: Path, tmp_path: Path) -> Path:
    """A copy of them, to be spoiled."""
    return Path(shutil.copytree(_files, tmp_path / "copy"))


def spoil(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / EXTRA / FACTS
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def test_it_is_restored_to_the_last_bit(meta: MetaClassifier, folder: Path) -> None:
    stored = restore(folder)
    for field in fields(MetaClassifier):
        if field.name != "estimator":
            np.testing.assert_array_equal(getattr(stored.meta, field.name), getattr(meta, field.name))
    every = evidence_rows([cause.name for cause in CAUSES] * 8)
    for rows in (every, without(every, ["missing_knowledge.", "left_side_forgetting."]), every.slice(0, 0)):
        assert stored.meta.predict_proba(rows).tobytes() == meta.predict_proba(rows).tobytes()
    assert stored.facts["signals"]["provenance"] == FACTS_OF_SIGNALS.provenance
    assert (folder / EXTRA / "card.md").read_text() == "# card"


def test_a_classifier_of_nothing_is_restored_too(workplace: Path) -> None:
    tracking = Tracking()
    uri = register(untrained_meta(), tracking)
    assert restore(tracking.fetch(tracking.find(uri), workplace)).meta.causes == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: facts.update(format=99), "format 99"),
        (lambda facts: facts.pop("check"), "has no 'check'"),
        (lambda facts: facts.update(check={}), "cannot be asked"),
        (lambda facts: facts.update(check=[1]), "has no 'check'"),
        (lambda facts: facts.update(signals={"provenance": 3}), "has no 'provenance'"),
        (
            lambda facts: facts["classifier"].update(low={"array": ["x"], "dtype": "float64", "shape": [1]}),
            "understood",
        ),
        (lambda facts: facts["classifier"].update(features=["same"] * 24), "cannot be asked|do not belong"),
        (lambda facts: facts["classifier"].pop("low"), "another version of ilp"),
        (lambda facts: facts["classifier"].update(depth=3), "another version of ilp"),
        (lambda facts: facts["classifier"].update(causes=["other"]), "do not belong together"),
        (lambda facts: facts["classifier"].update(low=[0.0]), "do not belong together"),
        (lambda facts: facts["classifier"]["high"]["array"].__setitem__(0, 99.0), "other probabilities"),
        (lambda facts: facts["classifier"]["features"].__setitem__(0, "a.b"), "cannot be asked"),
    ],
)
def test_facts_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, object]], object], said: str
) -> None:
    spoil(folder, change)
    with pytest.raises(SourceUnreadableError, match=said):
        restore(folder)


def test_missing_and_damaged_files_are_refused(folder: Path) -> None:
    (folder / EXTRA / FACTS).write_text("{")
    with pytest.raises(SourceUnreadableError, match="no JSON"):
        restore(folder)
    (folder / EXTRA / FACTS).unlink()
    with pytest.raises(SourceUnreadableError, match="ilp classifier register"):
        restore(folder)


def test_a_half_written_estimator_is_refused(folder: Path) -> None:
    (folder / ESTIMATOR).write_bytes((folder / ESTIMATOR).read_bytes()[:1000])
    with pytest.raises(SourceUnreadableError, match=r"model\.skops cannot be loaded"):
        restore(folder)


class _Harm:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "harmed"
    (folder / ESTIMATOR).write_bytes(pickle.dumps(_Harm(mark)))
    with pytest.raises(SourceUnreadableError):
        restore(folder)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "Path", "__module__": "pathlib", "__loader__": "X"}))
    (folder / ESTIMATOR).write_bytes(packed.getvalue())
    with pytest.raises(SourceUnreadableError):
        restore(folder)
    assert not mark.exists()


def test_types_that_are_not_trusted_are_refused_whatever_the_model_says_of_itself(folder: Path) -> None:
    with pytest.raises(SourceUnreadableError, match=r"not trusted: numpy\.dtype, sklearn"):
        restore(folder, trusted=())


def test_without_a_champion_the_built_in_one_is_taken_in_silence(meta: MetaClassifier, workplace: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            chosen = choose_classifier(CHAMPION, Tracking(), CAUSES, workplace)
            assert (chosen.uri, chosen.digest, chosen.fallback) == (BUILT_IN, signals_digest(), False)
            assert "no model" in chosen.reason
            register(meta, Tracking(), alias=None)


def test_the_champion_is_taken_and_the_newest_is_not(meta: MetaClassifier, workplace: Path) -> None:
    first = register(meta, Tracking())
    second = register(meta, Tracking(), alias=None)
    chosen = choose_classifier(CHAMPION, Tracking(), CAUSES, workplace)
    assert (chosen.uri, chosen.fallback) == (first, False)
    assert chosen.meta().causes == meta.causes
    assert choose_classifier(second, Tracking(), CAUSES, workplace).uri == second
    assert choose_classifier(BUILT_IN, Tracking(), CAUSES, workplace).uri == BUILT_IN


def test_a_broken_champion_is_told_and_replaced_but_a_named_one_is_refused(
    meta: MetaClassifier, workplace: Path
) -> None:
    uri = register(meta, Tracking())
    model = Tracking().fetch(Tracking().find(uri), workplace)
    (model / ESTIMATOR).write_bytes(b"not a skops file")
    with pytest.warns(IlpWarning, match=f"{uri} cannot be used.*the built-in classifier is used instead"):
        chosen = choose_classifier(CHAMPION, Tracking(), CAUSES, workplace)
    assert (chosen.uri, chosen.fallback) == (BUILT_IN, True)
    with pytest.raises(SourceUnreadableError, match="cannot be used"):
        choose_classifier(uri, Tracking(), CAUSES, workplace)
    shutil.rmtree(model)
    with pytest.warns(IlpWarning, match="no such folder"):
        assert choose_classifier(CHAMPION, Tracking(), CAUSES, workplace).fallback


def test_an_estimator_of_other_types_is_not_loaded_as_champion(meta: MetaClassifier, workplace: Path) -> None:
    rows = evidence_rows([cause.name for cause in CAUSES] * 3)
    labels = [*meta.causes, *meta.causes, *meta.causes]
    forest = RandomForestClassifier(2, random_state=0).fit(meta.frame(rows), labels)
    other = replace(meta, estimator=forest)
    trusted = "sklearn.tree._tree.Tree"
    tracking = Tracking()
    with tracking.run("register") as run:
        (workplace / FACTS).write_text(json.dumps(facts_of(other, FACTS_OF_SIGNALS, 0)))
        uri = run.log_sklearn(forest, "m", meta.frame(rows), (trusted,), [workplace / FACTS])
        version = register_classifier(run, uri, description="", tags={})
    tracking.set_alias(MODEL_NAME, str(version.version), CHAMPION)
    with pytest.warns(IlpWarning, match=r"not trusted: sklearn\.tree\._tree\.Tree"):
        assert choose_classifier(CHAMPION, tracking, CAUSES, workplace).uri == BUILT_IN


def test_a_classifier_that_looks_at_signals_nobody_measures_does_not_fit(meta: MetaClassifier, workplace: Path) -> None:
    register(meta, Tracking())
    renamed = FakeCause("missing_knowledge")
    renamed.__dict__["signals"] = renamed.signals[1:]
    with pytest.warns(IlpWarning, match=r"'missing_knowledge\.cloze_entropy', which the loaded plugin does not have"):
        chosen = choose_classifier(CHAMPION, Tracking(), [renamed, *CAUSES[1:]], workplace)
    assert chosen.fallback


def test_causes_that_are_switched_off_are_no_misfit_but_having_none_is(meta: MetaClassifier) -> None:
    assert misfit(meta, CAUSES) is None
    assert misfit(meta, CAUSES[2:]) is None
    assert "none of them is loaded" in str(misfit(meta, [FakeCause("stranger")]))


def test_a_model_that_is_not_there_is_refused_where_it_was_named(workplace: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nobody"):
        choose_classifier("models:/nobody/1", Tracking(), CAUSES, workplace)


def test_the_registry_shows_the_card(meta: MetaClassifier, workplace: Path) -> None:
    tracking = Tracking()
    text = card(signals_table())
    with tracking.run("register") as run:
        uri = log_classifier(run, meta, facts_of(meta, FACTS_OF_SIGNALS, 0), text)
        version = register_classifier(run, uri, description=text * 20, tags={"ilp.digest": "x"})
    found = tracking.client().get_model_version(MODEL_NAME, version.version)
    assert found.description.startswith("### Training")
    assert found.tags["ilp.digest"] == "x"
