"""``ilp webhook``: have an MLflow server announce new versions to the service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import click

from ilp_service.errors import EndpointError, ModelNotFoundError, SettingsError

if TYPE_CHECKING:
    from ilp_service.service.configuration import ServiceSettings
    from ilp_service.tracking.store import Tracking
    from ilp_service.tracking.webhooks import Answer, Webhook

NAME = "ilp-service"
"""Of the webhook; several services at one server give theirs other names."""

_PATH = "/webhooks/mlflow"
_ANYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound


@click.group()
def webhook() -> None:
    """MLflow's webhook for the service: install, list, test, remove.

    MLflow's address comes from MLFLOW_TRACKING_URI, the secret from ILP_WEBHOOK_SECRET or ILP_WEBHOOK_SECRET_FILE.
    On a server with basic authentication MLFLOW_TRACKING_USERNAME has to be an administrator.
    """


_name = click.option("--name", default=NAME, show_default=True, help="Of the webhook.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")


@webhook.command()
@click.argument("url", required=False)
@_name
@click.option("--test/--no-test", "tries", default=True, help="Have MLflow send an example afterwards.")
def install(url: str | None, name: str, tries: bool) -> None:
    """Have MLflow announce new versions at URL, as MLflow reaches the service; repeating it changes nothing.

    Without URL it is ILP_SERVICE_URL, else where the service's own settings have it listen.
    """
    from ilp_service.service.credentials import Credentials
    from ilp_service.tracking import webhooks

    settings = _settings()
    secrets = Credentials.of(settings).webhook_secrets
    if not secrets:
        raise SettingsError(
            "No secret to sign deliveries with; set ILP_WEBHOOK_SECRET_FILE or ILP_WEBHOOK_SECRET, to the same as for "
            "the service; deploy/secrets makes one."
        )
    address = _address(url, settings)
    tracking = _tracking(settings)
    key = webhooks.has_key(tracking)
    if key is False:
        raise SettingsError(
            f"The MLflow server was started without {webhooks.KEY}, so the webhook would stop every webhook of this "
            "event at the server's next start; give it a key and restart it; deploy/secrets makes one."
        )
    made, new = webhooks.put_webhook(tracking, name, address, secrets[0])
    click.echo(f"{made.name}  {made.webhook_id}  {'installed' if new else 'renewed'} for {made.url}")
    if key is None:
        click.echo(
            f"note: whether the MLflow server has {webhooks.KEY} cannot be seen from here; without it the webhook "
            "works until the server's next start only.",
            err=True,
        )
    if tries:
        _judge(made, webhooks.try_webhook(tracking, made.webhook_id))
    click.echo("Versions are announced from the next minute on (MLFLOW_WEBHOOK_CACHE_TTL of the server).")


@webhook.command("list")
@_json
def list_webhooks(as_json: bool) -> None:
    """The server's webhooks, other people's included."""
    import dataclasses

    from ilp_service.tracking import webhooks

    found = webhooks.every_webhook(_tracking(_settings()))
    if as_json:
        click.echo(json.dumps({"webhooks": [dataclasses.asdict(one) for one in found]}))
        return
    for one in found:
        state = "active" if one.active else "disabled"
        click.echo(f"{one.name}  {one.webhook_id}  {state}  {', '.join(one.events)}\n    {one.url}")
    if not found:
        click.echo("The server has no webhooks; 'ilp webhook install' makes one.", err=True)


@webhook.command("test")
@click.argument("which", required=False)
@_name
def try_one(which: str | None, name: str) -> None:
    """Have MLflow send its example to the webhook WHICH (an id), else to the one of --name."""
    from ilp_service.tracking import webhooks

    tracking = _tracking(_settings())
    one = _found(tracking, which, name)
    _judge(one, webhooks.try_webhook(tracking, one.webhook_id))


@webhook.command()
@click.argument("which", required=False)
@_name
def remove(which: str | None, name: str) -> None:
    """Remove the webhook WHICH (an id), else the one of --name; versions are then found by the service's own looks."""
    from ilp_service.tracking import webhooks

    tracking = _tracking(_settings())
    one = _found(tracking, which, name)
    webhooks.delete_webhook(tracking, one.webhook_id)
    click.echo(f"{one.name}  {one.webhook_id}  removed")


def _settings() -> ServiceSettings:
    from ilp_service.service.configuration import load_configuration

    return load_configuration().settings


def _tracking(settings: ServiceSettings) -> Tracking:
    from ilp_service.tracking.store import Tracking

    return Tracking(settings.tracking_uri)


def _address(url: str | None, settings: ServiceSettings) -> str:
    """Where deliveries go: the receiver's path is added where only a host is given."""
    url = url or settings.url
    if url is None:
        if settings.host in _ANYWHERE or not settings.port:
            raise SettingsError(
                f"The service listens on {settings.host}:{settings.port}, which is no address to deliver to; give its "
                "URL as MLflow reaches it, such as http://service:8350."
            )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"http://{host}:{settings.port}{_PATH}"
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"The address {url!r} is none; expected one such as http://service:8350{_PATH}.")
    if parts.username or parts.password:
        raise SettingsError("The address holds a user or password; deliveries are signed, and need neither.")
    return urlunsplit(parts._replace(path=_PATH)) if parts.path in {"", "/"} else url


def _found(tracking: Tracking, which: str | None, name: str) -> Webhook:
    from ilp_service.tracking import webhooks

    every = webhooks.every_webhook(tracking)
    for one in every:
        if (one.webhook_id == which) if which else (one.name == name):
            return one
    asked = f"id {which!r}" if which else f"name {name!r}"
    raise ModelNotFoundError(f"The server has no webhook with the {asked}; 'ilp webhook list' shows the {len(every)}.")


def _judge(one: Webhook, answer: Answer) -> None:
    """Say that the example arrived.

    Raises:
        EndpointError: It did not, or was refused.
    """
    if answer.status == 200 and '"test"' in answer.text:
        click.echo(f"MLflow reaches the service at {one.url}, and the secret fits.")
        return
    if answer.status is None:
        why = f"MLflow cannot reach it; start the service, or give the address as MLflow sees it ({answer.text})."
    elif answer.status == 401 and "old" in answer.text:
        why = "the service takes the delivery for too old; set the clocks of both machines."
    elif answer.status == 401:
        why = "the service knows another secret; start it with the ILP_WEBHOOK_SECRET that this webhook was given."
    elif answer.status == 503:
        why = f"the service takes no deliveries at the moment ({answer.text})."
    else:
        why = f"what answers there (HTTP {answer.status}) is not the service."
    raise EndpointError(f"The webhook {one.name!r} does not work at {one.url}: {why}")
