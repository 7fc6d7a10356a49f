"""Folders laid out like the data that RouteLLM's `sw_ranking` reads, with made-up battles and random embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from classifiers.routellm.sw_ranking import STRONG_MODEL, WEAK_MODEL

MODELS = (STRONG_MODEL, WEAK_MODEL, *(f"model-{number}" for number in range(16)))
DIMENSIONS = 48

# As on the hub, where the first data set is a conversion, and the last one is in two pieces.
ARENA_BATTLES = "arena/battles/default/train/0000.parquet"
ARENA_EMBEDDINGS = "arena/embeddings/data/train-00000-of-00001.parquet"
JUDGE_BATTLES = "gpt4_judge/battles/data/train-00000-of-00001.parquet"
JUDGE_EMBEDDINGS = (
    "gpt4_judge/embeddings/default/train/0000.parquet",
    "gpt4_judge/embeddings/default/train/0001.parquet",
)


def write_battles(folder: Path, *, seed: int = 0) -> Path:
    """Writes 800 battles of 18 models with their embeddings, and returns the folder."""
    random = np.random.default_rng(seed)
    arena, judge = random_battles(500, random), random_battles(300, random)
    write(arena, folder / ARENA_BATTLES)
    write(random_embeddings(kept(arena), random), folder / ARENA_EMBEDDINGS)
    write(judge, folder / JUDGE_BATTLES)
    write(random_embeddings(150, random), folder / JUDGE_EMBEDDINGS[0])
    write(random_embeddings(kept(judge) - 150, random), folder / JUDGE_EMBEDDINGS[1])
    return folder


def random_battles(count: int, random: np.random.Generator) -> pa.Table:
    """Battles in the published columns; a tenth of the first turns is too short to be kept."""
    strength = np.linspace(1, -1, len(MODELS))
    first, second = random.integers(len(MODELS), size=(2, count))
    tie = random.random(count) < 0.2
    won = (random.random(count) < 1 / (1 + np.exp(strength[second] - strength[first]))) & ~tie
    turns = ["  Hi \u00e9\n" if random.random() < 0.1 else f"Question number {row}?" for row in range(count)]
    return pa.table(
        {
            "id": [str(row) for row in range(count)],
            "model_a": [MODELS[model] for model in first],
            "model_b": [MODELS[model] for model in second],
            "prompt": [json.dumps([turn, "And then?"]) for turn in turns],
            "response_a": [json.dumps(["An answer.", "Another."])] * count,
            "response_b": [json.dumps(["An answer.", "Another."])] * count,
            "winner_model_a": won.astype(np.int64),
            "winner_model_b": (~won & ~tie).astype(np.int64),
            "winner_tie": tie.astype(np.int64),
        }
    )


def kept(battles: pa.Table) -> int:
    return sum(prompt.startswith('["Question') for prompt in battles["prompt"].to_pylist())


def random_embeddings(count: int, random: np.random.Generator) -> pa.Table:
    return pa.table({"embeddings": list(random.normal(size=(count, DIMENSIONS)).astype(np.float32))})


def write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
