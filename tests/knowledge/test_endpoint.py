"""The OpenAI-compatible endpoint as source and as judge: what is sent, paid, repeated, kept, and never told."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from ilp_knowledge import EndpointJudge, EndpointSource

from ilp_service.plugin import Choice, EndpointError, IlpWarning, Pair, Query, Setup
from ilp_service.testing import StudyBuilder, check_judge, check_source
from tests.knowledge.conftest import MakeSetup, Reply, Seen, Stub, chat

KEY = "sk-very-secret-0123"
FOX = Query("fox", "Where does the fox live?", "fox")


def source_setup(stub: Stub, setup_of: MakeSetup, *more: str) -> Setup:
    url, model = f"endpoint_url={stub.url}/v1/", "endpoint_model=tiny"
    return setup_of(f"knowledge_sources.{url}", f"knowledge_sources.{model}", *more)


def judge_setup(stub: Stub, setup_of: MakeSetup, *more: str) -> Setup:
    return setup_of(f"judge.endpoint_url={stub.url}/v1", "judge.endpoint_model=tiny", *more)


def pair() -> Pair:
    builder = StudyBuilder()
    builder.sample("Where does the fox live?", "wood")
    builder.sample("Where does the fox live?", "den")
    return Pair(*builder.build().samples)


def passages(seen: Seen) -> Reply:
    asked = json.loads(seen.body["messages"][1]["content"])
    return chat(json.dumps([f"{asked['about'] or 'nothing'} fact {number}" for number in range(asked["passages"])]))


def test_a_request_is_a_chat_completion_that_never_holds_the_response(stub: Stub, setup_of: MakeSetup) -> None:
    stub.answer = passages
    setup = source_setup(stub, setup_of)
    found = EndpointSource().documents([FOX], 3, setup)[0]
    assert [one.text for one in found] == ["fox fact 0", "fox fact 1", "fox fact 2"]
    assert [one.source for one in found] == ["endpoint tiny"] * 3
    (seen,) = stub.seen
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.body["model"] == "tiny"
    assert seen.body["temperature"] == 0
    assert "Authorization" not in seen.headers
    assert (setup.ledger.requests, setup.ledger.tokens) == (1, 12)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('["one", "two", "one", " ", 3, "three"]', ["one", "two", "three"]),
        ('```json\n["one"]\n```', ["one"]),
        ("one\nstill one\n\ntwo", ["one still one", "two"]),
        ("[]", []),
        ("", []),
        (json.dumps([f"fact {number}" for number in range(9)]), ["fact 0", "fact 1", "fact 2", "fact 3"]),
    ],
)
def test_what_small_models_write_is_understood(stub: Stub, setup_of: MakeSetup, content: str, texts: list[str]) -> None:
    stub.answer = lambda _: chat(content, tokens=None)
    setup = source_setup(stub, setup_of)
    assert [one.text for one in EndpointSource().documents([FOX], 4, setup)[0]] == texts
    assert setup.ledger.tokens is None


def test_both_keep_the_contract(stub: Stub, setup_of: MakeSetup) -> None:
    stub.answer = passages
    check_source(EndpointSource(), source_setup(stub, setup_of))
    check_source(EndpointSource())

    def verdict(seen: Seen) -> Reply:
        shown = json.loads(seen.body["messages"][1]["content"])
        right = "first" if shown["first"]["answer"] < shown["second"]["answer"] else "second"
        return chat(json.dumps({"verdict": right, "confidence": 0.8, "reason": "So it is."}))

    stub.answer = verdict
    check_judge(EndpointJudge(), judge_setup(stub, setup_of))
    check_judge(EndpointJudge())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again_ever_more_slowly(
    stub: Stub, setup_of: MakeSetup, waits: list[float], status: int
) -> None:
    stub.answer = lambda seen: passages(seen) if len(stub.seen) > 3 else Reply({}, status)
    setup = source_setup(stub, setup_of)
    assert EndpointSource().documents([FOX], 1, setup)[0]
    assert len(stub.seen) == setup.ledger.requests == 4
    assert [0.75 * base <= wait <= 1.25 * base for base, wait in zip((0.5, 1, 2), waits, strict=True)] == [True] * 3


def test_it_waits_as_long_as_it_is_told_up_to_a_minute(stub: Stub, setup_of: MakeSetup, waits: list[float]) -> None:
    told = iter(("7", "100000", "Wed, 21 Oct 2026 07:28:00 GMT"))
    stub.answer = lambda seen: Reply({}, 429, {"Retry-After": after}) if (after := next(told, None)) else passages(seen)
    assert EndpointSource().documents([FOX], 1, source_setup(stub, setup_of))[0]
    assert waits[:2] == [7.0, 60.0]
    assert waits[2] <= 2.5


def test_one_that_stays_busy_or_down_is_told_in_a_sentence(stub: Stub, setup_of: MakeSetup, waits: list[float]) -> None:
    stub.answer = lambda _: Reply({"error": {"message": "slow\ndown."}}, 429)
    setup = source_setup(stub, setup_of, "knowledge_sources.retries=2")
    with pytest.raises(EndpointError, match=r"refused with HTTP 429 \(slow down\); wait, or raise knowledge_sources"):
        EndpointSource().documents([FOX], 1, setup)
    assert setup.ledger.requests == 3
    stub.close()
    with pytest.raises(EndpointError, match=r"cannot be reached \(Connection refused\), 3 times asked; start it"):
        EndpointSource().documents([FOX], 1, setup)
    assert len(waits) == 4


def test_one_that_never_answers_is_given_up(stub: Stub, setup_of: MakeSetup, waits: list[float]) -> None:
    import threading

    free = threading.Event()

    def stuck(_: Seen) -> Reply:
        free.wait(5)
        return Reply({})

    stub.answer = stuck
    setup = source_setup(stub, setup_of, "knowledge_sources.retries=0", "knowledge_sources.timeout=0.05")
    with pytest.raises(EndpointError, match=r"cannot be reached \(no answer in time\)"):
        EndpointSource().documents([FOX], 1, setup)
    free.set()
    assert waits == []


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply({"error": {"message": "no"}}, 400), r"refused with HTTP 400 \(no\)"),
        (Reply(b"<html>", 404), "refused with HTTP 404; check the URL and the model"),
        (Reply({}, 302, {"Location": "http://127.0.0.1:1/"}), "refused with HTTP 302"),
        (Reply(b"<html>"), "answered with no JSON"),
        (Reply({"choices": []}), "answered with no chat completion"),
        (Reply(["a"]), "answered with no chat completion"),
        (Reply({"choices": [{"message": {"content": None}}]}), "answered with no chat completion"),
    ],
)
def test_a_refusal_or_nonsense_is_neither_repeated_nor_kept(
    stub: Stub, setup_of: MakeSetup, waits: list[float], reply: Reply, reason: str
) -> None:
    stub.answer = lambda _: reply
    setup = source_setup(stub, setup_of)
    with pytest.raises(EndpointError, match=reason) as told:
        EndpointSource().documents([FOX], 1, setup)
    assert stub.url in str(told.value)
    assert waits == []
    assert len(stub.seen) == 1
    stub.answer = passages
    assert EndpointSource().documents([FOX], 1, setup)[0]


def test_the_key_comes_from_the_environment_and_is_never_told_or_kept(
    stub: Stub,
    setup_of: MakeSetup,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    setup = source_setup(stub, setup_of, "knowledge_sources.endpoint_key_env=MY_KEY")
    with pytest.raises(EndpointError, match="names MY_KEY, which is not set; export it"):
        EndpointSource().documents([FOX], 1, setup)
    assert stub.seen == []
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    stub.answer = passages
    EndpointSource().documents([FOX], 1, setup)
    assert stub.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    stub.answer = lambda seen: Reply({"error": f"{seen.headers['Authorization']} is wrong"}, 401)
    with pytest.raises(EndpointError, match=r"<key> is wrong\); check the key that knowledge_sources") as told:
        EndpointSource().documents([Query("b", "Another?")], 1, setup)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file())
    out, err = capfd.readouterr()
    for place in (str(told.value), repr(setup), out, err, caplog.text, kept.decode()):
        assert KEY not in place
    assert kept


def test_a_redirection_does_not_take_the_key_elsewhere(
    stub: Stub, setup_of: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Stub()
    monkeypatch.setenv("MY_KEY", KEY)
    stub.answer = lambda _: Reply({}, 307, {"Location": f"{elsewhere.url}/v1/chat/completions"})
    setup = source_setup(stub, setup_of, "knowledge_sources.endpoint_key_env=MY_KEY")
    with pytest.raises(EndpointError, match="HTTP 307"):
        EndpointSource().documents([FOX], 1, setup)
    elsewhere.close()
    assert elsewhere.seen == []


def test_an_answer_is_paid_once(stub: Stub, setup_of: MakeSetup) -> None:
    stub.answer = passages
    first, again = source_setup(stub, setup_of), source_setup(stub, setup_of)
    queries = [FOX, Query("same", FOX.prompt, FOX.entity), Query("other", "Which tower?")]
    found = EndpointSource().documents(queries, 2, first)
    assert first.ledger.requests == 2
    stub.close()
    assert EndpointSource().documents(queries, 2, again) == found
    assert (again.ledger.requests, again.ledger.tokens) == (0, None)


def test_the_budget_is_never_exceeded_and_what_was_paid_is_not_lost(
    stub: Stub, setup_of: MakeSetup, waits: list[float]
) -> None:
    stub.answer = lambda seen: passages(seen) if len(stub.seen) > 1 else Reply({}, 500)
    setup = source_setup(stub, setup_of, "knowledge_sources.max_requests=3")
    queries = [Query(str(number), f"Question {number}?") for number in range(5)]
    with pytest.warns(IlpWarning, match="the budget of 3 requests is spent, 3 of 5 queries were not asked; raise"):
        found = EndpointSource().documents(queries, 1, setup)
    assert [len(one) for one in found] == [1, 1, 0, 0, 0]
    assert len(stub.seen) == setup.ledger.requests == 3
    assert setup.ledger.unanswered == 3
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("said", "choice", "confidence"),
    [
        ({"verdict": "first", "confidence": 0.9, "reason": "x"}, Choice.FIRST, 0.9),
        ({"verdict": "both", "confidence": 1, "reason": "x\ny"}, Choice.BOTH, 1.0),
        ({"verdict": "neither", "confidence": 0.0, "reason": None}, Choice.NEITHER, 0.0),
        ({"verdict": "First", "confidence": 0.9, "reason": "x"}, Choice.UNSURE, 0.0),
        ({"verdict": ["first"], "confidence": 0.9}, Choice.UNSURE, 0.0),
        ({"verdict": "first", "confidence": 90}, Choice.UNSURE, 0.0),
        ({"verdict": "first", "confidence": True}, Choice.UNSURE, 0.0),
        ({"verdict": "first"}, Choice.UNSURE, 0.0),
        ("I think the first", Choice.UNSURE, 0.0),
        ([1], Choice.UNSURE, 0.0),
    ],
)
def test_a_verdict_is_read_or_it_is_unsure(
    stub: Stub, setup_of: MakeSetup, said: object, choice: Choice, confidence: float
) -> None:
    stub.answer = lambda _: chat(said if isinstance(said, str) else json.dumps(said))
    one = pair()
    ordered = one if one.first.sample_id < one.second.sample_id else one.swapped
    (verdict,) = EndpointJudge().judge([ordered], judge_setup(stub, setup_of))
    assert (verdict.choice, verdict.confidence) == (choice, confidence)
    assert "\n" not in verdict.reason
    assert verdict.reason.startswith("tiny")


def test_a_judge_sees_both_samples_once_and_stops_at_its_budget(stub: Stub, setup_of: MakeSetup) -> None:
    stub.answer = lambda _: chat(json.dumps({"verdict": "first", "confidence": 0.9, "reason": "wood"}))
    setup = judge_setup(stub, setup_of, "judge.max_requests=1")
    builder = StudyBuilder()
    for answer in ("wood", "den", "sea"):
        builder.sample("Where does the fox live?", answer)
    first, second, third = builder.build().samples
    with pytest.warns(IlpWarning, match="1 of 3 pairs were not judged"):
        verdicts = EndpointJudge().judge([Pair(first, second), Pair(second, first), Pair(first, third)], setup)
    assert verdicts[0].choice is verdicts[1].choice.swapped
    assert verdicts[2].choice is Choice.UNSURE
    shown = json.loads(stub.seen[0].body["messages"][1]["content"])
    assert {shown["first"]["answer"], shown["second"]["answer"]} == {"wood", "den"}
    assert shown["first"]["conversation"] == [{"role": "user", "content": "Where does the fox live?"}]
    assert len(stub.seen) == setup.ledger.requests == 1
    assert setup.ledger.tokens == 12
