"""`/v1/models`: the upstreams' models, and the names by which this router chooses one."""

import asyncio
import json
import logging
from functools import partial
from typing import Any

import aiohttp
from starlette.requests import Request

from gateway.body import refuse_constant
from gateway.config import Config
from gateway.errors import AsciiJSONResponse
from gateway.state import State

_SECONDS = 5.0
_loads = partial(json.loads, parse_constant=refuse_constant)
_log = logging.getLogger(__name__)


async def models(request: Request) -> AsciiJSONResponse:
    state: State = request.state.router
    # With client keys, what the client sends is for this gateway alone.
    own_key = "" if request.state.client else request.headers.get("authorization", "")
    keys = {base: f"Bearer {key}" if key else own_key for base, key in _upstreams(state.config).items()}
    lists = await asyncio.gather(*(_models_of(state.session, base, key) for base, key in keys.items()))
    own = [{"id": name, "object": "model", "owned_by": "llm-router"} for name in ("auto", *state.config.policies)]
    by_id = {model["id"]: model for model in [*own, *(model for models in lists for model in models)]}
    return AsciiJSONResponse({"object": "list", "data": list(by_id.values())})


def _upstreams(config: Config) -> dict[str, str]:
    """Every base URL with the first key configured for it."""
    bases = {} if config.upstream is None else {config.upstream: ""}
    for policy in config.policies.values():
        for upstream in policy.upstreams.values():
            bases[upstream.api_base] = bases.get(upstream.api_base) or upstream.api_key.get_secret_value()
    return bases


async def _models_of(session: aiohttp.ClientSession, base: str, authorization: str) -> list[dict[str, Any]]:
    """What one upstream lists; nothing when it does not answer, so that one that is down hides no other's."""
    headers = {"authorization": authorization} if authorization else {}
    try:
        async with session.get(
            f"{base}/v1/models", headers=headers, timeout=aiohttp.ClientTimeout(_SECONDS), allow_redirects=False
        ) as answer:
            answer.raise_for_status()
            listed = (await answer.json(loads=_loads))["data"]
            return [model for model in listed if isinstance(model["id"], str)]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
        _log.warning("upstream lists no models: %s: %s", base, type(error).__name__)
        return []
