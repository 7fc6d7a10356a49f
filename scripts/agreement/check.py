"""`scripts/check_agreement`: may this network be served in a reduced precision, or in another form?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from classifiers.checkpoint import EMBEDDED, Checkpoint, CheckpointError, load_checkpoint
from classifiers.network import load_network
from classifiers.precision import PRECISIONS
from classifiers.tokenizer import PromptTokenizer
from scripts.agreement.compare import MOST_LABELS_CHANGED, MOST_MOVED, Agreement, Logits, compare

PROMPTS = 1_000
_STEP = 50
_OWN_PROMPTS = Path(__file__).parents[1] / "training" / "prompts.jsonl"


class PromptsError(Exception):
    """One line: which file of prompts is wrong, and where."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/check_agreement",
        description="Compare a network in a reduced precision, or in another form, with the same network in float32. "
        f"Exit code 1 when more than {MOST_LABELS_CHANGED:.1%} of the labels change, any probability moves by more "
        f"than {MOST_MOVED}, or a logit is not finite.",
    )
    add = root.add_argument
    add("--checkpoint", type=Path, default=EMBEDDED, metavar="DIR", help="the network (default: the embedded one)")
    add("--precision", choices=PRECISIONS, default="float32", help="what to compare with float32")
    add("--export", type=Path, metavar="DIR", help="the network in another form: a second checkpoint folder")
    add("--device", default="cpu", help="where to compute: cpu, cuda:0 (default: %(default)s)")
    add(
        "--prompts",
        type=Path,
        nargs="+",
        default=[_OWN_PROMPTS],
        metavar="FILE",
        help=f"JSON lines with a 'text'; {PROMPTS} are used, evenly spread (default: this project's training prompts)",
    )
    add(
        "--logits",
        type=_tolerance,
        metavar="TOLERANCE",
        help="for random weights: compare logits alone, which may move by so much",
    )
    add("--json", action="store_true", help="print JSON")
    return root


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, and got {text!r}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 (they agree), 1 (they do not) or 2 (wrong arguments, files or checkpoint)."""
    root = parser()
    options = root.parse_args(arguments)
    if options.precision == "float32" and options.export is None:
        root.error("one of --precision and --export is needed: float32 agrees with itself")
    try:
        agreement = _compare(options)
    except (CheckpointError, PromptsError, OSError, RuntimeError, AssertionError) as error:
        # The last two are what torch raises for a device that is not there.
        print(f"check_agreement: {error}", file=sys.stderr)
        return 2
    faults = agreement.faults(options.logits)
    if options.json:
        print(json.dumps(asdict(agreement) | {"faults": faults}))
    else:
        for name, value in _lines(agreement):
            print(f"{name:<28}{value:.4g}" if isinstance(value, float) else f"{name:<28}{value}")
        print("\n".join(f"refused: {fault}" for fault in faults) or "agrees")
    return 1 if faults else 0


def _lines(agreement: Agreement) -> Iterator[tuple[str, object]]:
    for name, value in asdict(agreement).items():
        if isinstance(value, dict):
            yield from ((f"{kind} {name.replace('_', ' ')}", share) for kind, share in value.items())
        else:
            yield name.replace("_", " "), value


def _compare(options: argparse.Namespace) -> Agreement:
    checkpoint = load_checkpoint(options.checkpoint)
    if checkpoint.kind == "torchscript":
        raise CheckpointError(
            f"{checkpoint.folder}: TorchScript, which is served in the precision that it was traced in alone: there is "
            "nothing to compare"
        )
    other = load_checkpoint(options.export) if options.export else checkpoint
    if (other.kind, other.heads) != (checkpoint.kind, checkpoint.heads):
        raise CheckpointError(f"{other.folder}: another network than {checkpoint.folder}: their heads differ")
    prompts = read_prompts(options.prompts)
    exact = _logits(checkpoint, prompts, options.device, torch.float32)
    return compare(exact, _logits(other, prompts, options.device, PRECISIONS[options.precision]), checkpoint)


def read_prompts(files: Sequence[Path]) -> list[bytes]:
    """PROMPTS different prompts of the files, evenly spread.

    Raises PromptsError: a line is no JSON object with a text, or there are too few.
    """
    found: dict[str, None] = {}
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                raise PromptsError(f"{file}:{number}: expected a JSON object with a 'text'") from None
            if not isinstance(text, str) or not text.strip():
                raise PromptsError(f"{file}:{number}: 'text' should be a text, and not empty")
            found[text] = None
    if len(found) < PROMPTS:
        raise PromptsError(f"{', '.join(map(str, files))}: {len(found)} different prompts; {PROMPTS} are needed")
    texts = list(found)
    return [texts[place].encode(errors="replace") for place in np.linspace(0, len(texts) - 1, PROMPTS).astype(int)]


def _logits(checkpoint: Checkpoint, prompts: Sequence[bytes], device: str, precision: torch.dtype) -> Logits:
    tokenizer, network = PromptTokenizer(checkpoint), load_network(checkpoint, device, precision)
    parts = []
    for start in tqdm(range(0, len(prompts), _STEP), str(precision), unit=f"{_STEP} prompts"):
        parts += network.classify([tokenizer.encode(prompts[start : start + _STEP])[0]])
    return np.concatenate(parts)


if __name__ == "__main__":
    sys.exit(main())
