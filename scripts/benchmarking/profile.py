"""Part `profile`: where the time goes in what misses its target.

Run as a module it is a process that loads the checkpoint whose folder is its argument, reads token ids as JSON, and
prints milliseconds of their forward pass by kind of operator.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean

from tritonclient.grpc import InferenceServerClient

from classifiers.checkpoint import EMBEDDED, load_checkpoint
from scripts.benchmarking import servers
from scripts.benchmarking.client import body, lasting, load
from scripts.benchmarking.decisions import TASK
from scripts.benchmarking.gateway import DECIDED, PACED_STREAMS, PACED_TOKENS, SHORT_TOKENS
from scripts.benchmarking.limit import limit
from scripts.benchmarking.processes import cpu_split
from scripts.benchmarking.prompts import Prompt, sort_into_bands
from scripts.benchmarking.rig import MODEL, Rig, Server, kept_rig
from scripts.benchmarking.rounds import Found, Run, Step, Values, interleave
from scripts.evaluating.ask import infer
from scripts.local.process import StartError
from scripts.local.triton import ROOT, Triton

KINDS = ("linear", "attention", "rest")
LENGTHS = ("about_64", "long")
STEPS = ("bare", "model", "ensemble", "client")
_OPERATORS = {
    "linear": ("linear_pointwise", "addmm", "aten::mm"),
    "attention": ("attention", "bmm", "softmax"),
}
_CLASSIFIER = "prompt_classifier"
_PROMPTS = 24


def measure_profile(run: Run) -> Values:
    """Raises StartError, PromptsError, TritonError."""
    rounds = min(run.rounds, 3)
    values: Values = {}
    for name, checkpoint in (("deberta", run.deberta()), ("embedded", None)):
        bands = sort_into_bands(run.texts, load_checkpoint(checkpoint or EMBEDDED))
        prompts = bands["about_64"][: 4 if run.quick else _PROMPTS]
        for length in LENGTHS:
            rows = [prompt.input_ids[0].tolist() for prompt in bands[length][: len(prompts)]]
            shares = _operators(checkpoint or EMBEDDED, rows)
            values |= {f"{name}.{length}.{kind}_ms": [shares[kind]] for kind in KINDS}
        triton = run.kept.enter(("profile", checkpoint), partial(_started, run, checkpoint))
        with limit(checkpoint or EMBEDDED) as bare:
            rows = [prompt.input_ids[0].tolist() for prompt in prompts]
            steps: list[Step] = [
                lambda: {f"{name}.bare_ms": fmean(bare.forward(rows, "alone"))},  # noqa: B023 run before the next turn
                partial(_served, name, triton, prompts),
            ]
            values |= interleave(f"profile of {name}", steps, rounds)
    rig = kept_rig(run)
    streams = {"gateway": rig.paced_gateway, "nginx": rig.paced_nginx}
    answers = {"gateway": rig.gateway, "nginx": rig.nginx}
    by_way: list[Step] = [partial(_events, run, rig, way, server) for way, server in streams.items()]
    by_way += [partial(_requests, run, rig, way, server) for way, server in answers.items()]
    return values | interleave("profile of the gateway", by_way, rounds)


@contextmanager
def _started(run: Run, checkpoint: Path | None) -> Iterator[Triton]:
    triton = servers.ours(run.folder / "ours", checkpoint)
    with servers.running([triton]):
        yield triton


def _served(name: str, triton: Triton, prompts: Sequence[Prompt]) -> Found:
    """Mean milliseconds of a prompt alone: as its client sees it, in Triton's ensemble, in our model."""
    with InferenceServerClient(triton.grpc_url, channel_args=[("grpc.enable_http_proxy", 0)]) as client:
        before = _statistics(client)
        start = time.perf_counter()
        for prompt in prompts:
            infer(client, TASK, [prompt.text], ["OUTPUT"])
        seconds = time.perf_counter() - start
        after = _statistics(client)
    ensemble, model = (
        (after[key] - before[key]) / 1e6 / len(prompts) for key in ((TASK, "success"), (_CLASSIFIER, "compute_infer"))
    )
    return {
        f"{name}.client_ms": seconds * 1000 / len(prompts),
        f"{name}.ensemble_ms": ensemble,
        f"{name}.model_ms": model,
    }


def _statistics(client: InferenceServerClient) -> dict[tuple[str, str], int]:
    """Nanoseconds so far, by model and step."""
    found = {}
    for model in client.get_inference_statistics().model_stats:
        for step in ("success", "compute_infer"):
            found[model.name, step] = getattr(model.inference_stats, step).ns
    return found


def _events(run: Run, rig: Rig, way: str, server: Server) -> Found:
    """CPU for an SSE event of 64 paced streams, as `figures.chunk_microseconds`, by where it is spent."""

    def spend(tokens: int) -> tuple[float, float, int]:
        model = "" if way == "gateway" else MODEL
        texts = itertools.islice(rig.unique(), PACED_STREAMS)
        bodies = [body(text, tokens, model=model, stream=True) for text in texts]
        user, system = cpu_split(server.processes[0].pid)
        seen = load(server.url, iter(bodies), PACED_STREAMS, DECIDED if way == "gateway" else frozenset())
        later = cpu_split(server.processes[0].pid)
        return later[0] - user, later[1] - system, seen.chunks

    user, system, chunks = (
        more - less for more, less in zip(spend(32 if run.quick else PACED_TOKENS), spend(SHORT_TOKENS), strict=True)
    )
    return {f"{way}.event.user_us": user / chunks * 1e6, f"{way}.event.system_us": system / chunks * 1e6}


def _requests(run: Run, rig: Rig, way: str, server: Server) -> Found:
    """CPU for a whole answer, 16 clients, by where it is spent."""
    model = "" if way == "gateway" else MODEL
    bodies = (body(text, 4, model=model) for text in rig.unique())
    user, system = cpu_split(server.processes[0].pid)
    seen = load(server.url, lasting(bodies, run.seconds(3.0)), 16, DECIDED if way == "gateway" else frozenset())
    later = cpu_split(server.processes[0].pid)
    return {
        f"{way}.request.user_us": (later[0] - user) / len(seen.whole) * 1e6,
        f"{way}.request.system_us": (later[1] - system) / len(seen.whole) * 1e6,
    }


def _operators(checkpoint: Path, rows: Sequence[Sequence[int]]) -> dict[str, float]:
    """Mean milliseconds of a forward pass, by kind of operator. Raises StartError."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", __name__, str(checkpoint)]
    done = subprocess.run(command, env=environ, input=json.dumps(rows), text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise StartError("the process that profiles the network has ended; its reason stands above")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Profile what stdin holds."""
    import numpy as np
    from torch.profiler import ProfilerActivity, profile

    from classifiers.network import load_network
    from classifiers.precision import choose_precision

    checkpoint = load_checkpoint(Path(sys.argv[1]))
    network = load_network(checkpoint, dtype=choose_precision(checkpoint.folder, "cpu", os.environ))
    batches = [[np.array([row], dtype=np.int32)] for row in json.load(sys.stdin)]
    network.classify(batches[0])  # warm
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for batch in batches:
            network.classify(batch)
    spent = dict.fromkeys(KINDS, 0.0)
    for event in profiled.key_averages():
        kind = next((kind for kind, names in _OPERATORS.items() if any(each in event.key for each in names)), "rest")
        spent[kind] += event.self_cpu_time_total / 1000 / len(batches)
    print(json.dumps(spent))


if __name__ == "__main__":
    main()
