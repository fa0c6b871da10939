"""Secrets of the service: never in flags, never shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from ilp_service.errors import SettingsError
from ilp_service.service.configuration import ServiceSettings

SHORTEST = 16
"""Characters that a secret or token has at least; shorter ones can be guessed."""


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

    @classmethod
    def of(cls, settings: ServiceSettings) -> Credentials:
        """Those of the settings; several webhook secrets are put apart by commas or lines.

        Raises:
            SettingsError: One is too short.
        """
        text = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
        token = settings.token.get_secret_value().strip() if settings.token else ""
        parts = (part.strip() for line in text.splitlines() for part in line.split(","))
        secrets = tuple(dict.fromkeys(part for part in parts if part))
        for secret in secrets:
            _check("ILP_WEBHOOK_SECRET", secret)
        if token:
            _check("ILP_SERVICE_TOKEN", token)
        return cls(secrets, token or None)


def _check(name: str, value: str) -> None:
    if len(value) < SHORTEST:
        raise SettingsError(
            f"{name} has {len(value)} characters, at least {SHORTEST} are expected; "
            "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
