"""The steps of the image and of the compose file, run without either."""

from __future__ import annotations

import base64
import http.server
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import DEPLOY, ROOT, Call

SECRETS = (
    "ILP_WEBHOOK_SECRET",
    "ILP_SERVICE_TOKEN",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "POSTGRES_PASSWORD",
    "MLFLOW_DATABASE_PASSWORD",
    "ILP_DATABASE_PASSWORD",
)


def read(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def stand_in(folder: Path, name: str, text: str = 'echo "$0 $*"; env') -> Path:
    """A program that says how it was called."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_secrets_are_made_once_for_their_owner_alone(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "env"
    os.umask(0o022)
    done = call("secrets", file)
    assert done.returncode == 0
    made = read(file)
    assert tuple(made) == SECRETS
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(value in done.stdout + done.stderr for value in made.values())
    assert len(set(made.values())) == len(SECRETS)
    assert all(len(value) >= 43 for value in made.values())

    before = file.read_text()
    call("secrets", file)
    assert file.read_text() == before


def test_the_encryption_key_is_one_that_mlflow_takes(call: Call, tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    call("secrets", tmp_path / "env")
    key = read(tmp_path / "env")["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"]
    assert len(base64.urlsafe_b64decode(key)) == 32
    cipher = Fernet(key.encode())
    assert cipher.decrypt(cipher.encrypt(b"secret")) == b"secret"


def test_secrets_that_are_missing_are_added_and_others_stay(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("ILP_WEBHOOK_SECRET=mine, and none of yours\nILP_SERVICE_TOKEN=\nOTHER=1")
    file.chmod(0o644)
    assert call("secrets", file).returncode == 0
    made = read(file)
    assert made["ILP_WEBHOOK_SECRET"] == "mine, and none of yours"  # noqa: S105
    assert made["OTHER"] == "1"
    assert len(made["ILP_SERVICE_TOKEN"]) == 64
    assert set(made) == {*SECRETS, "OTHER"}
    assert file.read_text().count("ILP_SERVICE_TOKEN=") == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.timeout(120)
def test_install_makes_an_environment_with_the_command(tmp_path: Path) -> None:
    """Everything that the service needs is there already, by PYTHONPATH: no index is asked."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("deploy", "ilp_service", "plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    installed = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHON": sys.executable,
        "PYTHONPATH": installed,
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_CONFIG_FILE": os.devnull,
    }
    venv = tmp_path / "venv"
    command = [source / "deploy" / "install", "service", "--venv", venv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (venv / "bin" / "ilp").is_file()
    assert "Successfully installed ilp-service" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("ilp, version ")
    (packages,) = venv.glob("lib/python3.*/site-packages")
    assert (packages / "ilp_causes" / "__init__.py").is_file()
    for pattern in ("service/templates/*.j2", "service/static/*.css", "attribution/*.parquet"):
        assert list((packages / "ilp_service").glob(pattern)), pattern


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("cpu", "--no-deps --index-url https://download.pytorch.org/whl/cpu torch"),
        ("cuda", "torch"),
    ],
)
def test_install_takes_the_torch_that_is_asked_for(call: Call, tmp_path: Path, variant: str, expected: str) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    stand_in(tmp_path / "venv" / "bin", "python", 'echo "$*"')
    done = call("install", "torch", "--venv", tmp_path / "venv", "--variant", variant, PYTHON=sys.executable)
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith(f"-c {ROOT}/constraints.txt {expected}")


@pytest.mark.parametrize("arguments", [("--variant", "tpu"), ("--frobnicate",), ("service", "torch")])
def test_install_refuses_what_it_does_not_know(call: Call, arguments: tuple[str, ...]) -> None:
    done = call("install", *arguments, PYTHON=sys.executable)
    assert done.returncode == 2
    assert "expected" in done.stderr


def test_mlflow_gets_what_webhooks_need_and_no_secret_as_an_argument(call: Call, tmp_path: Path) -> None:
    stand_in(tmp_path, "mlflow")
    done = call(
        "mlflow",
        ILP_BIN=str(tmp_path),
        MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY="the-key",  # noqa: S106
        MLFLOW_BACKEND_STORE_URI="postgresql://mlflow:the-password@db/mlflow",
    )
    assert done.returncode == 0, done.stderr
    called, *variables = done.stdout.splitlines()
    assert called == f"{tmp_path}/mlflow server"
    assert {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
        "MLFLOW_DISABLE_TELEMETRY=true",
    } <= set(variables)


@pytest.mark.parametrize("missing", ["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "MLFLOW_BACKEND_STORE_URI"])
def test_mlflow_does_not_start_without(call: Call, tmp_path: Path, missing: str) -> None:
    stand_in(tmp_path, "mlflow")
    variables = {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "k", "MLFLOW_BACKEND_STORE_URI": "u", "ILP_BIN": str(tmp_path)}
    del variables[missing]
    done = call("mlflow", **variables)
    assert done.returncode != 0
    assert f"{missing}: is missing" in done.stderr
    assert not done.stdout


def test_mlflow_asks_for_users_where_that_is_wanted(call: Call, tmp_path: Path) -> None:
    stand_in(tmp_path, "mlflow")
    given = {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "k", "MLFLOW_BACKEND_STORE_URI": "u", "ILP_BIN": str(tmp_path)}
    assert "MLFLOW_FLASK_SERVER_SECRET_KEY" in call("mlflow", ILP_MLFLOW_AUTH="true", **given).stderr
    given |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "s"}
    done = call("mlflow", ILP_MLFLOW_AUTH="true", **given)
    assert done.stdout.startswith(f"{tmp_path}/mlflow server --app-name basic-auth\n")


def test_serve_passes_arguments_on_and_fetches_nothing(call: Call, tmp_path: Path) -> None:
    stand_in(tmp_path, "ilp")
    done = call("serve", "--print-config", "a b", ILP_BIN=str(tmp_path))
    assert done.stdout.startswith(f"{tmp_path}/ilp serve --print-config a b\n")
    assert "HF_HUB_OFFLINE=1" in done.stdout.splitlines()


def test_serve_of_the_real_command_shows_its_settings_without_secrets(call: Call) -> None:
    done = call(
        "serve",
        "--print-config",
        ILP_BIN=str(Path(sys.executable).parent),
        ILP_SERVICE_TOKEN="a token that nobody may see",  # noqa: S106
        ILP_SERVICE_HOST="0.0.0.0",  # noqa: S104
        ILP_SERVICE_DATABASE="postgresql://ilp:a-password-that-nobody-may-see@db/ilp",
    )
    assert done.returncode == 0, done.stderr
    assert "host = '0.0.0.0'    # ILP_SERVICE_HOST" in done.stdout
    assert "nobody" not in done.stdout + done.stderr


def test_serve_says_that_its_folder_is_read_only(tmp_path: Path) -> None:
    stand_in(tmp_path, "ilp")
    closed = Path("/proc")
    command = [DEPLOY / "serve"]
    done = subprocess.run(
        command,
        cwd=closed,
        env={"PATH": os.environ["PATH"], "ILP_BIN": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 31
    assert "/proc cannot be written" in done.stderr


def test_webhook_is_installed_at_the_receiver(call: Call, tmp_path: Path) -> None:
    stand_in(tmp_path, "ilp")
    given = {"ILP_BIN": str(tmp_path), "MLFLOW_TRACKING_URI": "http://mlflow:5000", "ILP_WEBHOOK_SECRET": "the-secret"}
    done = call("webhook", ILP_SERVICE_URL="http://service:8350/", **given)
    called = done.stdout.splitlines()[0]
    assert called == f"{tmp_path}/ilp webhook install http://service:8350/webhooks/mlflow"
    assert "ILP_SERVICE_URL: is missing" in call("webhook", **given).stderr


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_healthy_tells_well_from_unwell_and_gone(call: Call, address: str) -> None:
    assert call("healthy", f"{address}/healthz", http_proxy="http://127.0.0.1:9").returncode == 0
    assert call("healthy", f"{address}/other").returncode == 1
    assert call("healthy", "http://127.0.0.1:9/healthz", "1").returncode == 1
    assert call("healthy", "file:///etc/passwd").returncode == 2
    assert call("healthy").returncode == 2
