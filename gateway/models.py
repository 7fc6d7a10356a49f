"""`/v1/models`: the upstreams' models, and the names by which this router chooses one."""

import asyncio
import logging
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.config import Config
from gateway.state import State

_SECONDS = 5.0
_log = logging.getLogger(__name__)


async def models(request: Request) -> JSONResponse:
    state: State = request.state.router
    bases = _upstreams(state.config)
    lists = await asyncio.gather(*(_models_of(state.session, base, key) for base, key in bases.items()))
    own = [{"id": name, "object": "model", "owned_by": "llm-router"} for name in ("auto", *state.config.policies)]
    by_id = {model["id"]: model for model in [*own, *(model for models in lists for model in models)]}
    return JSONResponse({"object": "list", "data": list(by_id.values())})


def _upstreams(config: Config) -> dict[str, str]:
    """Every base URL with the first key configured for it."""
    bases = {} if config.upstream is None else {config.upstream: ""}
    for policy in config.policies.values():
        for llm in policy.llms:
            bases[llm.api_base] = bases.get(llm.api_base) or llm.api_key.get_secret_value()
    return bases


async def _models_of(session: aiohttp.ClientSession, base: str, key: str) -> list[dict[str, Any]]:
    """What one upstream lists; nothing when it does not answer, so that one that is down hides no other's."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with session.get(
            f"{base}/v1/models", headers=headers, timeout=aiohttp.ClientTimeout(_SECONDS), allow_redirects=False
        ) as answer:
            answer.raise_for_status()
            listed = (await answer.json())["data"]
            return [model for model in listed if isinstance(model["id"], str)]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
        _log.warning("upstream lists no models: %s: %s", base, type(error).__name__)
        return []
