"""The application: every route, handler and client in one place."""

import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TypedDict

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import chat, health, ports
from gateway.auth import Access, Keys, RequireKey
from gateway.config import Config
from gateway.errors import ClientGone, GatewayError, error_response
from gateway.framing import RefuseAmbiguous
from gateway.gone import CancelWhenGone
from gateway.health import Drain
from gateway.limit import LimitLoad
from gateway.models import models, watch_models
from gateway.observe.log import log_record
from gateway.observe.metrics import Metrics
from gateway.observe.playground import page
from gateway.observe.recent import Recent
from gateway.observe.record import Observer, RecordRequests
from gateway.observe.traces import load_tracing
from gateway.openapi import openapi
from gateway.reload import watch_files
from gateway.state import State, open_state


class _LifespanState(TypedDict):
    router: State
    drain: Drain


def create_app(
    config: Config,
    file: Path,
    *,
    keys: Keys | None = None,
    drain: Drain | None = None,
    management_port: int | None = None,
    workers: int = 1,
) -> Starlette:
    """The gateway, with the configuration that was read from `file` and will be again when that changes.

    With `keys`, clients need one. `drain` is where the server says that it is about to end. With `management_port`,
    what is for operators is on that port alone. With several `workers` it is one of them.
    """
    metrics = Metrics()
    recent = Recent()
    tracing = load_tracing(os.environ)
    access = Access(keys)
    drain = drain or Drain()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[_LifespanState]:
        async with (
            aclosing(tracing) if tracing else nullcontext(),
            open_state(config, workers, tracing.hooks if tracing else None) as state,
            anyio.create_task_group() as beside,
        ):
            beside.start_soon(watch_models, state)
            beside.start_soon(watch_files, state, file, access)
            if workers > 1:
                beside.start_soon(metrics.keep_shown, state)
                beside.start_soon(recent.keep_written)
            yield {"router": state, "drain": drain}
            beside.cancel_scope.cancel()

    probes = [
        Route("/health", health.health, methods=["GET"]),
        Route("/health/live", health.health, methods=["GET"]),
        Route("/health/ready", health.ready, methods=["GET"]),
    ]
    api = [
        *(Route(endpoint.path, chat.answering(endpoint), methods=["POST"]) for endpoint in chat.ENDPOINTS),
        Route(chat.ALIAS, chat.alias, methods=["POST"]),
        Route(chat.ROUTE, chat.route, methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        *page.routes(),
    ]
    management = [
        Route("/config", health.config, methods=["GET"]),
        Route("/metrics", metrics.endpoint, methods=["GET"]),
        Route("/decisions", recent.endpoint, methods=["GET"]),
    ]
    observers: list[Observer] = [metrics.count, recent.note, log_record, *([tracing.describe] if tracing else [])]
    app = Starlette(
        routes=[*ports.split(api, management, management_port), *probes],
        middleware=[
            *([tracing.middleware] if tracing else []),
            Middleware(RecordRequests, observers=observers),
            Middleware(RefuseAmbiguous),
            Middleware(RequireKey, access=access, is_open=page.is_open),
            Middleware(LimitLoad),
            Middleware(CancelWhenGone),
        ],
        exception_handlers={
            GatewayError: _on_gateway_error,
            ClientGone: _on_client_gone,
            HTTPException: _on_http_exception,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would be built from the client's own Host header
    return app


async def _on_gateway_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GatewayError)
    return error.response()


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nginx's number; nobody reads it


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    response = error_response(error.status_code, error.detail, "invalid_request_error")
    response.headers.update(error.headers or {})
    return response
