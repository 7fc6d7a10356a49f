"""`/v1/models`: the upstreams' models, and the names by which this router chooses one."""

import asyncio
import json
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from starlette.requests import Request

from gateway.body import refuse_constant
from gateway.config import Config
from gateway.errors import AsciiJSONResponse
from gateway.state import State

_SECONDS = 5.0
_REFRESH_SECONDS = 10.0
_FIRST_ANSWER_SECONDS = 1.0  # readiness waits for it
_MOST_BYTES = 8 * 1024 * 1024
_loads = partial(json.loads, parse_constant=refuse_constant)
_log = logging.getLogger(__name__)


async def models(request: Request) -> AsciiJSONResponse:
    state: State = request.state.router
    # With client keys, what the client sends is for this gateway alone.
    own_key = "" if request.state.client else request.headers.get("authorization", "")
    keys = {base: f"Bearer {key}" if key else own_key for base, key in _upstreams(state.config).items()}
    lists = await asyncio.gather(*(_models_of(state.session, base, key) for base, key in keys.items()))
    own = [{"id": name, "object": "model", "owned_by": "llm-router"} for name in ("auto", *state.config.policies)]
    by_id = {model["id"]: model for model in [*own, *(model for listing in lists for model in listing.models or ())]}
    return AsciiJSONResponse({"object": "list", "data": list(by_id.values())})


async def watch_models(state: State) -> None:
    """Keeps what is known of the upstreams' models fresh; never returns."""
    while True:
        try:
            await refresh(state)
        except Exception:  # nothing that happens beside the requests may end them
            _log.exception("the upstreams could not be asked for their models")
        await asyncio.sleep(_REFRESH_SECONDS if state.upstream_answered else _FIRST_ANSWER_SECONDS)


async def refresh(state: State) -> None:
    """Asks every upstream for its models, with its own key."""
    keys = {base: f"Bearer {key}" if key else "" for base, key in _upstreams(state.config).items()}
    lists = await asyncio.gather(*(_models_of(state.session, base, key) for base, key in keys.items()))
    for base, listing in zip(keys, lists, strict=True):
        listed = None if listing.models is None else frozenset(model["id"] for model in listing.models)
        state.eligibility.list_models(base, listed, answered=listing.status > 0)
        # A 502 may be a proxy's that has nobody behind it.
        state.upstream_answered |= 0 < listing.status < 500


def _upstreams(config: Config) -> dict[str, str]:
    """Every base URL with the first key configured for it."""
    bases = {} if config.upstream is None else {config.upstream: ""}
    for policy in config.policies.values():
        for upstream in policy.upstreams.values():
            bases[upstream.api_base] = bases.get(upstream.api_base) or upstream.api_key.get_secret_value()
    return bases


@dataclass(frozen=True, slots=True)
class _Listing:
    """What one upstream says of its models."""

    models: list[dict[str, Any]] | None = None
    """None: it does not say which."""
    status: int = 0
    """Of its answer; 0 without one."""


async def _models_of(session: aiohttp.ClientSession, base: str, authorization: str) -> _Listing:
    """Never raises, so that an upstream that is down, or lists nonsense, hides no other's models."""
    headers = {"connection": "close"} | ({"authorization": authorization} if authorization else {})
    status = 0
    try:
        async with session.get(
            f"{base}/v1/models", headers=headers, timeout=aiohttp.ClientTimeout(_SECONDS), allow_redirects=False
        ) as answer:
            status = answer.status
            answer.raise_for_status()
            listed = _loads(await _read(answer))["data"]
            return _Listing([model for model in listed if isinstance(model["id"], str)], status)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.debug("upstream lists no models: %s: %s", base, type(error).__name__)
        return _Listing(None, status)


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The body. Raises ValueError when it is longer than any list of models."""
    raw = bytearray()
    async for chunk in answer.content.iter_any():
        raw += chunk
        if len(raw) > _MOST_BYTES:
            raise ValueError("too long")
    return bytes(raw)
