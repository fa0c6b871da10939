"""Chat completions of an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import re
from typing import Any

from ilp_knowledge._http import Client, key_of
from ilp_service.plugin import EndpointError, Setup

_FENCE = re.compile(r"^```\w*\s*\n(.*?)\n?```$", re.DOTALL)


class Chat:
    """One model of one endpoint, asked at temperature 0.

    Raises:
        EndpointError: The environment variable that should hold the key is not set.
    """

    def __init__(self, setup: Setup, section: str) -> None:
        self._url = f"{str(setup.options[f'{section}.endpoint_url']).rstrip('/')}/chat/completions"
        self._ledger = setup.ledger
        self.model = str(setup.options[f"{section}.endpoint_model"])
        self._client = Client(setup, section, key_of(setup, section))

    def ask(self, instruction: str, content: str, max_tokens: int) -> str:
        """The answer to one message.

        Raises:
            BudgetSpentError: The budget of requests is spent.
            EndpointError: The endpoint is down, refuses, or its answer is no chat completion.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "system", "content": instruction}, {"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        answer, new = self._client.ask(self._url, body, self._check)
        if new:
            self._count(answer)
        return _text(answer) or ""

    def _check(self, answer: object) -> None:
        if _text(answer) is None:
            raise EndpointError(
                f"{self._url} answered with no chat completion; expected an OpenAI-compatible endpoint."
            )

    def _count(self, answer: dict[str, Any]) -> None:
        usage = answer.get("usage")
        used = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(used, int) and not isinstance(used, bool) and used >= 0:
            self._ledger.add_tokens(used)


def _text(answer: object) -> str | None:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    return text if isinstance(text, str) else None


def missing_endpoint(setup: Setup, section: str) -> str | None:
    """Why an endpoint cannot be asked under these settings."""
    for name in ("endpoint_url", "endpoint_model"):
        if not setup.options[f"{section}.{name}"]:
            return f"{section}.{name} is not set."
    return None


def json_in(text: str) -> object:
    """The JSON of an answer, fenced or not; ``None`` where it is none."""
    text = text.strip()
    if fenced := _FENCE.match(text):
        text = fenced.group(1)
    try:
        found: object = json.loads(text)
    except ValueError:
        return None
    return found
