"""Who is let in.

Bound to loopback, whoever is on the machine may do everything, and only by a loopback name: a page on the internet
whose name was pointed at 127.0.0.1 is turned away. Bound to anything else, a token is needed: as a bearer by programs,
in a form by people, whose browser then holds a signed cookie. Webhooks have signatures instead.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ilp_service.errors import SettingsError
from ilp_service.service.answers import problem
from ilp_service.service.guesses import Guesses

COOKIE = "ilp_session"
SESSION_SECONDS = 12 * 3600
SIGN_IN = "/login"

_PROBES = frozenset({"/healthz", "/readyz"})
_WEBHOOKS = "/webhooks/"
_STATIC = "/static/"
_PAGES = re.compile(r"/(?:jobs/[0-9a-f]{32}(?:/report)?)?")
_FORMS = re.compile(r"(/jobs/[0-9a-f]{32})/(?:cancel|retry)|/jobs|/logout")
_COOKIE = re.compile(r"([0-9]{1,12})\.([0-9a-f]{16})\.([0-9a-f]{64})")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether an address or name can only be this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Access:
    """The rules, and the sessions of people who signed in."""

    def __init__(
        self,
        host: str,
        token: str | None,
        clock: Callable[[], float] = time.time,
        guesses: Guesses | None = None,
    ) -> None:
        """Rules for a service.

        Args:
            host: Address that the service is bound to.
            token: Is asked for wherever it is set.
            clock: Seconds since 1970.
            guesses: Bounds wrong tokens.

        Raises:
            SettingsError: Others than this machine can reach the service, and there is no token.
        """
        if token is None and not is_loopback(host):
            raise SettingsError(
                f"The service is bound to {host}, which others can reach, without a token; "
                "set ILP_SERVICE_TOKEN (or ILP_SERVICE_TOKEN_FILE), or bind it to 127.0.0.1."
            )
        self.needs_token = token is not None
        self._token = (token or "").encode()
        # A new token ends every session; so does a restart without one.
        self._key = hashlib.sha256(b"ilp session\0" + (self._token or secrets.token_bytes(32))).digest()
        self._clock = clock
        self._guesses = Guesses() if guesses is None else guesses

    def knows(self, token: str, request: Request) -> bool:
        """Whether this is the token; nobody is told while ``wait`` says that the caller has to."""
        if not self.needs_token or self.wait(request):
            return False
        right = hmac.compare_digest(token.encode("utf-8", "replace"), self._token)
        if not right:
            self._guesses.wrong(_caller(request), token)
        return right

    def wait(self, request: Request) -> int:
        """Seconds until a token of the caller is looked at, after too many wrong ones; 0 when it is at once."""
        return self._guesses.wait(_caller(request))

    def session(self) -> str:
        """The value of a cookie for somebody who gave the token."""
        signed = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_hex(8)}"
        return f"{signed}.{self._mac(signed)}"

    def _mac(self, signed: str) -> str:
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()

    def _holds(self, cookie: str) -> bool:
        parts = _COOKIE.fullmatch(cookie)
        if parts is None:
            return False
        genuine = hmac.compare_digest(self._mac(f"{parts[1]}.{parts[2]}"), parts[3])
        return genuine and int(parts[1]) > self._clock()

    def let_in(self, request: Request) -> bool:
        """Whether the caller may see and do everything."""
        if not self.needs_token:
            return True
        if (token := _bearer(request)) is not None:
            return self.knows(token, request)
        return self._holds(request.cookies.get(COOKIE, ""))

    def names_us(self, request: Request) -> bool:
        """Whether the Host header is one under which this service may be reached."""
        found = request.headers.getlist("host")
        parts = _HOST.fullmatch(found[0]) if len(found) == 1 else None
        return parts is not None and (self.needs_token or is_loopback(parts[1]))


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _caller(request: Request) -> str:
    """The caller's address; of one behind a proxy of this machine, what the proxy says."""
    return request.client.host if request.client is not None else ""


def is_own(request: Request) -> bool:
    """Whether a request that changes something comes from our own page, or from no browser.

    Browsers tell where a request comes from; programs do not, and cannot send a form by mistake.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        # No page can set it, and it holds behind a proxy that changes the Host header as well.
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower() != ""
        except ValueError:
            return False
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json"
    # An old browser says neither; it cannot send a bearer or JSON across sites.
    return not form or "authorization" in request.headers or "content-type" not in request.headers


def safe_way(way: str | None) -> str:
    """A path of our own page to go on to; anything else becomes the first page."""
    path, mark, query = (way or "/").partition("?")
    if not _PAGES.fullmatch(path) or not re.fullmatch(r"[A-Za-z0-9_.~%+=&*-]{0,400}", query):
        return "/"
    return path + mark + query


class Guard:
    """Turns away whoever may not come in, before anything else looks at the request."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = self._refusal(Request(scope))
        await (answer or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        path: str = request.scope["path"]
        inside = self.access.let_in(request)
        request.scope.setdefault("state", {})["inside"] = inside
        if path in _PROBES or path.startswith(_WEBHOOKS):
            return None
        if not self.access.names_us(request):
            return problem(
                421, "This name is not the service's; without a token it answers to 127.0.0.1 and localhost."
            )
        if request.method not in _SAFE and not is_own(request):
            return problem(403, "The request comes from another site.")
        if inside or path == SIGN_IN or path.startswith(_STATIC):
            return None
        if _bearer(request) is not None and (wait := self.access.wait(request)):
            return problem(429, too_many(wait), {"Retry-After": str(wait)})
        if (way := _way_back(request, path)) is not None:
            return RedirectResponse(f"{SIGN_IN}?next={quote(way)}", 303)
        return problem(
            401, "A token is needed: Authorization: Bearer <ILP_SERVICE_TOKEN>.", {"WWW-Authenticate": "Bearer"}
        )


def too_many(wait: int) -> str:
    """What somebody is told who has been wrong too often."""
    return f"Too many wrong tokens came from this address; try again in {wait} s."


def _way_back(request: Request, path: str) -> str | None:
    """Where a person goes on who signs in now; ``None`` for a program, which cannot."""
    if request.method in {"GET", "HEAD"} and _PAGES.fullmatch(path):
        query = request.scope["query_string"].decode("latin-1")
        return path + ("?" + query if query else "")
    form = _FORMS.fullmatch(path)
    if form is not None and "text/html" in request.headers.get("accept", ""):
        # The session ended while the page was open; what was sent is not done by itself afterwards.
        return form[1] or "/"
    return None
