"""The application: every route, handler and client in one place."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import chat, health
from gateway.config import Config
from gateway.errors import ClientGone, GatewayError, error_response
from gateway.framing import RefuseAmbiguous
from gateway.models import models
from gateway.observe.log import log_record
from gateway.observe.metrics import Metrics
from gateway.openapi import openapi
from gateway.record import RecordRequests
from gateway.state import State, open_state


class _LifespanState(TypedDict):
    router: State


def create_app(config: Config) -> Starlette:
    """The gateway for one configuration."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[_LifespanState]:
        async with open_state(config) as state:
            yield {"router": state}

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat.chat_completions, methods=["POST"]),
            Route("/v1/completions", chat.completions, methods=["POST"]),
            Route("/v1/responses", chat.responses, methods=["POST"]),
            Route("/v1/messages", chat.messages, methods=["POST"]),
            Route("/v1/embeddings", chat.embeddings, methods=["POST"]),
            Route("/completions", chat.alias, methods=["POST"]),
            Route("/v1/route", chat.route, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/health", health.health, methods=["GET"]),
            Route("/health/live", health.health, methods=["GET"]),
            Route("/health/ready", health.ready, methods=["GET"]),
            Route("/config", health.config, methods=["GET"]),
            Route("/metrics", metrics.endpoint, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
        ],
        middleware=[Middleware(RecordRequests, observers=[metrics.count, log_record]), Middleware(RefuseAmbiguous)],
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
