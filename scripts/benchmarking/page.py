"""The tables of docs/BENCHMARKS.md, out of docs/benchmarks.json."""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import median
from typing import Any

from scripts.benchmarking import profile
from scripts.benchmarking.decisions import CONCURRENCIES as DECISION_CONCURRENCIES
from scripts.benchmarking.draw import PICTURES
from scripts.benchmarking.figures import FURTHER, number
from scripts.benchmarking.gateway import CONCURRENCIES, KINDS, WAYS
from scripts.benchmarking.prompts import BANDS, LENGTHS
from scripts.benchmarking.record import PLOTS, load_record, results_of

_NONE = "Nothing is recorded yet: `scripts/benchmark --record` does it."
_KIND_NAMES = {"whole": "whole answer of 4 tokens", "stream": "stream of 32 tokens"}


def promises() -> str:
    """Every figure beside its target."""
    rows = ["| figure | target | measured | rounds | met | out of |", "|---|---|---|---|---|---|"]
    for each in results_of(load_record()):
        unit = f" {each.promise.unit}" if each.promise.unit else ""
        span = f"{number(min(each.rounds))} to {number(max(each.rounds))}" if len(each.rounds) > 1 else "one"
        rows.append(
            f"| {each.promise.what} | {each.promise.comparison} {each.target:g}{unit} | **{number(each.value)}{unit}** "
            f"| {span} | {'yes' if each.met else '**no**'} | {each.beside} |"
        )
    return "\n".join(rows) if len(rows) > 2 else _NONE


def embedded() -> str:
    """The embedded encoder's own comparison with the blueprint's behaviour, which has no target."""
    parts = load_record()["parts"]
    rows = ["| embedded encoder, prompts of about 64 tokens | ours | blueprint behaviour |", "|---|---|---|"]
    for part, what, value, unit in FURTHER:
        if part in parts:
            sides = (median(parts[part]["values"][f"{side}.{value}"]) for side in ("ours", "blueprint"))
            rows.append(f"| {what} | {' | '.join(f'{number(each)} {unit}' for each in sides)} |")
    return "\n".join(rows).replace(" /s", "/s") if len(rows) > 2 else _NONE


def curves() -> str:
    """Decisions over concurrency and length."""
    rows = ["| encoder | prompts | concurrency | ours/s | p50, p99 ms | blueprint/s | p50, p99 ms |"]
    rows.append("|---|---|---|---|---|---|---|")
    for part, encoder in (("deberta-curves", "DeBERTa"), ("embedded-curves", "embedded")):
        values = load_record()["parts"].get(part, {}).get("values", {})
        for band in LENGTHS:
            for concurrency in DECISION_CONCURRENCIES:
                point = f"{band}.{concurrency}"
                if f"ours.{point}.rate" in values:
                    sides = " | ".join(_speed(values, f"{side}.{point}") for side in ("ours", "blueprint"))
                    rows.append(f"| {encoder} | {band} | {concurrency} | {sides} |")
    return "\n".join(rows) if len(rows) > 2 else _NONE


def _speed(values: dict[str, list[float]], name: str) -> str:
    if f"{name}.rate" not in values:
        return "| "
    rate, middle, late = (number(median(values[f"{name}.{kind}"])) for kind in ("rate", "p50_ms", "p99_ms"))
    return f"{rate} | {middle}, {late}"


def gateway() -> str:
    """Loads on the gateway and beside it, with what each process spent."""
    values = load_record()["parts"].get("gateway", {}).get("values", {})
    processes = ("gateway", "nginx", "triton", "dynamo", "client")
    rows = [
        "| answer | clients | way | requests/s | p50, p99 ms | first byte ms "
        "| CPU s per 1,000 requests: gateway or nginx | Triton | Dynamo | the client |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for concurrency in CONCURRENCIES:
            for way in WAYS:
                name = f"{way}.{kind}.{concurrency}"
                if f"{name}.rate" not in values:
                    continue
                spent = {each: values.get(f"{name}.{each}_cpu_ms") for each in processes}
                proxy = spent["gateway"] or spent["nginx"]
                cells = (number(median(each)) if each else "" for each in (proxy, *list(spent.values())[2:]))
                first = number(median(values[f"{name}.first_ms"]))
                rows.append(
                    f"| {_KIND_NAMES[kind]} | {concurrency} | {way} | {_speed(values, name)} | {first} "
                    f"| {' | '.join(cells)} |"
                )
    return "\n".join(rows) if len(rows) > 2 else _NONE


def profile_of_passes() -> str:
    """A forward pass by kind of operator."""
    values = load_record()["parts"].get("profile", {}).get("values", {})
    rows = ["| forward pass of one prompt | linear layers | attention | all else |", "|---|---|---|---|"]
    for part, encoder in (("deberta", "DeBERTa"), ("embedded", "embedded encoder")):
        for length in profile.LENGTHS:
            if f"{part}.{length}.linear_ms" in values:
                spent = [median(values[f"{part}.{length}.{kind}_ms"]) for kind in profile.KINDS]
                cells = " | ".join(f"{number(each)} ms, {each / sum(spent):.0%}" for each in spent)
                tokens = " to ".join(map(str, BANDS[length]))
                rows.append(f"| {encoder}, {tokens} tokens | {cells} |")
    return "\n".join(rows) if len(rows) > 2 else _NONE


def profile_of_decisions() -> str:
    """A prompt alone on its way through Triton, from the inside out."""
    values = load_record()["parts"].get("profile", {}).get("values", {})
    rows = [
        "| mean of a prompt alone, about 64 tokens | forward pass in a plain loop | and in the served model: the pass "
        "there, tokenizer, decisions | and in Triton: ensemble, queue, to the Python process and back | and with its "
        "client: gRPC |",
        "|---|---|---|---|---|",
    ]
    for part, encoder in (("deberta", "DeBERTa"), ("embedded", "embedded encoder")):
        if f"{part}.bare_ms" in values:
            cells = " | ".join(f"{number(median(values[f'{part}.{step}_ms']))} ms" for step in profile.STEPS)
            rows.append(f"| {encoder} | {cells} |")
    return "\n".join(rows) if len(rows) > 2 else _NONE


def profile_of_gateway() -> str:
    """CPU in the kernel and outside it, of the gateway and of nginx."""
    values = load_record()["parts"].get("profile", {}).get("values", {})
    rows = ["| CPU | gateway: its own | in the kernel | nginx: its own | in the kernel |", "|---|---|---|---|---|"]
    for kind, what in (("request", "whole answer, 16 clients"), ("event", "SSE event of 64 paced streams")):
        if f"gateway.{kind}.user_us" in values:
            names = itertools.product(("gateway", "nginx"), ("user", "system"))
            cells = " | ".join(f"{number(median(values[f'{way}.{kind}.{where}_us']))} µs" for way, where in names)
            rows.append(f"| {what} | {cells} |")
    return "\n".join(rows) if len(rows) > 2 else _NONE


def measured_on() -> str:
    """The machine, the versions and the days, in a few sentences."""
    record = load_record()
    if record["machine"] is None:
        return _NONE
    found = record["machine"]
    parts = record["parts"].values()
    days = sorted({part["date"] for part in parts})
    newest = max(parts, key=lambda part: part["date"])
    packages = ", ".join(f"{name} {version}" for name, version in newest["versions"].items())
    commits = ", ".join(sorted({part["commit"] for part in parts if part["commit"]}))
    hasty = " **A quick run, which proves that the command works and nothing else.**" if _any_quick(record) else ""
    return (
        f"Measured on {found['cores']} cores of an {found['cpu']} ({', '.join(found['flags'])}; CPU quota: "
        f"{found['cpu_quota']}) with {found['memory_gib']} GiB, Linux {found['kernel']}, no GPU, which the servers and "
        f"their clients share; {' to '.join(dict.fromkeys((days[0], days[-1])))}, commit {commits}. "
        f"{packages} (nvidia-pytriton 0.7.0 holds tritonserver 2.51).{hasty}"
    )


def notes() -> str:
    """What each part found out before its rounds, and how many those were."""
    rows = ["| part | rounds | noted |", "|---|---|---|"]
    for name, part in load_record()["parts"].items():
        rounds = max(len(each) for each in part["values"].values())
        noted = "; ".join(f"{what}: {value}" for what, value in part["notes"].items())
        rows.append(f"| `{name}` | {rounds} | {noted} |")
    return "\n".join(rows) if len(rows) > 2 else _NONE


def pictures(folder: Path = PLOTS) -> str:
    """Those that were drawn."""
    shown = [
        f"![{what}](benchmarks/{name}.png)" for name, what in PICTURES.items() if (folder / f"{name}.png").exists()
    ]
    return "\n\n".join(shown) if shown else _NONE


def _any_quick(record: dict[str, Any]) -> bool:
    return any(part["quick"] for part in record["parts"].values())
