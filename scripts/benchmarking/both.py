"""Task and complexity of each prompt: what perf_analyzer cannot ask for, since it takes one model's every output."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient

from scripts.benchmarking.perf_analyzer import Load, summarise

Questions = Mapping[str, Sequence[str]]
"""The models to ask about each prompt, at once, and the outputs to ask of each."""
OURS: Questions = {"router_ensemble": ("task_label", "complexity_label")}
BLUEPRINT: Questions = {"task_router_ensemble": ("OUTPUT",), "complexity_router_ensemble": ("OUTPUT",)}


def measure_both(grpc_url: str, questions: Questions, texts: Sequence[str], concurrency: int, requests: int) -> Load:
    """Ask about `requests` prompts, `concurrency` at a time; a prompt is answered when all its questions are."""
    return asyncio.run(_measure(grpc_url, questions, texts, concurrency, requests))


async def _measure(grpc_url: str, questions: Questions, texts: Sequence[str], concurrency: int, requests: int) -> Load:
    outputs = {model: [InferRequestedOutput(name) for name in names] for model, names in questions.items()}
    numbers = iter(range(requests))
    milliseconds = []
    async with InferenceServerClient(grpc_url, channel_args=[("grpc.enable_http_proxy", 0)]) as client:

        async def clients_turns() -> None:
            for number in numbers:  # shared: each takes the next one
                start = time.perf_counter()
                prompt = _input(texts[number % len(texts)])
                await asyncio.gather(
                    *(client.infer(model, [prompt], outputs=wanted) for model, wanted in outputs.items())
                )
                milliseconds.append((time.perf_counter() - start) * 1000)

        start = time.perf_counter_ns()
        await asyncio.gather(*(clients_turns() for _ in range(concurrency)))
        return summarise(milliseconds, time.perf_counter_ns() - start)


def _input(text: str) -> InferInput:
    prompt = InferInput("INPUT", [1, 1], "BYTES")
    prompt.set_data_from_numpy(np.array([[text.encode(errors="replace")]], dtype=np.object_))
    return prompt
