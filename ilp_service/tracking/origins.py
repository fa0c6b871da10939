"""Which hosts an artifact's URI may make MLflow ask, and with them send the tracking server's password to.

MLflow takes the host of ``http(s)`` and ``mlflow-artifacts`` URIs from the URI and sends it what it has for the
tracking server. Sources of versions, locations of experiments and tags are written by whoever may register a model.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

from ilp_service.errors import SourceUnreadableError
from ilp_service.tracking.connection import shown

BY_STORE = ("runs:/", "models:/")
"""How URIs begin that stand for another one, which the store knows."""

# What these connect to is a cloud's own, or set up on this machine.
_CLOUDS = {"s3", "gs", "wasbs", "hdfs", "viewfs", "dbfs"}
_AZURE = re.compile(
    r"[^@]+@[\w.-]+\.dfs\.(core\.(windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)|fabric\.microsoft\.com)"
)
_PROXY = ("/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/2.0/mlflow-artifacts/artifacts")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PORTS = {"http": 80, "https": 443}


def leads_out(path: str) -> bool:
    """Whether a path or URI climbs out of its folder, however often its ``..`` is encoded."""
    before = ""
    while before != path:
        before, path = path, unquote(path)
    return ".." in re.split(r"[/\\]", path)


def check_origin(store: str, uri: str) -> None:
    """Refuse an artifact that would be asked for anywhere but at the tracking server or a cloud's storage.

    Args:
        store: URI of the tracking store.
        uri: Where the artifact is; files of this machine and URIs that the store resolves pass.

    Raises:
        SourceUnreadableError: It would be.
    """
    if _CONTROL.search(uri):
        raise _refused(uri, "it has a control character in it")
    parts = urlsplit(uri)
    scheme = parts.scheme.lower()
    if scheme in {"", "file"}:
        return
    if leads_out(parts.path):
        raise _refused(uri, "it has a '..' in it")
    if scheme in _CLOUDS:
        return
    if scheme in {"runs", "models", "mlflow-artifacts"} and not parts.netloc:
        return
    if scheme == "abfss":
        if not _AZURE.fullmatch(parts.netloc):
            raise _refused(uri, "expected abfss://<filesystem>@<account>.dfs.core.windows.net/…")
        return
    if scheme in {"http", "https", "mlflow-artifacts"}:
        _check_host(store, uri, parts)
        return
    raise _refused(uri, f"expected an artifact of the tracking server or one at {', '.join(sorted(_CLOUDS))} or abfss")


def _check_host(store: str, uri: str, parts: SplitResult) -> None:
    """Refuse a host other than the tracking server's, and all of that server but its artifacts.

    Raises:
        SourceUnreadableError: It is one.
    """
    server = urlsplit(store)
    own = _address(server)
    if own is None or _address(parts, server.scheme if parts.scheme == "mlflow-artifacts" else None) != own:
        raise _refused(
            uri, f"its host is not the tracking server's ({shown(store)}), and would be sent that server's password"
        )
    if "@" in parts.netloc and parts.netloc != server.netloc:
        raise _refused(uri, "it has a user name in it")
    if parts.scheme == "mlflow-artifacts":
        return
    prefix = server.path.rstrip("/")
    if not any(f"{parts.path}/".startswith(f"{prefix}{proxy}/") for proxy in _PROXY):
        raise _refused(uri, f"expected {shown(store).rstrip('/')}{_PROXY[0]}/…")


def _address(parts: SplitResult, scheme: str | None = None) -> tuple[str, str, int] | None:
    """Scheme, host and port of a web server; ``None`` for anything else.

    Web clients end a host at a backslash, where ``urlsplit`` does not.
    """
    scheme = (scheme or parts.scheme).lower()
    if scheme not in _PORTS or "\\" in parts.netloc or re.search(r"\s", parts.netloc):
        return None
    try:
        port = parts.port
    except ValueError:
        return None
    host = (parts.hostname or "").lower()
    return (scheme, host, port or _PORTS[scheme]) if host else None


def _refused(uri: str, why: str) -> SourceUnreadableError:
    return SourceUnreadableError(
        f"{shown(uri)[:200]!r} is not asked for: {why}; name a file of this machine, or an artifact by "
        "runs:/…, mlflow-artifacts:/… or s3://…."
    )
