"""An MLflow server and the service side by side on this machine, for a first try: ``make serve``.

Both use the embedded store under ``mlruns/``, so that what ``make demo`` made is there. Ctrl-C stops both in order: the
service first, so that it can tell MLflow where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0
STOP_SECONDS = 60.0
_SHOWN_LINES = 20
_OVERRIDDEN = {"ILP_SERVICE_TRACKING_URI", "ILP_SERVICE_HOST", "ILP_SERVICE_PORT", "ILP_WEBHOOK_SECRET_FILE"}


class ServeError(Exception):
    """One sentence for the user."""


class _Stopped(Exception):  # noqa: N818 - no error
    """SIGINT or SIGTERM arrived."""


class Part:
    """A server that was started; its output goes to a file."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
        self.name, self.log = name, log
        with log.open("wb") as stream:
            # A group of its own: Ctrl-C in the terminal reaches this script alone, which stops the parts in order.
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, address: str) -> None:
        """Wait until it answers.

        Raises:
            ServeError: It ends, or does not answer in time.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError), opener.open(address, timeout=2):
                return
            time.sleep(0.2)
        raise ServeError(f"{self.name} does not answer at {address} after {START_SECONDS:.0f} s; see {self.log}.")

    def check(self) -> None:
        """See whether it goes on.

        Raises:
            ServeError: It has ended; the end of its log is in the message.
        """
        code = self.process.poll()
        if code is not None:
            last = self.log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
            raise ServeError("\n".join([*last, f"{self.name} ended with status {code}; its log is {self.log}."]))

    def stop(self) -> None:
        """Tell it to stop, and kill it with all that it started when it does not in time."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="MLflow and the service on 127.0.0.1, for a first try.")
    parser.add_argument("--mlflow-port", type=int, default=5000, help="0, or one that is taken: a free one")
    parser.add_argument("--port", type=int, default=8350, help="the same for the service")
    parser.add_argument("--folder", type=Path, default=Path(), help="where mlruns/ is  [default: the current folder]")
    given, rest = parser.parse_known_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    parts: list[Part] = []
    code = 0
    try:
        _serve(given.folder.resolve(), given.mlflow_port, given.port, rest, parts)
    except _Stopped:
        print("\nstopping", flush=True)
    except ServeError as error:
        print(error, file=sys.stderr)
        code = 1
    finally:
        # A second Ctrl-C must not leave the other one behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for part in reversed(parts):
            part.stop()
    if code == 0:
        print("stopped", flush=True)
    return code


def _serve(folder: Path, mlflow_port: int, port: int, rest: list[str], parts: list[Part]) -> None:
    """Start both, and wait until one ends; everything that was started is in ``parts``."""
    store, kept = folder / "mlruns", folder / "mlruns" / "serve"
    kept.mkdir(parents=True, exist_ok=True)
    secrets = kept / "env"
    subprocess.run([ROOT / "deploy" / "secrets", secrets], check=True, stderr=subprocess.DEVNULL)
    mlflow_address, address = f"http://127.0.0.1:{free_port(mlflow_port)}", f"http://127.0.0.1:{free_port(port)}"
    # Nothing of the surrounding shell may turn this into another store or service than the one it says.
    common = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_") and name not in _OVERRIDDEN
    }
    common |= {"ILP_BIN": str(Path(sys.executable).parent), "PYTHONUNBUFFERED": "1"}
    known = _read(secrets)
    server = common | {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": known["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"],
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{store / 'mlflow.db'}",
        # Clients on this machine write artifacts themselves, so those of direct and of remote runs lie side by side.
        "MLFLOW_SERVE_ARTIFACTS": "false",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(store / "artifacts"),
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": mlflow_address.rpartition(":")[2],
        # A webhook counts from the next second on, not from the next minute.
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    }
    print(f"starting MLflow (log: {kept / 'mlflow.log'})", flush=True)
    parts.append(Part("MLflow", [str(ROOT / "deploy" / "mlflow")], server, folder, kept / "mlflow.log"))
    parts[-1].wait_for(f"{mlflow_address}/health")
    service = common | {
        "ILP_WEBHOOK_SECRET": known["ILP_WEBHOOK_SECRET"],
        "MLFLOW_TRACKING_URI": mlflow_address,
        "ILP_SERVICE_HOST": "127.0.0.1",
        "ILP_SERVICE_PORT": address.rpartition(":")[2],
    }
    print(f"starting the service (log: {kept / 'service.log'})", flush=True)
    parts.append(Part("the service", [str(ROOT / "deploy" / "serve"), *rest], service, folder, kept / "service.log"))
    parts[-1].wait_for(f"{address}/readyz")
    _install_webhook(service | {"ILP_SERVICE_URL": address}, folder)
    print(
        f"\nMLflow:   {mlflow_address}\nservice:  {address}\n\n"
        f"Register a version with MLFLOW_TRACKING_URI={mlflow_address}, and it is diagnosed by itself.\n"
        "Ctrl-C stops both.",
        flush=True,
    )
    while True:
        for part in parts:
            part.check()
        time.sleep(0.5)


def _install_webhook(environment: dict[str, str], folder: Path) -> None:
    """Have MLflow announce versions to the service."""
    done = subprocess.run(
        [ROOT / "deploy" / "webhook"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServeError(f"The webhook could not be installed: {(done.stderr or done.stdout).strip()[-2000:]}")


def free_port(wanted: int) -> int:
    """The port that is wanted if nobody listens on it, else a free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServeError("No port of 127.0.0.1 is free.")


def _read(file: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in file.read_text(encoding="utf-8").splitlines() if "=" in line)
    return {name: value for name, _, value in lines}


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise _Stopped


if __name__ == "__main__":
    sys.exit(main())
