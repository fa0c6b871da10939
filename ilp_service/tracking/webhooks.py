"""Webhooks of an MLflow server: which there are, one that announces new versions, and what the server lacks for it.

MLflow tells a client why it will not take an address, but not that it has no key to encrypt secrets with: the webhook
then works until the server's next start, and from there on neither it nor any other webhook for the event does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ilp_service.errors import ModelNotFoundError, SettingsError, TrackingError
from ilp_service.tracking import connection

if TYPE_CHECKING:
    from ilp_service.tracking.store import Tracking

EVENT = "model_version.created"
KEY = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
_CAUSE = re.compile(r"(?<=\] )[A-Z][a-z]+ [a-z ]+|[Tt]imed out")
_PAGE = 100
_LOOKS = 4


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of the server.

    Attributes:
        webhook_id: Its id.
        name: Its name.
        url: Where it delivers.
        events: Such as ``model_version.created``.
        active: Whether it delivers at all.
    """

    webhook_id: str
    name: str
    url: str
    events: tuple[str, ...]
    active: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a test delivery.

    Attributes:
        status: HTTP status of the receiver; ``None`` when none came.
        text: What the receiver said, or why it could not be reached; at most 300 characters.
    """

    status: int | None
    text: str


def every_webhook(tracking: Tracking) -> list[Webhook]:
    """All webhooks, in the order of the server.

    Raises:
        SettingsError: The store is a database, which sends nothing.
        TrackingError: The server is down, refuses, or cannot read its own webhooks.
    """
    client = _server(tracking)
    found: list[Webhook] = []
    token = None
    while True:
        with _explained(tracking):
            page = client.list_webhooks(max_results=_PAGE, page_token=token)
        found += [_webhook(one) for one in page]
        token = page.token
        if not token:
            return found


def put_webhook(tracking: Tracking, name: str, url: str, secret: str) -> tuple[Webhook, bool]:
    """Have new versions announced at ``url``; the webhook of this name is changed where it is there.

    Returns:
        The webhook, and whether it was made.

    Raises:
        SettingsError: The store is a database, which sends nothing.
        TrackingError: The server will not have it, and why.
    """
    client = _server(tracking)
    known = [one for one in every_webhook(tracking) if one.name == name]
    values: dict[str, Any] = {"url": url, "events": [EVENT], "secret": secret, "status": "ACTIVE"}
    with _explained(tracking):
        if known:
            made = client.update_webhook(known[0].webhook_id, **values)
        else:
            made = client.create_webhook(name=name, description="Registrations are diagnosed.", **values)
        # A repetition that was cut short between two calls may have left another one behind.
        for one in known[1:]:
            client.delete_webhook(one.webhook_id)
    # Without a common key one of several workers cannot read what another has written.
    for _ in range(_LOOKS):
        every_webhook(tracking)
    return _webhook(made), not known


def delete_webhook(tracking: Tracking, webhook_id: str) -> None:
    """Remove a webhook.

    Raises:
        ModelNotFoundError: There is none.
        TrackingError: The server is down or refuses.
    """
    client = _server(tracking)
    with _explained(tracking, webhook_id):
        client.delete_webhook(webhook_id)


def try_webhook(tracking: Tracking, webhook_id: str) -> Answer:
    """Have the server send its example; the receiver knows it as one.

    Raises:
        ModelNotFoundError: There is no such webhook.
        TrackingError: The server is down or refuses.
    """
    client = _server(tracking)
    with _explained(tracking, webhook_id):
        result = client.test_webhook(webhook_id, event=EVENT)
    status = result.response_status
    if status is None:
        # The message is a chain of exceptions, the innermost of which says what happened.
        causes = _CAUSE.findall(str(result.error_message))
        return Answer(None, causes[-1] if causes else " ".join(str(result.error_message).split())[:300])
    return Answer(int(status), " ".join(str(result.response_body or "").split())[:300])


def has_key(tracking: Tracking) -> bool | None:
    """Whether the server's process has a key to encrypt secrets with.

    ``None`` where that cannot be seen: a server of another machine or another user.
    """
    import psutil

    parts = urlsplit(tracking.uri)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        if parts.hostname not in {"127.0.0.1", "localhost", "::1"}:
            return None
        listening = {
            one.pid
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port
        }
    except (psutil.Error, OSError, ValueError):
        return None
    for pid in listening - {None}:
        with contextlib.suppress(psutil.Error, OSError):
            variables = psutil.Process(pid).environ()
            # Something else may listen there and pass on to a server elsewhere.
            if any(name.startswith("_MLFLOW_SERVER_") for name in variables):
                return bool(variables.get(KEY))
    return None


def _server(tracking: Tracking) -> Any:  # noqa: ANN401 (MLflow has no types)
    if urlsplit(tracking.uri).scheme not in {"http", "https"}:
        raise SettingsError(
            f"The tracking store {connection.shown(tracking.uri)} is a database, and only an MLflow server sends "
            "webhooks; set MLFLOW_TRACKING_URI to the server's http:// address, or let the service look by itself."
        )
    return tracking.client()


@contextlib.contextmanager
def _explained(tracking: Tracking, webhook_id: str | None = None) -> Iterator[None]:
    """Say which of the server's settings is missing, from what it answers."""
    from mlflow.exceptions import MlflowException

    with connection.translated(tracking.uri):
        try:
            yield
        except MlflowException as error:
            if webhook_id is not None and connection.is_missing(error):
                raise ModelNotFoundError(
                    f"The server has no webhook {webhook_id!r}; 'ilp webhook list' shows all."
                ) from error
            if (sentence := _missing_setting(str(error))) is not None:
                raise TrackingError(f"The MLflow server {connection.shown(tracking.uri)} {sentence}") from error
            raise


def _missing_setting(text: str) -> str | None:
    lowered = text.lower()
    if "500 error responses" in lowered:
        return (
            f"cannot read its own webhooks (HTTP 500), as when it was started without {KEY} or with another one than "
            "they were made with; start it with that key, or drop them as docs/operations.md says."
        )
    if "webhook url scheme" in lowered:
        return (
            "takes no http:// addresses for webhooks; start it with MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https, or give "
            "the service an https:// address."
        )
    if "non-public ip" in lowered:
        return (
            "delivers to no private addresses; start it with MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true, or give the "
            "service a public address."
        )
    if "cannot resolve webhook url" in lowered:
        return "does not know the host of the webhook's address; give one that it can resolve."
    return None


def _webhook(found: Any) -> Webhook:  # noqa: ANN401 (MLflow has no types)
    return Webhook(
        webhook_id=str(found.webhook_id),
        name=str(found.name),
        url=str(found.url),
        events=tuple(str(event) for event in found.events),
        active=bool(found.status.is_active()),
    )
