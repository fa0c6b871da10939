"""Dockerfile, compose file and systemd unit, as far as they can be judged without the programs that read them."""

from __future__ import annotations

import configparser
import fnmatch
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ilp_service.service.configuration import PREFIX, ServiceSettings
from tests.deploy.conftest import DEPLOY, ROOT

SECRETS = set(re.findall(r"^add (\w+)", (DEPLOY / "secrets").read_text(), re.MULTILINE))
INSTRUCTIONS = {
    "ARG", "CMD", "COPY", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER", "VOLUME",
    "WORKDIR",
}  # fmt: skip


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    found = [tuple(line.split(maxsplit=1)) for line in lines]
    assert all(len(one) == 2 for one in found), found
    return [(name, rest) for name, rest in found]


def stages() -> list[list[tuple[str, str]]]:
    """The same by stage, without what comes before the first."""
    made: list[list[tuple[str, str]]] = []
    for one in instructions():
        if one[0] == "FROM":
            made.append([])
        if made:
            made[-1].append(one)
    return made


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def needed(service: dict[str, Any]) -> set[str]:
    """Secrets that the environment of a compose service gets."""
    return {name for value in service.get("environment", {}).values() for name in SECRETS if f"${{{name}" in str(value)}


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out; the last line that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parts = path.split("/")
        # A pattern fits what lies below as well; "**/" stands for any number of folders, none included.
        beginnings = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
        else:
            fits = any(fnmatch.fnmatchcase(one, pattern) for one in beginnings)
        if fits:
            out = not line.strip().startswith("!")
    return out


def test_the_image_is_built_in_two_stages_and_runs_as_nobody_special() -> None:
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    build, final = stages()
    assert build[0][1].endswith(" AS build")
    assert ("ARG", "PYTHON_IMAGE=python:3.11-slim") in instructions()
    assert ("ARG", "TORCH_VARIANT=cpu") in build
    (user,) = [rest for name, rest in final if name == "USER"]
    assert user == "10001:10001"
    # Nothing is made as root after the user is set.
    after = [name for name, _ in final[[name for name, _ in final].index("USER") + 1 :]]
    assert not {"RUN", "COPY"} & set(after)
    assert dict(final)["CMD"] == '["/opt/ilp/deploy/serve"]'


def test_the_image_asks_the_service_how_it_is() -> None:
    (check,) = [rest for name, rest in instructions() if name == "HEALTHCHECK"]
    assert check.endswith('"/opt/ilp/deploy/healthy", "http://127.0.0.1:8350/healthz"]')
    environment = dict(instructions())["ENV"]
    assert "ILP_SERVICE_PORT=8350" in environment
    for name in re.findall(rf"{PREFIX}(\w+)=", environment):
        assert name.lower() in ServiceSettings.model_fields


def test_no_secret_can_get_into_a_layer() -> None:
    for name, rest in instructions():
        assert not any(secret in rest for secret in SECRETS), (name, rest)
        if name in {"ARG", "ENV"}:
            assert not re.search("PASSWORD|SECRET|TOKEN|KEY", rest), (name, rest)
    for path in (
        ".env",
        "deploy/.env",
        "ilp_service/.env.local",
        ".git/config",
        "mlruns/serve/env",
        "mlruns/mlflow.db",
    ):
        assert ignored(path), path
    assert all(ignored(f"ilp_service/{path}") for path in ("__pycache__/cli.cpython-311.pyc", "service/old.pyc"))


def test_what_the_image_copies_is_there_and_sent_along() -> None:
    """Every source of a COPY exists, is not left out of the build's context, and its scripts can be run."""
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = [source for some in copied for source in some]
    assert "deploy/install" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
        if source.startswith("deploy/"):
            assert os.access(ROOT / source, os.X_OK), source
    # What the installation reads is copied before it runs.
    build = stages()[0]
    run = next(index for index, one in enumerate(build) if one[0] == "RUN" and "install service" in one[1])
    before = " ".join(rest for name, rest in build[:run] if name == "COPY")
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "ilp_service", "plugins"):
        assert name in before.split()


def test_scripts_that_files_name_are_there() -> None:
    for file in ("Dockerfile", "compose.yaml", "deploy/ilp-service.service", "scripts/serve.py", "docs/operations.md"):
        for name in re.findall(r"\bdeploy/([a-z-]+(?:\.service)?)", (ROOT / file).read_text()):
            assert (DEPLOY / name).exists(), (file, name)


def test_compose_starts_in_the_order_of_health() -> None:
    services = compose()["services"]
    assert set(services) == {"postgres", "mlflow", "service", "webhook"}
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, (name, other)
            assert "test" in services[other].get("healthcheck", {}) or other == "service", other
    assert set(services["webhook"]["depends_on"]) == {"mlflow", "service"}
    assert set(services["service"]["depends_on"]) == {"postgres", "mlflow"}


def test_compose_gives_each_container_only_its_own_secrets() -> None:
    services = compose()["services"]
    assert {name: needed(service) for name, service in services.items()} == {
        "postgres": {"POSTGRES_PASSWORD", "MLFLOW_DATABASE_PASSWORD", "ILP_DATABASE_PASSWORD"},
        "mlflow": {"MLFLOW_DATABASE_PASSWORD", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"},
        "service": {"ILP_DATABASE_PASSWORD", "ILP_SERVICE_TOKEN", "ILP_WEBHOOK_SECRET"},
        "webhook": {"ILP_WEBHOOK_SECRET"},
    }
    for name, service in services.items():
        assert "env_file" not in service, name
        for value in service["environment"].values():
            # Without .env it stops with a sentence, and not with empty secrets.
            for secret in SECRETS:
                if secret in str(value):
                    assert f"${{{secret}:?run deploy/secrets first}}" in value, (name, value)
        said = json_of({key: value for key, value in service.items() if key != "environment"})
        assert not any(secret in said for secret in SECRETS), name


def json_of(value: object) -> str:
    import json

    return json.dumps(value)


def test_compose_containers_can_write_their_volumes_alone() -> None:
    loaded = compose()
    for name in ("mlflow", "service", "webhook"):
        service = loaded["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["tmpfs"]
        assert service["command"][0].removeprefix("/opt/ilp/deploy/") in {"mlflow", "serve", "webhook"}
    for service in loaded["services"].values():
        # Only this machine reaches anything, unless somebody puts a proxy with TLS before it.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        named = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith((".", "$"))}
        assert named <= set(loaded["volumes"])


def test_compose_settings_are_settings() -> None:
    services = compose()["services"]
    for name in services["service"]["environment"]:
        if name.startswith(PREFIX):
            assert name.removeprefix(PREFIX).lower() in ServiceSettings.model_fields, name
    # The names under which the others reach MLflow pass its check of hosts.
    allowed = services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    for name in ("service", "webhook"):
        assert services[name]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://") in allowed
    assert services["webhook"]["environment"]["ILP_SERVICE_URL"] == "http://service:8350"


def test_the_gpu_file_only_adds_a_gpu() -> None:
    loaded = yaml.safe_load((ROOT / "compose.cuda.yaml").read_text())
    assert list(loaded) == ["services"]
    assert list(loaded["services"]) == ["service"]
    (device,) = loaded["services"]["service"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "ilp-service.service")
    return parser


def test_the_unit_is_confined_and_restarted() -> None:
    service = unit()["Service"]
    assert service["User"] == "ilp"
    assert service["ExecStart"] == "/opt/ilp/deploy/serve"
    assert service["EnvironmentFile"] == "/etc/ilp-service/env"
    assert service["Restart"] == "always"
    # The service has time to tell its jobs to stop, and they to write down where they are.
    assert int(service["TimeoutStopSec"]) > ServiceSettings().grace + 15
    assert (service["NoNewPrivileges"], service["ProtectSystem"]) == ("yes", "strict")
    assert service["CapabilityBoundingSet"] == ""
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """By systemd's own check where it is there; everywhere its form."""
    text = (DEPLOY / "ilp-service.service").read_text()
    assert set(unit()) == {"DEFAULT", "Unit", "Service", "Install"}
    for line in text.splitlines():
        assert re.fullmatch(r"|#.*|\[\w+\]|[A-Z]\w+=.*", line), line
    program = shutil.which("systemd-analyze")
    if program is None:
        return
    # It checks that the program is there, which it is in the place where it will be installed.
    path = tmp_path / "ilp-service.service"
    path.write_text(text.replace("/opt/ilp/deploy/serve", str(DEPLOY / "serve")))
    done = subprocess.run(
        [program, "verify", "--man=no", path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "ilp-service.service" not in done.stderr, done.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in DEPLOY.iterdir() if path.is_file()))
def test_scripts_parse_and_stop_at_the_first_error(script: str) -> None:
    text = (DEPLOY / script).read_text()
    if text.startswith("#!/bin/sh"):
        assert "\nset -eu\n" in text
        subprocess.run(["sh", "-n", DEPLOY / script], check=True)
        assert os.access(DEPLOY / script, os.X_OK)
    else:
        assert text.startswith(("#!/usr/bin/env python3", "# The service on one machine"))
