"""A job's subprocess without a diagnosis: it speaks as the real one does, and behaves as its model's name says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def end_run(store: str, run_id: str) -> None:
    if store.startswith("http"):
        body = json.dumps({"run_id": run_id, "status": "FINISHED"}).encode()
        ask = Request(f"{store}/api/2.0/mlflow/runs/update", body, {"Content-Type": "application/json"})  # noqa: S310
        urlopen(ask, timeout=10).close()  # noqa: S310


def watch_input() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=watch_input, daemon=True).start()
    name = task["model_uri"].split("/")[1]
    book = Path(task["settings"]["work_dir"]) / "stub" / task["job_id"]
    book.mkdir(parents=True, exist_ok=True)
    turns = len(list(book.glob("turn-*")))
    (book / f"turn-{turns}-{os.getpid()}").touch()
    print("a line of a log", file=sys.stderr, flush=True)
    kind, _, seconds = name.partition("-")
    if kind == "eat":
        eaten = bytearray(400 << 20)
        eaten[:: 1 << 12] = b"x" * len(eaten[:: 1 << 12])
        time.sleep(30)
    if kind == "crash" and turns == 0:
        os.abort()
    if kind == "parent":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (book / "helper").write_text(str(helper.pid))
        time.sleep(60)
    if kind == "deaf":
        # Cancelled, it takes all the time that it is given; what comes after says whether it came too early.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if turns == 0:
            time.sleep(60)
        before = int(next(book.glob("turn-0-*")).name.rpartition("-")[2])
        if Path(f"/proc/{before}").exists():
            (book / "overlap").touch()
    if kind == "refused":
        tell("end", status="refused", reason="Weights that could run code.", again=False)
        return
    if kind == "again" and turns < 2:
        tell("end", status="failed", reason="The disk is full.", again=True)
        return
    if kind == "broken":
        tell("end", status="failed", reason="The disk is full.", again=True)
        return
    pause = float(seconds or 0) / 5
    for step in ("stage", "evaluate", "attribute", "report"):
        time.sleep(pause)
        (book / f"{step}-{turns}").touch()
        tell("step", step=step, facts={})
    time.sleep(pause)
    if not Path(os.environ["TMPDIR"]).is_dir():
        (book / "no-tmpdir").touch()
    end_run(task["store"], task["run_id"])
    (book / f"done-{turns}").touch()
    tell("step", step="publish", facts={"unlearned_rate": 0.25, "top_cause": "missing_knowledge", "report": "r.html"})
    tell("end", status="done", reason=None, again=False)


if __name__ == "__main__":
    main()
