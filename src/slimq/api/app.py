"""The app: every route of the HTTP surface, and what becomes of errors.

One table says all. Paths are resources: a method that one does not have is answered 405
with those it has; whatever is raised is rendered in one place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slimq.api import query
from slimq.api.accept import Acceptor
from slimq.api.add import AddRoute
from slimq.api.control import ControlRoutes
from slimq.api.handlers import HandlerRoutes
from slimq.api.invoke import InvokeRoute
from slimq.api.jobs import JobRoutes, Waits
from slimq.api.jobs_in import JobsRoute
from slimq.api.metrics import MetricsRoutes
from slimq.api.nodes import NodeRoutes
from slimq.api.ports import NodePort
from slimq.api.problem import JSON_TYPE, render, to_response
from slimq.api.status import StatusRoutes
from slimq.api.types import TypeRoutes
from slimq.core.limits import LOG_FIELD_MAX
from slimq.errors import NoRoute, SlimqError, WrongMethod

Endpoint = Callable[[Request], Awaitable[Response]]
Table = Mapping[str, Mapping[str, Endpoint]]  # path → method → endpoint
WITH_EFFECT = ("/start", "/stop", "/quit")  # GET acts there, so HEAD must not stand for it


def make_app(
    node: NodePort,
    acceptor: Acceptor,
    waits: Waits = Waits(),  # noqa: B008 -- immutable
) -> Starlette:
    """Return the HTTP surface of a node."""
    table = route_table(node, acceptor, waits)
    app = Starlette(
        routes=[Route(path, _Resource(path, methods)) for path, methods in table.items()],
        exception_handlers={
            SlimqError: _on_error,
            HTTPException: _on_http_error,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False
    return app


def route_table(node: NodePort, acceptor: Acceptor, waits: Waits) -> Table:
    """Return every route there is."""
    control, status = ControlRoutes(node), StatusRoutes(node, acceptor)
    jobs, handlers, types = JobRoutes(node, waits), HandlerRoutes(node), TypeRoutes(node)
    return {
        "/": {"GET": status.root},
        "/start": {"GET": control.start, "POST": control.start},
        "/stop": {"GET": control.stop, "POST": control.stop},
        "/quit": {"GET": control.quit, "POST": control.quit},
        "/add": {"POST": AddRoute(acceptor).respond},
        "/jobs": {"GET": jobs.page, "POST": JobsRoute(acceptor).respond},
        "/jobs/cancel": {"POST": jobs.cancel_where},
        "/jobs/retry": {"POST": jobs.retry_where},
        "/jobs/{id}": {"GET": jobs.show},
        "/jobs/{id}/cancel": {"POST": jobs.cancel},
        "/jobs/{id}/retry": {"POST": jobs.retry},
        "/handlers": {"GET": handlers.page},
        "/handlers/{jobtype}": {
            "GET": handlers.show,
            "PUT": handlers.put,
            "DELETE": handlers.delete,
        },
        "/handlers/{jobtype}/versions": {"GET": handlers.versions},
        "/handlers/{jobtype}/rollback": {"POST": handlers.rollback},
        "/handlers/{jobtype}/invoke": {"POST": InvokeRoute(node).respond},
        "/types": {"GET": types.page},
        "/types/{jobtype}": {"GET": types.show, "PATCH": types.change},
        "/types/{jobtype}/load": {"GET": types.load},
        "/types/{jobtype}/pause": {"POST": types.pause},
        "/types/{jobtype}/resume": {"POST": types.resume},
        "/types/{jobtype}/purge": {"POST": types.purge},
        "/nodes": {"GET": NodeRoutes(node).list_},
        "/status": {"GET": status.status},
        "/healthz": {"GET": status.health},
        "/readyz": {"GET": status.ready},
        "/metrics": {"GET": MetricsRoutes(node).metrics},
        "/openapi.json": {"GET": _OpenApi().document},
    }


class _Resource:
    """What stands behind a path: an ASGI app that calls the endpoint of the method."""

    def __init__(self, path: str, methods: Mapping[str, Endpoint]) -> None:
        self._methods = dict(methods)
        if "GET" in methods and path not in WITH_EFFECT:
            self._methods["HEAD"] = methods["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        endpoint = self._methods.get(request.method)
        if endpoint is None:
            allow = ", ".join(self._methods)
            raise WrongMethod(f"this route has the methods {allow}", headers={"Allow": allow})
        response = await endpoint(request)
        await response(scope, receive, send)


class _OpenApi:
    """Serves the document that is part of the package."""

    def __init__(self) -> None:
        self._document = resources.files("slimq.api").joinpath("openapi.json").read_bytes()

    async def document(self, request: Request) -> Response:
        query.parameters(request)
        return Response(self._document, 200, {"content-type": JSON_TYPE})


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SlimqError)
    return to_response(render(error, request.headers.get("accept", "")))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette itself raises only when no route fits."""
    assert isinstance(error, HTTPException)
    route: str = request.scope["path"][:LOG_FIELD_MAX]
    return await _on_error(
        request,
        NoRoute(f"there is no route {route}; /openapi.json lists all", extra={"route": route}),
    )


async def _on_bug(request: Request, error: Exception) -> Response:
    """The exception goes on to the server, which logs it; the caller learns no more."""
    bug = SlimqError("an error of slimq itself; it is in the log")
    return await _on_error(request, bug)
