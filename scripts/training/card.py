"""The model card of a trained checkpoint: what it is, its figures, and what it learnt from. No date: it would drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from classifiers.checkpoint import UNKNOWN, Checkpoint
from scripts.training.calibrate import COVERAGE, Calibration
from scripts.training.data import DEV_FILES, EVALUATION_ONLY, LABELLED, TRAIN_FILES, Row, file_hashes
from scripts.training.learn import Recipe
from scripts.training.measure import ALL_TASKS, Figures

NamedFigures = Mapping[tuple[str, str], Figures]

_FEW = 100
# The groups whose F1 is shown label by label.
_SHOWN = ((ALL_TASKS, "task"), ("labelled/dev", "complexity"), ("complexity/dev", "complexity"))

LICENCES = {
    "arena_hard_en": "Apache-2.0 (lmarena/arena-hard-auto)",
    "bbh": "MIT (suzgunmirac/BIG-Bench-Hard)",
    "bbh_cot": "MIT (suzgunmirac/BIG-Bench-Hard)",
    "bbh_fewshot": "MIT (suzgunmirac/BIG-Bench-Hard)",
    "clinc150": "CC-BY-3.0 (clinc/oos-eval)",
    "clinc_fewshot": "CC-BY-3.0 (clinc/oos-eval)",
    "dolly-15k": "CC-BY-SA-3.0 (databricks-dolly-15k)",
    "followbench": "Apache-2.0 (YJiangcm/FollowBench)",
    "gsm8k": "MIT (GSM8K)",
    "ifeval": "Apache-2.0 (IFEval)",
    "mbpp": "CC-BY-4.0 (MBPP)",
    "mmlu": "MIT (MMLU)",
    "nq_open": "CC-BY-SA-3.0 (Natural Questions)",
    "prompts.chat": "CC0-1.0 (awesome-chatgpt-prompts)",
    "self-instruct": "Apache-2.0 (yizhongw/self-instruct)",
    "t0": "templates Apache-2.0 (P3); texts by data set: MIT, Apache-2.0, CC-BY-4.0, CC-BY-SA-3.0, free use (PAWS)",
    "t0_fewshot": "as t0",
    "written": "this project's (scripts/training/prompts.jsonl)",
    "template": "this project's (scripts/training/templates.json); passages in them: those of their sources above",
}


@dataclass(frozen=True)
class Run:
    """One training: how it was done, how long it took, and on which rows of which folder."""

    recipe: Recipe
    seconds: float
    threads: int
    data: Path
    rows: Sequence[Row]
    calibration: Calibration


def format_figures(figures: NamedFigures) -> str:
    """A Markdown table, one line for each group of rows and head."""
    lines = [
        "| rows | label | count | accuracy | macro F1 | calibration error | answered Unknown |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {head} | {each.rows} | {each.accuracy:.3f} | {each.macro_f1:.3f} | {each.calibration_error:.3f} "
        f"| {each.unknown} |"
        for (name, head), each in figures.items()
    ]
    return "\n".join(lines)


def describe(checkpoint: Checkpoint, run: Run, figures: NamedFigures) -> str:
    """The whole card, in Markdown."""
    return "\n\n".join(_sections(checkpoint, run, figures)) + "\n"


def _sections(checkpoint: Checkpoint, run: Run, figures: NamedFigures) -> Iterable[str]:
    yield f"# {checkpoint.name}"
    yield "Written by `scripts/train_classifier`; change the command, not this page."
    yield _introduction(checkpoint)
    yield "## Figures"
    yield (
        "Of this one checkpoint as it lies here, on the dev rows, taken once; another seed moves them by points. An "
        "answer of Unknown counts as wrong. Macro F1 averages over the labels that occur. The calibration error is the "
        "expected one, over 15 bins, of the likeliest label's score."
    )
    yield format_figures(figures)
    yield (
        f"The rows of {EVALUATION_ONLY} are real user prompts labelled by people after another guideline, and none of "
        "them was trained on. The labels of complexity/dev follow from the source of a row, so that figure tells how "
        "well kinds of sources are recognised; labelled/dev was labelled prompt by prompt."
    )
    yield "F1, label by label:"
    yield _format_labels(figures)
    yield "## What it can't do"
    yield _limits(checkpoint, run)
    yield "## History"
    yield Path(__file__).with_name("HISTORY.md").read_text(encoding="utf-8").strip()
    yield "## Training"
    yield _training(run)
    yield _format_sources(run.rows)
    yield "Every data file, by SHA-256 (those of dev measured only):"
    yield _format_hashes(run.data)


def _introduction(checkpoint: Checkpoint) -> str:
    encoder = checkpoint.encoder
    assert encoder is not None
    return (
        f"One network for two labels of an English prompt: its task (one of {len(checkpoint.task_labels)}) and the "
        f"demand that makes it hard (one of {len(checkpoint.complexity_labels)}). It is all-MiniLM-L6-v2 (weights "
        f"Apache-2.0, from the Python package `{encoder.package}`, checked by SHA-256 `{encoder.sha256}`) with "
        f"low-rank adapters (rank {checkpoint.adapter_rank}) on every linear layer of the encoder and two heads over "
        "the mean of the token vectors. `adapters.safetensors` holds adapters (float16) and heads; the adapters are "
        "merged into the encoder's weights when the network is loaded. `config.json` holds the order of the labels. In "
        "production NVIDIA's published checkpoint is the one to use: docs/CLASSIFIERS.md says when to switch and what "
        "it costs."
    )


def _limits(checkpoint: Checkpoint, run: Run) -> str:
    half = checkpoint.max_tokens // 2
    rare = ", ".join(_rare_tasks(checkpoint, run.rows)) or "no task"
    return "\n".join(
        (
            f"- It reads {checkpoint.max_tokens} tokens: of a longer prompt the first {half} and the last {half}.",
            "- It learnt English; other languages get an answer that means little.",
            f"- Unknown was never taught: it is the answer when no task's score reaches {checkpoint.unknown_below:g}. "
            + _coverage(run.calibration),
            f"- It saw fewer than {_FEW} prompts read or written one by one of: {rare}.",
            "- It has seen no prompt that tries to mislead it.",
        )
    )


def _coverage(calibration: Calibration) -> str:
    if not calibration.rows:
        return "Too few rows were labelled by reading to calibrate scores or threshold on."
    return (
        f"That keeps {COVERAGE:.1%} of the answers on {calibration.rows} held-out prompts, of which "
        f"{calibration.risk:.1%} are wrong; on prompts unlike those both will be worse."
    )


def _rare_tasks(checkpoint: Checkpoint, rows: Sequence[Row]) -> list[str]:
    counts = Counter(row.task for row in rows if row.source.startswith(LABELLED))
    known = [label for label in checkpoint.task_labels if label != UNKNOWN]
    return [label for number, label in enumerate(known) if counts[number] < _FEW]


def _training(run: Run) -> str:
    recipe = run.recipe
    return (
        f"{len(run.rows)} rows, {recipe.epochs} epochs, seed {recipe.seed}, {recipe.rows_per_step} rows a step, AdamW "
        f"at {recipe.learning_rate:g} (warm-up over {recipe.warmup:.0%} of the steps, then down to 0 in a line), "
        f"float32, word embeddings and all other weights of the encoder frozen; both heads at once, cross entropy; a "
        f"row read or written one by one weighs {recipe.task_weights[0]:g} (task) and {recipe.complexity_weights[0]:g} "
        f"(complexity), any other {recipe.task_weights[1]:g} and {recipe.complexity_weights[1]:g}; "
        f'{recipe.with_opening:.0%} of the rows begin with a meaningless opening such as "Prompt: ". The temperatures, '
        f"{' and '.join(f'{value:g} ({head})' for head, value in run.calibration.temperatures.items())}, were fitted "
        f"on {run.calibration.rows} rows that were held out. Training took "
        f"{run.seconds / 60:.0f} minutes on {run.threads} CPU thread{'s' if run.threads > 1 else ''}. Rank, "
        "learning rate and epochs were chosen on a split of the training rows (`--hold-out`); the rows' weights, the "
        "256 tokens and the prompts to be written by judgement, with the earlier checkpoints' figures on dev known."
    )


def _format_sources(rows: Sequence[Row]) -> str:
    counts = Counter(_source(row) for row in rows)
    lines = ["| source | rows | labelled by | licence |", "|---|---|---|---|"]
    for (source, read), count in sorted(counts.items()):
        licence = LICENCES.get(source, "not known to this command")
        lines.append(f"| {source} | {count} | {_labelled_by(source, read)} | {licence} |")
    return "\n".join(lines)


def _source(row: Row) -> tuple[str, bool]:
    """The data set's name, and whether its rows were labelled by reading."""
    parts = row.source.split(":")
    return (parts[1], True) if parts[0] == LABELLED else (parts[0], False)


def _labelled_by(source: str, read: bool) -> str:
    if source == "written":
        return "writing each"
    return "reading each" if read else "rule or source"


def _format_labels(figures: NamedFigures) -> str:
    shown = {group: figures[group] for group in _SHOWN if group in figures}
    lines = ["| label | rows | F1 |", "|---|---|---|"]
    lines += [f"| {label} | {group[0]} | {f1:.2f} |" for group, each in shown.items() for label, f1 in each.f1.items()]
    return "\n".join(lines)


def _format_hashes(data: Path) -> str:
    return "\n".join(f"- `{name}` {digest}" for name, digest in file_hashes(data, TRAIN_FILES + DEV_FILES))
