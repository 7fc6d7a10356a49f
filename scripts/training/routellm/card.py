"""The model card of a trained `mf`: what it is, its figures beside others', and what they do not say. No date: it would
drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.evaluating.strong_weak import Figures, Interval, Intervals
from scripts.training.data import file_hashes
from scripts.training.routellm.data import DEV_FILE, GSM8K, MMLU, TRAIN_FILE, Row
from scripts.training.routellm.fit import DRAWS, Recipe, Score
from scripts.training.routellm.measure import Measured

_SOURCES = {MMLU: "MMLU, subjects not trained on", GSM8K: "GSM8K, rows not trained on"}

# Ong et al. (2024), arXiv 2406.18665v4, tables 2 and 3: CPT(50%), CPT(80%) and APGR, trained on Arena votes alone and
# with the data that the table's caption adds (MMLU: answers to MMLU's validation questions; GSM8K: GPT-4's judgements).
_PAPER = {
    MMLU: {
        "random": ((50.07, 79.93, 0.500), None),
        "BERT": ((49.43, 77.80, 0.502), (41.30, 72.20, 0.572)),
        "Causal LLM": ((48.88, 77.93, 0.499), (35.49, 70.31, 0.600)),
        "MF": ((45.00, 76.86, 0.524), (35.46, 71.40, 0.597)),
        "SW ranking": ((55.82, 80.25, 0.473), (35.40, 71.55, 0.603)),
    },
    GSM8K: {
        "random": ((50.00, 80.08, 0.497), None),
        "BERT": ((58.78, 83.84, 0.438), (44.76, 79.09, 0.531)),
        "Causal LLM": ((56.09, 83.56, 0.461), (33.64, 63.26, 0.622)),
        "MF": ((53.59, 85.24, 0.4746), (38.82, 72.62, 0.565)),
        "SW ranking": ((54.43, 82.11, 0.4753), (41.21, 72.20, 0.568)),
    },
}


@dataclass(frozen=True)
class Run:
    """One training: the rows of which folder, how the recipe was chosen, and the figures by source."""

    data: Path
    all_rows: int
    train: Sequence[Row]
    misgraded: Mapping[str, float]
    scores: Mapping[Recipe, Score]
    recipe: Recipe
    win_rates: NDArray[np.float64]
    figures: Mapping[str, Measured]


def describe(name: str, config: Mapping[str, Any], run: Run) -> str:
    """The whole card, in Markdown."""
    sections = [
        f"# {name}\n\nWritten by `scripts/train_mf`; change the command, not this page.",
        _what(config, run),
        "## Figures\n\n" + _about_figures(run),
        *(f"### {_SOURCES[source]}\n\n{_figures(source, run.figures[source])}" for source in _SOURCES),
        "## What it can't do\n\n" + _limits(config, run),
        "## Training\n\n" + _training(run),
    ]
    return "\n\n".join(sections) + "\n"


def _what(config: Mapping[str, Any], run: Run) -> str:
    encoder = config["encoder"]
    return (
        "A strong/weak router in the manner of RouteLLM's `mf`, for one pair of models: how likely does the answer of "
        f"{config['strong_model']} beat that of {config['weak_model']}? It needs no download and no key: the prompt's "
        f"embedding comes from all-MiniLM-L6-v2 (weights Apache-2.0, from the Python package `{encoder['package']}`, "
        f"checked by SHA-256 `{encoder['sha256']}`), which reads {config['max_tokens']} tokens of it: the mean of the "
        f"token vectors after {config['layers']} of its layers, scaled to length 1.\n\n"
        "The win rate is sigmoid(embedding · `direction` + `bias`). `direction` is what RouteLLM's matrices fold into "
        "once the two models are fixed; it was learnt as such, with a bias, which RouteLLM's have not. The win rate is "
        "the probability that only the strong model's answer is right, calibrated on held-out subjects. "
        "RouteLLM's thresholds are for its own weights, and mean another share of strong calls here. "
        "`threshold_for_half_of_training_prompts` in `config.json`, "
        f"{config['threshold_for_half_of_training_prompts']}, sends half of the training prompts to the strong model; "
        "nine in ten of them have a win rate between "
        f"{np.quantile(run.win_rates, 0.05):.3f} and {np.quantile(run.win_rates, 0.95):.3f}. Calibrate it on your own "
        "prompts."
    )


def _about_figures(run: Run) -> str:
    return (
        "APGR: the performance gap recovered, averaged over all shares of strong calls (more is better; a router that "
        "knows nothing has 0.5). CPT(x): the share of strong calls that recovers x of the gap (less is better). "
        "Definitions: `scripts/evaluating/strong_weak.py`. Brackets: 95% intervals by 2000 resamples of the prompts; "
        "they say nothing of other subjects. Measured once, on the written files, on dev rows that nothing was chosen "
        "by. Rows that RouteLLM marks as contaminated are left out, as in its own measurements.\n\n"
        "The paper's figures (Ong et al. 2024, arXiv 2406.18665v4) are of other prompts and not to be compared row by "
        "row: all of MMLU and of GSM8K there, "
        f"{run.figures[MMLU].rows} and {run.figures[GSM8K].rows} of their prompts here. The routers of its right-hand "
        "columns had seen every MMLU subject, as validation questions with both models' graded answers; ours had seen "
        "none of the subjects that it is measured on. For GSM8K it is the other way round: ours learnt from "
        f"{sum(row.source == GSM8K for row in run.train)} GSM8K questions, the paper's routers from none."
    )


def _figures(source: str, found: Measured) -> str:
    lines = [
        f"{found.rows} prompts; right: strong model {found.strong:.1%}, weak model {found.weak:.1%}.",
        "",
        "| router | APGR | CPT(50%) | CPT(80%) |",
        "|---|---|---|---|",
        *(_row(name, *each) for name, each in found.routers.items()),
        "| always strong | recovers all of the gap with 100% strong calls | 100% | 100% |",
        "",
        "The paper's, APGR, CPT(50%), CPT(80%):",
        "",
        "| router | trained on Arena votes | with added data |",
        "|---|---|---|",
    ]
    for name, pair in _PAPER[source].items():
        lines.append(f"| {name} | {' | '.join(_paper(each) for each in pair)} |")
    return "\n".join(lines)


def _row(name: str, found: Figures, intervals: Intervals) -> str:
    shares = [f"{found.cpt[share]:.1%} [{_percent(intervals.cpt[share])}]" for share in sorted(found.cpt)]
    apgr = f"{found.apgr:.3f} [{intervals.apgr.low:.3f}, {intervals.apgr.high:.3f}]"
    return f"| {name} | {apgr} | {' | '.join(shares)} |"


def _percent(interval: Interval) -> str:
    return f"{interval.low:.1%}, {interval.high:.1%}"


def _paper(figures: tuple[float, float, float] | None) -> str:
    if figures is None:
        return ""
    half, most, apgr = figures
    return f"{apgr:.3f}, {half:.1f}%, {most:.1f}%"


def _limits(config: Mapping[str, Any], run: Run) -> str:
    return _list(
        [
            "It knows one pair of models. For another, RouteLLM's paper found that the ranking of prompts carries "
            "over; it was not tried here.",
            "It learnt from exam questions with a right answer, in English: MMLU's, with four options, and GSM8K's. "
            "Conversations, code and open tasks are unlike them, and no figure here speaks of those.",
            "What it gains over a router that knows nothing is modest on subjects that it has not seen. RouteLLM's "
            "published weights, which learnt from people's votes in conversations, are the ones to use for a chat, "
            "where an embeddings endpoint can be reached.",
            f"Its encoder reads {config['max_tokens']} tokens: of a longer prompt the head and the tail.",
        ]
    )


def _training(run: Run) -> str:
    chosen = (
        f"the embedding after {run.recipe.layers} layers, penalty {run.recipe.penalty:g}: the fewest layers within one "
        "standard error of the best on MMLU"
    )
    sources = ", ".join(f"{sum(row.source == source for row in run.train)} of {source}" for source in (MMLU, GSM8K))
    parts = [
        f"{len(run.train)} rows ({sources}; both MIT, answers and their grades from lm-sys/RouteLLM, Apache-2.0), "
        "each a win, a draw or a loss of the strong model; a ridge regression, scaled by Platt's method, "
        "`scripts/training/routellm/fit.py`. No prompt and no single prompt's embedding is in the files."
    ]
    if run.misgraded:
        subjects = ", ".join(f"{subject} ({right:.0%} right)" for subject, right in run.misgraded.items())
        parts.append(
            f"{run.all_rows - len(run.train)} rows were left out, all of {subjects}: a model that guesses among four "
            "options is right in a quarter, so those answers were not graded as they were given. Learnt from, they "
            "would teach that the strong model is worse at what they ask."
        )
    parts.append(
        f"Chosen by cross-validation on the training rows: {chosen}. Means over {DRAWS} draws that hold out a fifth of "
        "MMLU's subjects and three tenths of GSM8K's rows, with their standard errors:\n\n"
        "| layers | penalty | APGR, MMLU | APGR, GSM8K |\n|---|---|---|---|\n"
        + "\n".join(_score(recipe, score) for recipe, score in run.scores.items())
    )
    hashes = [f"`{name}` {digest}" for name, digest in file_hashes(run.data, (TRAIN_FILE, DEV_FILE))]
    parts.append("The data files, by SHA-256 (dev measured only):\n\n" + _list(hashes))
    return "\n\n".join(parts)


def _score(recipe: Recipe, score: Score) -> str:
    return (
        f"| {recipe.layers} | {recipe.penalty:g} "
        f"| {score.mmlu:.4f} ± {score.mmlu_error:.4f} | {score.gsm8k:.4f} ± {score.gsm8k_error:.4f} |"
    )


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
