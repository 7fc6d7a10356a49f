"""Part `gateway`: what the gateway costs, beside the same upstream without it and behind nginx.

Part `growth`: memory after many requests.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
from tqdm import tqdm

from gateway.cache import Memory
from gateway.chat import decide
from gateway.config import load_config
from gateway.policy import Wish
from gateway.state import open_state
from scripts.benchmarking import servers
from scripts.benchmarking.client import Seen, body, lasting, load
from scripts.benchmarking.processes import cpu_seconds, memory
from scripts.benchmarking.rig import MODEL, Rig, Server, kept_rig, running_rig
from scripts.benchmarking.rounds import Found, Run, Step, Values, interleave
from scripts.local.process import StartError

CONCURRENCIES = (1, 16, 64)
WAYS = ("direct", "nginx", "gateway")
KINDS = ("whole", "stream")
DECIDED = frozenset({"decided"})
_TOKENS = {"whole": 4, "stream": 32}
PACED_STREAMS = 64
PACED_TOKENS = 384  # some four seconds
SHORT_TOKENS = 8
_HITS = 10_000
_ONE_IN = 10  # requests of the growth part about a prompt that is new
_NEW_IN_TEN = frozenset({"decided", "cached"})


def measure_gateway(run: Run) -> Values:
    """Raises StartError, PromptsError."""
    rig = kept_rig(run)
    steps: list[Step] = []
    for kind, concurrency, way in itertools.product(KINDS, CONCURRENCIES, WAYS):
        steps.append(partial(_point, run, rig, way, kind, concurrency))
    tokens = 32 if run.quick else PACED_TOKENS
    for tokens_each, name in ((tokens, "paced"), (SHORT_TOKENS, "paced-short")):
        steps.append(partial(_paced, rig, rig.paced, f"direct.{name}", tokens_each))
        steps.append(partial(_paced, rig, rig.paced_nginx, f"nginx.{name}", tokens_each))
        steps.append(partial(_paced, rig, rig.paced_gateway, f"gateway.{name}", tokens_each))
    steps.append(partial(_remembered, run, rig))
    steps.append(partial(_cache_hit, rig, 500 if run.quick else _HITS))
    for way in WAYS:
        _point(run, rig, way, "whole", 16)  # warm
    return interleave("gateway", steps, run.rounds)


def _point(run: Run, rig: Rig, way: str, kind: str, concurrency: int) -> Found:
    """One load, and what each process spent on it: milliseconds per request are seconds per 1,000."""
    server = _server(rig, way)
    model = "" if way == "gateway" else MODEL
    bodies = (body(text, _TOKENS[kind], model=model, stream=kind == "stream") for text in rig.unique())
    before = _spent(rig)
    seen = load(
        server.url, lasting(bodies, run.seconds(1.5)), concurrency, DECIDED if way == "gateway" else frozenset()
    )
    name = f"{way}.{kind}.{concurrency}"
    found = {
        f"{name}.rate": seen.rate,
        f"{name}.p50_ms": float(np.median(seen.whole)),
        f"{name}.p99_ms": float(np.percentile(seen.whole, 99)),
        f"{name}.first_ms": float(np.median(seen.first)),
    }
    for process, seconds in _spent(rig).items():
        if process in ("client", "dynamo", way) or (way == "gateway" and process == "triton"):
            found[f"{name}.{process}_cpu_ms"] = (seconds - before[process]) * 1000 / len(seen.whole)
    return found


def _server(rig: Rig, way: str) -> Server:
    return {"direct": rig.direct, "nginx": rig.nginx, "gateway": rig.gateway}[way]


def _spent(rig: Rig) -> dict[str, float]:
    """CPU seconds so far of each part, and of this process, which is the client."""
    return {
        "client": time.process_time(),
        "dynamo": rig.direct.cpu(),
        "nginx": rig.nginx.cpu(),
        "gateway": rig.gateway.cpu(),
        "triton": cpu_seconds(servers.pid(rig.triton)),
    }


def _paced(rig: Rig, server: Server, name: str, tokens: int) -> Found:
    """64 streams at once from an engine that takes its time."""
    through = server is rig.paced_gateway
    texts = itertools.islice(rig.unique(), PACED_STREAMS)
    bodies = [body(text, tokens, model="" if through else MODEL, stream=True) for text in texts]
    before = server.cpu()
    seen = load(server.url, iter(bodies), PACED_STREAMS, DECIDED if through else frozenset())
    return {
        f"{name}.pace": sum(seen.paces),
        f"{name}.chunks": float(seen.chunks),
        f"{name}.cpu_seconds": server.cpu() - before,
    }


def _remembered(run: Run, rig: Rig) -> Found:
    """The gateway's CPU for a request that Triton is not asked about, and whose network so does not share the cores."""
    bodies = itertools.repeat(body(next(rig.unique()), _TOKENS["whole"]))
    load(rig.remembering.url, itertools.islice(bodies, 1), 1, DECIDED)
    before = rig.remembering.cpu()
    seen = load(rig.remembering.url, lasting(bodies, run.seconds(1.5)), 16, frozenset({"cached"}))
    return {"gateway.remembered.16.gateway_cpu_ms": (rig.remembering.cpu() - before) * 1000 / len(seen.whole)}


def _cache_hit(rig: Rig, hits: int) -> Found:
    """The decision step itself, as the gateway runs it, for a prompt that is remembered."""
    environ = os.environ | {"DYNAMO_API_BASE": rig.direct.url, "TRITON_GRPC_URL": rig.triton.grpc_url}
    milliseconds = asyncio.run(_time_hits(rig, environ, hits))
    return {
        "cache.hit_p50_ms": float(np.median(milliseconds)),
        "cache.hit_p99_ms": float(np.percentile(milliseconds, 99)),
    }


async def _time_hits(rig: Rig, environ: dict[str, str], hits: int) -> list[float]:
    config = load_config(rig.config, environ)
    wish = Wish(config.default_policy)
    milliseconds = []
    async with open_state(config) as state:
        text = next(rig.unique())
        memory_of_one = Memory(state.cache, "")
        await decide(state, wish, text, memory=memory_of_one)
        for _ in range(hits):
            start = time.perf_counter()
            routed = await decide(state, wish, text, memory=memory_of_one)
            milliseconds.append((time.perf_counter() - start) * 1000)
            if routed.selection.reason != "cached":
                raise StartError(f"a decision that should be remembered is not: {routed.selection.reason}")
    return milliseconds


def measure_growth(run: Run) -> Values:
    """Memory of the gateway and of Triton after 10,000 and after 100,000 requests, one in ten about a new prompt.

    Raises StartError, PromptsError.
    """
    first, last = (300, 900) if run.quick else (10_000, 100_000)
    run.notes["requests"] = f"{first:,} and {last:,}"
    values: Values = {}
    # Fresh, since it counts from the first request; and with as many decisions as are new until the first reading.
    remembering = {"cache_entries": first // _ONE_IN}
    run.notes["cache"] = f"{first // _ONE_IN:,} decisions: full when memory is read first"
    rig = run.kept.enter("growth", lambda: running_rig(run, remembering))
    with tqdm(total=last, desc="growth", unit="request", disable=None) as bar:
        bodies = _one_in_ten_new(rig)
        for name, requests in (("first", first), ("last", last - first)):
            _ask(rig, itertools.islice(bodies, requests), bar)
            held = {"gateway": rig.remembering.processes[0].pid, "triton": servers.pid(rig.triton)}
            for process, leader in held.items():
                values[f"{process}.{name}_mib"] = [memory(leader).pss]
    return values


def _ask(rig: Rig, bodies: Iterator[bytes], bar: tqdm) -> Seen:
    def counted() -> Iterator[bytes]:
        for each in bodies:
            bar.update()
            yield each

    return load(rig.remembering.url, counted(), 16, _NEW_IN_TEN)


def _one_in_ten_new(rig: Rig) -> Iterator[bytes]:
    for text in rig.unique():
        yield from itertools.repeat(body(text, 1), _ONE_IN)
