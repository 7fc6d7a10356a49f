"""What is promised of the speed, and whether it holds: pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Values = Mapping[str, Sequence[float]]
Compute = Callable[[Values], list[float]]
"""A figure for each round."""
Comparison = Literal["≥", "≤", "<"]


@dataclass(frozen=True)
class Promise:
    """A figure: of which part, how it comes out of each round, and its target."""

    name: str
    what: str
    part: str
    unit: str
    compute: Compute
    comparison: Comparison
    target: float
    target_without_bf16: float | None = None
    """Where the processor has no AVX512-BF16."""
    beside: tuple[tuple[str, str | Compute, str], ...] = ()
    """What it comes from or compares with: what that is, the measured value's name or how it comes out, its unit."""


@dataclass(frozen=True)
class Result:
    """A promise's figure: the median of its rounds, their span, and the target that it is held to."""

    promise: Promise
    rounds: tuple[float, ...]
    target: float
    beside: str

    @property
    def value(self) -> float:
        return median(self.rounds)

    @property
    def met(self) -> bool:
        match self.promise.comparison:
            case "≥":
                return self.value >= self.target
            case "≤":
                return self.value <= self.target
            case "<":
                return self.value < self.target


def ratio(above: str, below: str) -> Compute:
    """Of two values, round by round."""
    return lambda values: [a / b for a, b in zip(values[above], values[below], strict=True)]


def difference(more: str, less: str) -> Compute:
    """Of two values, round by round."""
    return lambda values: [a - b for a, b in zip(values[more], values[less], strict=True)]


def plain(name: str, scale: float = 1.0) -> Compute:
    """A value as it was measured, times `scale`."""
    return lambda values: [each * scale for each in values[name]]


def chunk_microseconds(way: str) -> Compute:
    """CPU for each SSE event on this way: what longer streams cost more, over the events that they have more."""
    seconds = difference(f"{way}.paced.cpu_seconds", f"{way}.paced-short.cpu_seconds")
    chunks = difference(f"{way}.paced.chunks", f"{way}.paced-short.chunks")
    return lambda values: [a / b * 1e6 for a, b in zip(seconds(values), chunks(values), strict=True)]


def _against_the_limit(part: str, encoder: str) -> tuple[Promise, Promise, Promise]:
    return (
        Promise(
            f"{part}.limit",
            f"throughput of the served ensemble / the limit, concurrency 64, mixed lengths, {encoder}",
            part,
            "",
            ratio("ours.mixed64.rate", "limit.mixed.rate"),
            "≥",
            0.85,
            beside=(("served", "ours.mixed64.rate", "/s"), ("limit", "limit.mixed.rate", "/s")),
        ),
        Promise(
            f"{part}.overhead",
            f"p50 of the ensemble at concurrency 1, minus the bare forward pass, {encoder}",
            part,
            "ms",
            difference("ours.alone.p50_ms", "limit.alone.p50_ms"),
            "≤",
            1.5,
            beside=(("ensemble", "ours.alone.p50_ms", "ms"), ("forward pass", "limit.alone.p50_ms", "ms")),
        ),
        Promise(
            f"{part}.growth",
            f"Triton's CPU per decision at 64 concurrent / at 8, mixed lengths, {encoder}",
            part,
            "",
            ratio("ours.mixed64.cpu_ms", "ours.mixed8.cpu_ms"),
            "≤",
            1.0,
            beside=(("at 64", "ours.mixed64.cpu_ms", "ms"), ("at 8", "ours.mixed8.cpu_ms", "ms")),
        ),
    )


def _against_the_blueprint(part: str, encoder: str, targets: Sequence[tuple[float, float]]) -> tuple[Promise, ...]:
    """`targets`: of a processor with AVX512-BF16, and of one without, for each of the three."""
    rows = (
        ("task", "task decisions per second at concurrency 32", "task32.rate", "/s", True),
        ("both", "task and complexity together, at concurrency 32", "both32.rate", "/s", True),
        ("alone", "latency at concurrency 1", "alone.p50_ms", "ms", False),
    )
    promises = []
    for (name, what, value, unit, faster), (with_bf16, without) in zip(rows, targets, strict=True):
        ours, baseline = f"ours.{value}", f"blueprint.{value}"
        sides = "ours / blueprint behaviour" if faster else "blueprint behaviour / ours"
        promises.append(
            Promise(
                f"{part}.{name}",
                f"{what}, {encoder}, prompts of about 64 tokens: {sides}",
                part,
                "",
                ratio(ours, baseline) if faster else ratio(baseline, ours),
                "≥",
                with_bf16,
                without,
                beside=(("ours", ours, unit), ("blueprint", baseline, unit)),
            )
        )
    return tuple(promises)


_DEBERTA, _EMBEDDED = "DeBERTa", "embedded encoder"
PROMISES = (
    *_against_the_blueprint("deberta", _DEBERTA, ((20, 13), (40, 26), (18, 12))),
    *_against_the_limit("deberta", _DEBERTA),
    *_against_the_limit("embedded", _EMBEDDED),
    Promise(
        "gateway.cpu",
        "gateway CPU per non-stream request, gRPC decision included (16 clients)",
        "gateway",
        "ms",
        plain("gateway.whole.16.gateway_cpu_ms"),
        "≤",
        0.9,
        beside=(
            ("1 client", "gateway.whole.1.gateway_cpu_ms", "ms"),
            ("64 clients", "gateway.whole.64.gateway_cpu_ms", "ms"),
            ("16 clients, decision remembered", "gateway.remembered.16.gateway_cpu_ms", "ms"),
            ("nginx", "nginx.whole.16.nginx_cpu_ms", "ms"),
        ),
    ),
    Promise(
        "gateway.chunk",
        "gateway CPU per SSE chunk (64 paced streams)",
        "gateway",
        "µs",
        chunk_microseconds("gateway"),
        "≤",
        11,
        beside=(("nginx", chunk_microseconds("nginx"), "µs"), ("Dynamo itself", chunk_microseconds("direct"), "µs")),
    ),
    Promise(
        "gateway.paced",
        "64 paced streams: chunks per second through the gateway / direct",
        "gateway",
        "",
        ratio("gateway.paced.pace", "direct.paced.pace"),
        "≥",
        0.98,
        beside=(("gateway", "gateway.paced.pace", "/s"), ("direct", "direct.paced.pace", "/s")),
    ),
    Promise(
        "gateway.first_byte",
        "time to first byte from real Dynamo through the gateway / straight from Dynamo (default sockets), decision "
        "included",
        "gateway",
        "",
        ratio("gateway.stream.1.first_ms", "direct.stream.1.first_ms"),
        "<",
        1,
        beside=(("gateway", "gateway.stream.1.first_ms", "ms"), ("direct", "direct.stream.1.first_ms", "ms")),
    ),
    Promise("gateway.cache", "decision cache hit, p50", "gateway", "ms", plain("cache.hit_p50_ms"), "≤", 0.1),
    Promise(
        "growth.gateway",
        "growth: the gateway's memory after 100,000 requests / after 10,000",
        "growth",
        "",
        ratio("gateway.last_mib", "gateway.first_mib"),
        "≤",
        1.05,
        beside=(("after", "gateway.last_mib", "MiB"), ("before", "gateway.first_mib", "MiB")),
    ),
    Promise(
        "growth.triton",
        "growth: Triton's memory, over the same requests, of which one in ten asks it",
        "growth",
        "",
        ratio("triton.last_mib", "triton.first_mib"),
        "≤",
        1.05,
        beside=(("after", "triton.last_mib", "MiB"), ("before", "triton.first_mib", "MiB")),
    ),
    Promise(
        "deberta.memory",
        "resident memory, Triton with task + complexity (DeBERTa) + embedded `mf` on CPU, after the load above",
        "deberta",
        "GB",
        plain("ours.pss_mib", 2**20 / 1e9),
        "≤",
        1.5,
        beside=(
            ("PSS", "ours.pss_mib", "MiB"),
            ("RSS, pages shared by processes counted in each", "ours.rss_mib", "MiB"),
        ),
    ),
    Promise(
        "embedded.memory",
        "the same with the embedded encoder for all three",
        "embedded",
        "GB",
        plain("ours.pss_mib", 2**20 / 1e9),
        "≤",
        1.5,
        beside=(("PSS", "ours.pss_mib", "MiB"), ("RSS", "ours.rss_mib", "MiB")),
    ),
)
FURTHER = (
    ("embedded", "task decisions per second at concurrency 32", "task32.rate", "/s"),
    ("embedded", "task and complexity together, at concurrency 32", "both32.rate", "/s"),
    ("embedded", "latency at concurrency 1, p50", "alone.p50_ms", "ms"),
)
"""Ours and the blueprint's behaviour with the embedded encoder, for which nothing is promised."""


def results(parts: Mapping[str, Values], has_bf16: bool) -> list[Result]:
    """Of every promise whose part was measured."""
    found = []
    for promise in PROMISES:
        values = parts.get(promise.part)
        if values is None:
            continue
        target = promise.target
        if promise.target_without_bf16 is not None and not has_bf16:
            target = promise.target_without_bf16
        beside = ", ".join(
            f"{what} {number(median(_of(values, source)))} {unit}" for what, source, unit in promise.beside
        )
        found.append(Result(promise, tuple(promise.compute(values)), target, beside.replace(" /s", "/s")))
    return found


def _of(values: Values, source: str | Compute) -> Sequence[float]:
    return values[source] if isinstance(source, str) else source(values)


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) < 10 else 1}f}" if abs(value) >= 1 else f"{value:.3g}"
