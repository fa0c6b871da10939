"""Secrets of the service: from the environment or from files, never from flags, and never shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ilp_service.errors import SettingsError

WEBHOOK_SECRET = "ILP_WEBHOOK_SECRET"  # noqa: S105 - names, not secrets
TOKEN = "ILP_SERVICE_TOKEN"  # noqa: S105
SHORTEST = 16
"""Characters that a secret or token has at least; shorter ones can be guessed."""

_FILE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Credentials:
    """What others must know to be let in.

    Attributes:
        webhook_secrets: Each of them signs deliveries; several while one takes the place of another. The first is
            the one that a new webhook gets.
        token: Of the API and the page; ``None`` when none is set.
    """

    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    token: str | None = field(default=None, repr=False)


def read_credentials(environment: Mapping[str, str]) -> Credentials:
    """Secrets from ``ILP_WEBHOOK_SECRET`` and ``ILP_SERVICE_TOKEN``, or from the files that ``…_FILE`` names.

    Several webhook secrets are put apart by commas or lines; the environment's come before the file's.

    Raises:
        SettingsError: A file cannot be read, a secret is too short, or there are two tokens.
    """
    secrets = _values(environment, WEBHOOK_SECRET)
    tokens = _values(environment, TOKEN)
    if len(tokens) > 1:
        raise SettingsError(f"{TOKEN} (or its file) holds {len(tokens)} tokens; one is expected.")
    return Credentials(secrets, tokens[0] if tokens else None)


def _values(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    text = environment.get(name, "")
    where = environment.get(f"{name}_FILE", "")
    if where:
        try:
            with Path(where).open("rb") as file:
                text += "\n" + file.read(_FILE_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"The file {where!r} that {name}_FILE names cannot be read ({type(error).__name__}); "
                "name a text file that this user may read."
            ) from error
    found = tuple(dict.fromkeys(part.strip() for line in text.splitlines() for part in line.split(",") if part.strip()))
    for value in found:
        if len(value) < SHORTEST:
            raise SettingsError(
                f"{name} has {len(value)} characters, at least {SHORTEST} are expected; "
                "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
            )
    return found
