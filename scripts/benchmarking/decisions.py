"""Parts `deberta` and `embedded`: the served ensembles against the blueprint's behaviour and the bare network.

Parts `deberta-curves` and `embedded-curves`: throughput and latency over concurrency, by length of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient

from classifiers.checkpoint import EMBEDDED, load_checkpoint
from scripts.benchmarking import servers
from scripts.benchmarking.both import BLUEPRINT, OURS, Questions, measure_both
from scripts.benchmarking.limit import WAYS, Limit, Way, limit
from scripts.benchmarking.perf_analyzer import Load, PerfAnalyzer, write_data
from scripts.benchmarking.processes import memory, spending
from scripts.benchmarking.prompts import BANDS, LENGTHS, Bands, Prompt, sort_into_bands
from scripts.benchmarking.rounds import Found, Run, Step, Values, interleave
from scripts.evaluating.ask import infer
from scripts.local.triton import Triton

TASK = "task_router_ensemble"
CONCURRENCIES = (1, 4, 16, 64)
_MANY, _FEW = 64, 8
_COMPARED = 8  # prompts on which both must agree before anything is timed
_MOST_REQUESTS = 20_000
_SLOW_CONCURRENCIES = (1, 16)  # it takes one prompt after the other: its throughput is the same whoever waits
_MOST_ROUNDS = 3  # of the curves, which are many points and no promise


@dataclass(frozen=True)
class Bench:
    """What both kinds of part need."""

    run: Run
    perf: PerfAnalyzer
    ours: Triton
    blueprint: Triton
    bands: Bands
    data: Mapping[str, Path]
    slow: bool
    """Whether the blueprint takes so long for a prompt that its requests have to be few."""

    def measure(self, triton: Triton, band: str, concurrency: int, requests: int) -> Load:
        """Task decisions through perf_analyzer."""
        return self.perf.measure(triton.grpc_url, TASK, self.data[band], concurrency, requests)

    def plan(self, band: str, concurrency: int, seconds: float) -> int:
        """How many requests of ours take about so long; at least two for each client, but one when quick."""
        if self.run.quick:
            return max(concurrency, 8)
        warm = self.measure(self.ours, band, concurrency, max(concurrency, 8))
        return multiple(warm.rate * seconds, concurrency)


def multiple(requests: float, concurrency: int) -> int:
    """About so many requests, the same number for each client, at least two and at most 20,000 in all."""
    each = max(2, round(min(requests, _MOST_REQUESTS) / concurrency))
    return each * concurrency


def measure_decisions(run: Run, checkpoint: Path | None) -> Values:
    """`checkpoint`: None for the embedded one. Raises StartError, PromptsError, TritonError."""
    bench = _bench(run, checkpoint)
    with limit(checkpoint or EMBEDDED) as bare:
        run.notes["threads of the limit"] = str(bare.threads)
        run.notes["precision"] = bare.precision.removeprefix("torch.")
        run.notes["prompts with the same answers"] = _agreement(bench)
        mixed = bench.bands["mixed"]
        way = _fastest(bare, mixed[: 64 if bench.slow or run.quick else 256])
        run.notes["fastest way of the limit"] = way
        run.notes["tokens"] = "; ".join(f"{band} {least} to {most}" for band, (least, most) in BANDS.items())
        values = interleave("decisions", _steps(bench, bare, way), run.rounds)
        held = memory(servers.pid(bench.ours))
        return values | {"ours.pss_mib": [held.pss], "ours.rss_mib": [held.rss]}


def _steps(bench: Bench, bare: Limit, way: Way) -> list[Step]:
    ours, blueprint = bench.ours, bench.blueprint
    about = bench.bands["about_64"]
    few = 4 if bench.slow or bench.run.quick else 16
    load = 8 if bench.run.quick else 32
    alone = bench.plan("about_64", 1, 2.0)
    mixed = bench.plan("mixed", _MANY, 6.0)
    loaded = bench.plan("about_64", load, 4.0)
    return [
        partial(_task, bench, ours, "ours.task32", "about_64", load, loaded),
        partial(_task, bench, blueprint, "blueprint.task32", "about_64", load, load),
        partial(_both, ours, "ours.both32", OURS, about, load, loaded),
        partial(_both, blueprint, "blueprint.both32", BLUEPRINT, about, load, load),
        partial(_task, bench, ours, "ours.alone", "about_64", 1, alone),
        partial(_bare_alone, bare, about, alone),
        partial(_task, bench, blueprint, "blueprint.alone", "about_64", 1, few),
        partial(_task, bench, ours, "ours.mixed64", "mixed", _MANY, mixed),
        partial(_bare_mixed, bare, bench.bands["mixed"], way, mixed),
        partial(_task, bench, ours, "ours.mixed8", "mixed", _FEW, mixed),  # the same prompts
    ]


def _task(bench: Bench, triton: Triton, name: str, band: str, concurrency: int, requests: int) -> Found:
    with spending(servers.pid(triton)) as spent:
        load = bench.measure(triton, band, concurrency, requests)
    return {**_found(name, load), f"{name}.cpu_ms": spent.cpu * 1000 / load.requests}


def _both(
    triton: Triton, name: str, questions: Questions, prompts: Sequence[Prompt], concurrency: int, requests: int
) -> Found:
    texts = [prompt.text for prompt in prompts]
    return _found(name, measure_both(triton.grpc_url, questions, texts, concurrency, requests))


def _bare_alone(bare: Limit, prompts: Sequence[Prompt], requests: int) -> Found:
    milliseconds = bare.forward(_rows(prompts, requests), "alone")
    return {"limit.alone.p50_ms": float(np.median(milliseconds))}


def _bare_mixed(bare: Limit, prompts: Sequence[Prompt], way: Way, requests: int) -> Found:
    return {"limit.mixed.rate": bare.rate(_rows(prompts, requests), way)}


def _found(name: str, load: Load) -> Found:
    return {f"{name}.rate": load.rate, f"{name}.p50_ms": load.p50, f"{name}.p99_ms": load.p99}


def _rows(prompts: Sequence[Prompt], count: int) -> list[list[int]]:
    """The token ids of so many prompts, those in turn that perf_analyzer asks about."""
    return [prompts[number % len(prompts)].input_ids[0].tolist() for number in range(count)]


def _fastest(bare: Limit, prompts: Sequence[Prompt]) -> Way:
    rows = _rows(prompts, len(prompts))
    bare.forward(rows[:4], "alone")  # warm
    return max(WAYS, key=lambda way: bare.rate(rows, way))


def _agreement(bench: Bench) -> str:
    """On how many prompts both give the same task: the baseline has to be the same network."""
    texts = [prompt.text for prompt in bench.bands["mixed"][:_COMPARED]]
    answers = []
    for triton in (bench.ours, bench.blueprint):
        with InferenceServerClient(triton.grpc_url, channel_args=[("grpc.enable_http_proxy", 0)]) as client:
            answers.append([infer(client, TASK, [text], ["OUTPUT"])["OUTPUT"].argmax() for text in texts])
    return f"{sum(a == b for a, b in zip(*answers, strict=True))} of {len(texts)}"


def measure_curves(run: Run, checkpoint: Path | None) -> Values:
    """Ours and the blueprint's behaviour, over concurrency and length. Raises StartError, PromptsError."""
    bench = _bench(run, checkpoint)
    steps: list[Step] = []
    once: list[Step] = []
    for band in LENGTHS[:1] if run.quick else LENGTHS:
        for concurrency in CONCURRENCIES[:2] if run.quick else CONCURRENCIES:
            name = f"{band}.{concurrency}"
            requests = bench.plan(band, concurrency, 2.0)
            steps.append(partial(_task, bench, bench.ours, f"ours.{name}", band, concurrency, requests))
            if bench.slow and concurrency not in _SLOW_CONCURRENCIES:
                continue
            asked = max(2 if bench.slow else 8, concurrency)
            baseline = partial(_task, bench, bench.blueprint, f"blueprint.{name}", band, concurrency, asked)
            (once if bench.slow else steps).append(baseline)
    values = interleave("curves", steps, min(run.rounds, _MOST_ROUNDS))
    return values | interleave("curves of the blueprint", once, 1)


def _bench(run: Run, checkpoint: Path | None) -> Bench:
    """With its servers running; for this run, whatever run they were started for."""
    return replace(run.kept.enter(("decisions", checkpoint), lambda: _started(run, checkpoint)), run=run)


@contextmanager
def _started(run: Run, checkpoint: Path | None) -> Iterator[Bench]:
    bands = sort_into_bands(run.texts, load_checkpoint(checkpoint or EMBEDDED))
    folder = run.folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        band: write_data([prompt.text for prompt in prompts], folder / f"{band}.json")
        for band, prompts in bands.items()
    }
    perf = run.perf_analyzer()
    ours = servers.ours(run.folder / "ours", checkpoint)
    baseline = servers.blueprint(run.folder / "blueprint", checkpoint)
    with servers.running([ours, baseline]):
        yield Bench(run, perf, ours, baseline, bands, data, slow=checkpoint is not None and not run.quick)
