"""``ilp serve`` with a stub for the diagnosis: ``python -m benchmarks.service_stub``.

The stub is this file again, as a job's subprocess: it says the steps one after the other, ends the run as the real one
does, and adds a line to ``published.log`` in the working folder, so that whatever is published twice is seen.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from urllib.parse import urlsplit


def tell(event: str, **facts: object) -> None:
    """A line for the service."""
    print(json.dumps({"event": event, **facts}), flush=True)


def end_run(store: str, run_id: str) -> None:
    """End the run at the MLflow server; by hand, for importing an HTTP client costs more than all the rest."""
    place = urlsplit(store)
    body = json.dumps({"run_id": run_id, "status": "FINISHED"}).encode()
    user = f"{os.environ.get('MLFLOW_TRACKING_USERNAME')}:{os.environ.get('MLFLOW_TRACKING_PASSWORD')}"
    token = base64.b64encode(user.encode()).decode()
    head = f"POST /api/2.0/mlflow/runs/update HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Basic {token}\r\n"
    with socket.create_connection((str(place.hostname), place.port or 80), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    if not answer.startswith(b"HTTP/1.1 200"):
        tell("end", status="failed", reason=f"MLflow answers {answer[:40]!r}.", again=True)
        sys.exit(1)


def main() -> None:
    """One job."""
    task = json.loads(sys.stdin.readline())
    for step in ("stage", "evaluate", "attribute", "report"):
        tell("step", step=step, facts={})
    end_run(task["store"], task["run_id"])
    log = os.open(os.path.join(task["settings"]["work_dir"], "published.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # noqa: PTH118
    os.write(log, f"{task['job_id']}\n".encode())
    os.close(log)
    tell("step", step="publish", facts={"unlearned_rate": 0.25, "top_cause": "missing_knowledge", "report": None})
    tell("end", status="done", reason=None, again=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["job"]:
        main()
    else:
        from ilp_service.errors import IlpError
        from ilp_service.service.command import run
        from ilp_service.service.configuration import load_configuration

        try:
            run(load_configuration(), (sys.executable, "-I", "-S", __file__, "job"))
        except IlpError as error:
            sys.exit(str(error))
