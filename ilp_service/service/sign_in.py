"""The form by which people give the token, and get a cookie for it."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ilp_service.service.access import COOKIE, SESSION_SECONDS, SIGN_IN, Access, safe_way
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
        return self._html("login.html.j2", wrong=False, way=way)

    async def sign_in(self, request: Request) -> Response:
        """A cookie for the token."""
        fields = await form_of(request)
        way = safe_way(fields.get("next"))
        if not self._access.knows(fields.get("token", "").strip()):
            return self._html("login.html.j2", 401, wrong=True, way=way)
        answer = RedirectResponse(way, 303)
        answer.set_cookie(
            COOKIE,
            self._access.session(),
            max_age=SESSION_SECONDS,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    async def sign_out(self, _request: Request) -> Response:
        """No cookie any more."""
        answer = RedirectResponse(SIGN_IN, 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer
