"""Whether the gateway lives, is ready, and with which configuration."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.chat import decide
from gateway.errors import error_response
from gateway.policy import Wish
from gateway.state import State

PATHS = frozenset({"/health", "/health/live", "/health/ready"})


@dataclass(slots=True)
class Drain:
    """Whether the server has been told to end. It still serves then, and wants no new clients."""

    begun: bool = False


async def health(request: Request) -> JSONResponse:
    """The blueprint's health check; also liveness."""
    return JSONResponse({"status": "OK"})


async def ready(request: Request) -> JSONResponse:
    """Ready once Triton has made a decision and an upstream has answered; for what fails later there are fallbacks."""
    state: State = request.state.router
    if request.state.drain.begun:
        return error_response(503, "the gateway is about to end", "not_ready", code="draining")
    if not state.decided_once:
        routed = await decide(state, Wish(state.config.default_policy), "ping")
        if not state.decided_once:
            return error_response(
                503, f"no decision yet: {routed.selection.reason}", "not_ready", code=routed.selection.reason
            )
    if not state.upstream_answered:
        return error_response(503, "no upstream has answered yet", "not_ready", code="upstream_unavailable")
    return JSONResponse({"status": "OK"})


async def config(request: Request) -> JSONResponse:
    state: State = request.state.router
    return JSONResponse(state.config.redacted())
