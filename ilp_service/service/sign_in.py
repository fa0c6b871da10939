"""The form by which people give the token, and get a cookie for it."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ilp_service.service.access import COOKIE, SESSION_SECONDS, SIGN_IN, Access, safe_way, too_many
from ilp_service.service.answers import form_of


class Html(Protocol):
    """Makes a page out of a template."""

    def __call__(self, template: str, code: int = 200, **values: Any) -> Response:  # noqa: ANN401
        """The page."""


class SignIn:
    """``/login`` and ``/logout``."""

    def __init__(self, access: Access, html: Html) -> None:
        self._access, self._html = access, html

    def routes(self) -> list[Route]:
        """Paths and who answers them."""
        return [
            Route(SIGN_IN, self.both, methods=["GET", "POST"]),
            Route("/logout", self.sign_out, methods=["POST"]),
        ]

    async def both(self, request: Request) -> Response:
        """One path with two methods."""
        return await (self.sign_in if request.method == "POST" else self.form)(request)

    async def form(self, request: Request) -> Response:
        """The form; whoever is in already goes on."""
        way = safe_way(request.query_params.get("next"))
        if request.state.inside:
            return RedirectResponse(way, 303)
        return self._html("login.html.j2", wrong=None, way=way)

    async def sign_in(self, request: Request) -> Response:
        """A cookie for the token."""
        fields = await form_of(request)
        way = safe_way(fields.get("next"))
        # Before the token is looked at: the guess that was one too many is still answered as wrong.
        if wait := self._access.wait(request):
            answer = self._html("login.html.j2", 429, wrong=too_many(wait), way=way)
            answer.headers["Retry-After"] = str(wait)
            return answer
        if not self._access.knows(fields.get("token", "").strip(), request):
            return self._html("login.html.j2", 401, wrong="That is not the token.", way=way)
        inside = RedirectResponse(way, 303)
        inside.set_cookie(
            COOKIE,
            self._access.session(),
            max_age=SESSION_SECONDS,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return inside

    async def sign_out(self, _request: Request) -> Response:
        """No cookie any more."""
        answer = RedirectResponse(SIGN_IN, 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer
