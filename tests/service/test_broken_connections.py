"""What no HTTP client sends, over real connections to the service's own server: it answers or hangs up, and goes on."""

from __future__ import annotations

import contextlib
import random
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psutil
import pytest

from ilp_service.service import answers
from ilp_service.service.receiver import BODY_BYTES
from tests.service.made_up_desk import MadeUpDesk
from tests.service.web import application, encode, event, served, signed

HOW_MANY = 300


def head(body: bytes, length: object, *more: str) -> bytes:
    lines = [f"{name}: {value}" for name, value in signed(body).items()]
    start = ["POST /webhooks/mlflow HTTP/1.1", "Host: 127.0.0.1", *lines, *more]
    if length is not None:
        start.append(f"Content-Length: {length}")
    return "\r\n".join([*start, "", ""]).encode()


def cut_short(dice: random.Random) -> bytes:
    body = encode(event())
    whole = head(body, len(body)) + body
    return whole[: dice.randrange(1, len(whole) - 1)]


def shorter_than_it_says(dice: random.Random) -> bytes:
    body = encode(event())
    return head(body, len(body) + dice.randrange(1, 10**6)) + body


def longer_than_it_says(dice: random.Random) -> bytes:
    body = encode(event())
    return head(body, dice.randrange(len(body))) + body


def odd_length(dice: random.Random) -> bytes:
    body = encode(event())
    return head(body, dice.choice(["-1", "1e3", "0x10", "9" * 400, "", "\xb2", "1, 2"])) + body


def two_lengths(_dice: random.Random) -> bytes:
    body = encode(event())
    return head(body, len(body), "Content-Length: 1", "Transfer-Encoding: chunked") + body


def broken_chunks(dice: random.Random) -> bytes:
    body = encode(event())
    chunk = dice.choice(
        [b"zz\r\n", b"-5\r\n", b"F" * 400 + b"\r\n", b"5\r\nab", f"{len(body):x};{'x' * 5000}\r\n".encode()]
    )
    return head(body, None, "Transfer-Encoding: chunked") + chunk + body


def endless_chunks(_dice: random.Random) -> bytes:
    part = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    return head(b"", None, "Transfer-Encoding: chunked") + part * (3 * BODY_BYTES // 65_536)


def large(_dice: random.Random) -> bytes:
    return head(b"", 10 * BODY_BYTES) + b" " * (3 * BODY_BYTES)


def no_http(dice: random.Random) -> bytes:
    return dice.choice([dice.randbytes(300), b"\x16\x03\x01" + dice.randbytes(200), b"GET\r\n\r\n", b"\0" * 1000])


def odd_path(dice: random.Random) -> bytes:
    path = dice.choice(["//evil", "/%00", "/%zz", "/" + "a" * 20_000, "http://evil.test/", "*", "/\xff", "/jobs/..%2f"])
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode("latin-1")


def many_headers(dice: random.Random) -> bytes:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"y" * dice.randrange(200)) for number in range(2000))
    return b"POST /webhooks/mlflow HTTP/1.1\r\nHost: 127.0.0.1\r\n" + lines + b"\r\n"


def split_headers(_dice: random.Random) -> bytes:
    return head(b"", 0, "X-Note: a\rX-MLflow-Signature: b", "Host: evil.test")


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    cut_short, shorter_than_it_says, longer_than_it_says, odd_length, two_lengths, broken_chunks, endless_chunks, large,
    no_http, odd_path, many_headers, split_headers,
)  # fmt: skip


@pytest.fixture
def desk() -> MadeUpDesk:
    return MadeUpDesk()


@pytest.fixture
def address(desk: MadeUpDesk) -> Iterator[str]:
    with served(application(desk)) as address:
        yield address


def say(address: str, text: bytes) -> bytes:
    """Send it, hang up for sending, and hear what comes back."""
    place = urlsplit(address)
    assert place.hostname is not None
    with socket.create_connection((place.hostname, place.port or 0), timeout=10) as connection:
        heard = b""
        # It may hang up before all is sent.
        with contextlib.suppress(OSError):
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                heard += part
        return heard


def test_broken_connections_make_no_job_and_no_harm(address: str, desk: MadeUpDesk) -> None:
    process, dice = psutil.Process(), random.Random(0)
    say(address, b"x")
    open_before, statuses = process.num_fds(), set()
    for number in range(HOW_MANY):
        make = KINDS[number % len(KINDS)]
        heard = say(address, make(dice))
        statuses |= {line[9:12] for line in heard.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}
        assert b"Traceback" not in heard, make.__name__
    assert {status for status in statuses if status.startswith(b"5")} == set()
    assert statuses >= {b"400", b"401", b"404", b"413"}
    assert (desk.made, desk.deliveries) == ({}, [])
    with urllib.request.urlopen(f"{address}/healthz", timeout=10) as answer:  # noqa: S310
        assert answer.status == 200
    deadline = time.monotonic() + 10
    while process.num_fds() > open_before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.num_fds() <= open_before + 2


def test_slow_senders_keep_nobody_waiting(address: str, desk: MadeUpDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_BODY_SECONDS", 3.0)
    place, body = urlsplit(address), encode(event())
    slow = [socket.create_connection((place.hostname, place.port), timeout=15) for _ in range(40)]
    for connection in slow:
        connection.sendall(head(body, len(body)) + body[:-1])
    began = time.monotonic()
    good = urllib.request.Request(f"{address}/webhooks/mlflow", body, signed(body))  # noqa: S310
    with urllib.request.urlopen(good, timeout=5) as answer:  # noqa: S310
        assert answer.status == 202
    assert time.monotonic() - began < 2.5
    assert len(desk.made) == 1
    # Each of them is told so in the end, and hung up on.
    for connection in slow:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")
        connection.close()
    assert time.monotonic() - began < 10
    assert len(desk.made) == 1
