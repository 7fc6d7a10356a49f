"""Trains the embedded strong/weak router: an `mf` on embeddings by the encoder that the classifier has too.

Writes a checkpoint folder (config.json, model.safetensors, README.md) that ROUTELLM_MF_CHECKPOINT may name. The recipe
is chosen by cross-validation on the training rows; the README's figures are those of the written files on the dev rows.
No prompt is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as serialise
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from classifiers.bert import PackedBert
from classifiers.checkpoint import EMBEDDED, CheckpointError, load_checkpoint
from classifiers.network import load_encoder
from classifiers.packing import pack, pool
from classifiers.routellm.mf import Head, load_mf
from classifiers.sentence import LocalEncoder
from classifiers.tokenizer import PromptTokenizer
from scripts.training.data import DataError
from scripts.training.routellm.card import Run, describe
from scripts.training.routellm.data import (
    DEV_FILE,
    GSM8K,
    MMLU,
    TRAIN_FILE,
    Row,
    column,
    misgraded_subjects,
    read_rows,
)
from scripts.training.routellm.fit import LAYERS, RECIPES, Floats, calibrate, choose, cross_validate, fit, scores
from scripts.training.routellm.measure import baselines, measure

# Whose answers the rows grade.
STRONG_MODEL = "gpt-4-1106-preview"
WEAK_MODEL = "mixtral-8x7b-instruct-v0.1"

# What the package's own settings give the encoder to read.
MAX_TOKENS = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 when the data or the encoder is wrong."""
    options = parser().parse_args(arguments)
    try:
        write_checkpoint(options.data, options.out, options.name, options.seed)
    except (DataError, CheckpointError, OSError) as error:
        print(f"train_mf: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="scripts/train_mf", description=__doc__)
    root.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with routellm/train.jsonl and routellm/dev.jsonl",
    )
    root.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the checkpoint to")
    root.add_argument("--name", default="minilm-mf", help="the checkpoint's name (default: %(default)s)")
    root.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return root


def write_checkpoint(data: Path, out: Path, name: str, seed: int) -> None:
    """The whole command.

    Raises DataError, CheckpointError: a file of the data or the encoder is missing or wrong.
    """
    everything, dev = read_rows(data / TRAIN_FILE), read_rows(data / DEV_FILE)
    for path, rows in ((data / TRAIN_FILE, everything), (data / DEV_FILE, dev)):
        check_sources(path, rows)
    misgraded = misgraded_subjects(everything)
    train = [row for row in everything if row.subject not in misgraded]
    local, encoder_config = local_encoder()
    embeddings = embed(local, train, LAYERS)
    gain = (column(train, "strong") - column(train, "weak")).astype(np.float64)
    try:
        validated = cross_validate(embeddings, train, RECIPES, seed)
        recipe = choose(validated)
        known = embeddings[recipe.layers]
        head = calibrate(fit(known, gain, recipe.penalty), known, train, recipe.penalty, seed)
    except ValueError as error:
        raise DataError(f"{data / TRAIN_FILE}: {error}") from None
    win_rates = 1 / (1 + np.exp(-scores(head, known)))
    config = {
        "name": name,
        "strong_model": STRONG_MODEL,
        "weak_model": WEAK_MODEL,
        "max_tokens": MAX_TOKENS,
        "encoder": encoder_config,
        "layers": recipe.layers,
        "threshold_for_half_of_training_prompts": round(float(np.median(win_rates)), 5),
    }
    out.mkdir(parents=True, exist_ok=True)
    save(head, config, out)
    router = load_mf(out)
    # One at a time: a score then does not hang on a neighbour's length, not even in its last bit.
    served = np.array([router.score([row.text.encode()]).strong_win_rate[0] for row in tqdm(dev, "scoring dev")])
    compared = {name: served.astype(np.float64)} | baselines(train, dev)
    try:
        figures = {source: measure(compared, dev, source, seed) for source in (MMLU, GSM8K)}
    except ValueError as error:
        raise DataError(f"{data / DEV_FILE}: {error}") from None
    run = Run(data, len(everything), train, misgraded, validated, recipe, win_rates, figures)
    (out / "README.md").write_text(describe(name, config, run), encoding="utf-8")


def check_sources(path: Path, rows: Sequence[Row]) -> None:
    """Raises DataError: it has no rows of MMLU or none of GSM8K."""
    for source in (MMLU, GSM8K):
        if not any(row.source == source for row in rows):
            raise DataError(f"{path}: has no rows of source '{source}'")


def local_encoder() -> tuple[LocalEncoder, dict[str, Any]]:
    """The embedded classifier's encoder, and how its config names it."""
    base = load_checkpoint(EMBEDDED)
    assert base.encoder is not None
    named = json.loads(base.config_file.read_text(encoding="utf-8"))["encoder"]
    return LocalEncoder(base.encoder, MAX_TOKENS), named


def embed(local: LocalEncoder, rows: Sequence[Row], layers: Sequence[int]) -> dict[int, Floats]:
    """The rows' embeddings [N, d], in their order, after each of these numbers of layers, from one pass."""
    network = PackedBert(load_encoder(local.encoder).requires_grad_(False).eval())
    seen: dict[int, Tensor] = {}
    for count in layers:
        network.layers[count - 1].register_forward_hook(lambda _, __, hidden, count=count: seen.update({count: hidden}))
    ids, _ = PromptTokenizer(local).encode([row.text.encode() for row in rows])
    embeddings = {count: np.empty((len(rows), network.config.hidden_size)) for count in layers}
    with torch.inference_mode(), tqdm(total=len(rows), desc="embedding", unit="prompt") as progress:
        for packed in pack([row[row >= 0] for row in ids]):
            network(packed)
            for count in layers:
                means = pool(seen[count], packed.groups)
                embeddings[count][list(packed.prompts)] = normalize(means, dim=1).numpy()
            progress.update(len(packed.prompts))
    return embeddings


def save(head: Head, config: dict[str, Any], folder: Path) -> None:
    """Writes weights and config; each file of `folder` changes all at once or not."""
    tensors = {"direction": head.direction, "bias": np.array([head.bias], dtype=np.float32)}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        written = Path(temporary)
        # Not save_file: the file would be readable by its owner alone, and Triton often runs as another user.
        (written / "model.safetensors").write_bytes(serialise(tensors))
        (written / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        load_mf(written)
        for path in sorted(written.iterdir()):
            path.replace(folder / path.name)


if __name__ == "__main__":
    sys.exit(main())
