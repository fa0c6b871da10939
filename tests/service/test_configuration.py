"""Settings of the service: where they come from, what is refused, and that secrets stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from ilp_service.errors import SettingsError
from ilp_service.service.configuration import ServiceSettings, load_configuration

SECRET = "s3cret-" * 8


def test_the_strongest_source_wins_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1\ninterval: 2\nworkers: 3\nmodels:\n  'bot-*': {data: d.jsonl}\n")
    environment = {"ILP_SERVICE_PORT": "4", "ILP_SERVICE_INTERVAL": "5", "ILP_SERVICE_NAMES": "a*, b*"}
    found = load_configuration({"port": 6, "host": None, "names": ()}, file, environment)
    settings = found.settings
    assert (settings.port, settings.interval, settings.workers, settings.names) == (6, 5.0, 3, ("a*", "b*"))
    assert settings.models["bot-*"].data == "d.jsonl"
    origins = {name: found.origins[name] for name in ("port", "interval", "workers", "names", "host")}
    assert origins == {
        "port": "flag",
        "interval": "ILP_SERVICE_INTERVAL",
        "workers": str(file),
        "names": "ILP_SERVICE_NAMES",
        "host": "default",
    }
    assert set(found.origins) == set(ServiceSettings.model_fields)
    assert len(found.lines()) == len(ServiceSettings.model_fields)


def test_secrets_come_from_files_and_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    (tmp_path / "url").write_text(f"postgresql://ilp:{SECRET}@db/ilp\n")
    environment = {
        "ILP_SERVICE_TOKEN_FILE": str(tmp_path / "token"),
        "ILP_SERVICE_DATABASE_FILE": str(tmp_path / "url"),
        "ILP_WEBHOOK_SECRET": SECRET,
        "MLFLOW_TRACKING_URI": f"https://me:{SECRET}@mlflow",
    }
    found = load_configuration({}, None, environment)
    assert found.settings.token is not None
    assert found.settings.token.get_secret_value() == SECRET
    assert found.settings.webhook_secret is not None
    assert found.settings.database == f"postgresql://ilp:{SECRET}@db/ilp"
    text = "\n".join(found.lines()) + repr(found.settings.token)
    assert SECRET not in text
    assert "ILP_SERVICE_TOKEN_FILE" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 1", "unknown settings prot"),
        ("token: abc", "secret token"),
        ("webhook_secret: abc", "secret webhook_secret"),
        ("[1, 2]", "list"),
        ("a: [", "cannot be read"),
        ("port: 70000", "'port'"),
        ("models: {x: {dta: y}}", "models.x.dta"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=words):
        load_configuration({}, file, {})


def test_a_wrong_variable_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ILP_SERVICE_PROT is no setting"):
        load_configuration({}, None, {"ILP_SERVICE_PROT": "1"})
    with pytest.raises(SettingsError, match="cannot be read"):
        load_configuration({}, None, {"ILP_SERVICE_TOKEN_FILE": str(tmp_path / "none")})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SettingsError, match="empty"):
        load_configuration({}, None, {"ILP_WEBHOOK_SECRET_FILE": str(tmp_path / "empty")})
    assert load_configuration({}, None, {"ILP_SERVICE_PORT": ""}).settings.port == 8350


def test_nobody_listens_to_the_world_without_a_token() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        load_configuration({"host": host}, None, {}).settings.check()
    with pytest.raises(SettingsError, match="without a token"):
        load_configuration({"host": "0.0.0.0"}, None, {}).settings.check()  # noqa: S104
    load_configuration({"host": "0.0.0.0"}, None, {"ILP_SERVICE_TOKEN": SECRET}).settings.check()  # noqa: S104
