"""An attempt's process: heard, limited, ended as a whole, and told nothing that it needs not know."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ilp_service.service.child import Task
from ilp_service.service.supervision import Attempt, Limits

WIDE = Limits(memory=1 << 34, seconds=60, grace=1)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import os, sys, json, time, subprocess\n{code}")


def everything(attempt: Attempt) -> list[dict[str, Any]]:
    said = []
    deadline = time.monotonic() + 30
    while not attempt.over:
        assert time.monotonic() < deadline
        one = attempt.next(0.1)
        attempt.check()
        if one is not None:
            said.append(one)
    return said


def gone(pid: int) -> bool:
    """Whether a process that was killed is gone, once the system has had time to see to it."""
    for _ in range(100):
        try:
            if str(psutil.Process(pid).status()) == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_what_it_says_is_heard_in_order_and_noise_is_not(tmp_path: Path) -> None:
    code = (
        "print('{\"a\": 1}'); print('noise'); print('[1]'); print('{\"a\": 2}'); sys.stderr.write(sys.stdin.readline())"
    )
    attempt = Attempt("the task\n", tmp_path / "job", WIDE, python(code))
    assert everything(attempt) == [{"a": 1}, {"a": 2}]
    assert attempt.close() == 0
    assert (tmp_path / "job" / "log.txt").read_text() == "the task\n"


def test_secrets_of_the_service_do_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ILP_WEBHOOK_SECRET", "ILP_WEBHOOK_SECRET_FILE", "ILP_SERVICE_TOKEN", "ILP_SERVICE_DATABASE"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("MLFLOW_RUN_ID", "r")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "needed")
    code = "print(json.dumps({'env': dict(os.environ), 'cwd': os.getcwd()}))"
    attempt = Attempt("", tmp_path / "job", WIDE, python(code), {"TMPDIR": "/x"})
    (said,) = everything(attempt)
    attempt.close()
    found = said["env"]
    assert not [name for name in found if name.startswith(("ILP_WEBHOOK", "ILP_SERVICE", "MLFLOW_RUN"))]
    assert (found["MLFLOW_TRACKING_PASSWORD"], found["TMPDIR"]) == ("needed", "/x")
    assert said["cwd"] == str(tmp_path / "job")


def test_too_much_memory_ends_it_and_says_so(tmp_path: Path) -> None:
    code = "x = bytearray(300 << 20)\nx[::4096] = b'x' * len(x[::4096])\ntime.sleep(30)"
    attempt = Attempt("", tmp_path, Limits(200 << 20, 60, 1), python(code))
    begin = time.monotonic()
    assert everything(attempt) == []
    assert attempt.close() == -9
    assert "memory_mb" in str(attempt.killed_for)
    assert time.monotonic() - begin < 20


def test_too_much_time_ends_it_with_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(json.dumps({'pid': p.pid}), flush=True)\ntime.sleep(60)"
    )
    attempt = Attempt("", tmp_path, Limits(1 << 34, 2.0, 1), python(code))
    (said,) = everything(attempt)
    assert "time_limit" in str(attempt.killed_for)
    assert attempt.close() == -9
    assert gone(said["pid"])


def test_it_is_told_to_stop_before_it_is_killed(tmp_path: Path) -> None:
    polite = (
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: (print('{\"bye\": 1}', flush=True), os._exit(3)))\n"
    )
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    for code, status, words in ((polite, 3, [{"bye": 1}]), (deaf, -9, [])):
        attempt = Attempt("", tmp_path, WIDE, python(f"{code}print('{{}}', flush=True)\ntime.sleep(60)"))
        assert attempt.next(20) == {}
        attempt.stop()
        assert everything(attempt) == words
        assert attempt.close() == status


def test_a_flood_of_log_is_cut(tmp_path: Path) -> None:
    attempt = Attempt("", tmp_path, WIDE, python("sys.stderr.write('x' * (6 << 20)); print('{}')"))
    assert everything(attempt) == [{}]
    attempt.close()
    assert (tmp_path / "log.txt").stat().st_size == 4 << 20


def test_it_ends_when_the_service_is_gone(tmp_path: Path) -> None:
    code = "from ilp_service.service import child\nchild.perform = lambda *_: time.sleep(60)\nchild.main()"
    task = Task("j", "models:/m/1", "sqlite:///x", "ilp", "r", "d", None, None, {}, (), 1, 1)
    attempt = Attempt(task.line(), tmp_path, WIDE, python(code))
    time.sleep(1.5)
    assert attempt._process.poll() is None
    assert attempt._process.stdin is not None
    attempt._process.stdin.close()
    assert attempt._process.wait(10) == -9
    attempt.close()


def test_a_task_that_cannot_be_read_is_an_end(tmp_path: Path) -> None:
    attempt = Attempt("{}\n", tmp_path, WIDE)
    (said,) = everything(attempt)
    assert (said["event"], said["status"], said["again"]) == ("end", "failed", False)
    assert attempt.close() == 1
