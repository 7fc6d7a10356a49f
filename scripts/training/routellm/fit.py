"""From embedded prompts, and which model answered them rightly, to the weights of an embedded `mf`.

What a router should rank prompts by is the gain of asking the strong model: 1 where it alone is right, -1 where the
weak one alone is, 0 elsewhere. So a ridge regression learns the gain, from all rows: without the draws it would learn
who wins, but not where it matters. What the score is called is another question: `calibrate` makes it a win rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifiers.routellm.mf import Head
from scripts.evaluating.strong_weak import apgr, curve
from scripts.training.routellm.data import GSM8K, MMLU, Row, column

Floats = NDArray[np.float64]


class Recipe(NamedTuple):
    """After how many of the encoder's layers the embedding is taken, and the `penalty` on the sum of the squared
    weights, for embeddings whose variances sum to 1."""

    layers: int
    penalty: float


LAYERS = (6, 5, 4, 3, 2)
RECIPES = tuple(Recipe(layers, penalty) for layers in LAYERS for penalty in (100.0, 30.0, 10.0))
"""What cross-validation chooses from."""

DRAWS = 30
"""How often cross-validation holds subjects out."""
_HELD_SUBJECTS = 0.2
_HELD_GSM8K = 0.3
_NEWTON_STEPS = 20


class Score(NamedTuple):
    """APGR on held-out MMLU subjects and on held-out GSM8K rows: mean over the draws, and its standard error."""

    mmlu: float
    mmlu_error: float
    gsm8k: float
    gsm8k_error: float


def fit(embeddings: Floats, gain: Floats, penalty: float) -> Head:
    """The head whose `scores` are the regression of the prompts' `gain` [N] on their `embeddings` [N, d]."""
    centre = embeddings.mean(axis=0)
    spread = np.sqrt(embeddings.var(axis=0).sum())
    scaled = (embeddings - centre) / spread
    squares = scaled.T @ scaled + penalty * np.eye(len(centre))
    direction = np.linalg.solve(squares, scaled.T @ (gain - gain.mean())) / spread
    return Head(direction.astype(np.float32), float(gain.mean() - centre @ direction))


def scores(head: Head, embeddings: Floats) -> Floats:
    """What the head gives for each prompt [N] before the logistic function."""
    return embeddings @ head.direction + head.bias


def cross_validate(
    embeddings: Mapping[int, Floats], rows: Sequence[Row], recipes: Sequence[Recipe], seed: int
) -> dict[Recipe, Score]:
    """Each recipe's score on prompts whose MMLU subjects were not learnt from, and on GSM8K rows that were not.

    `embeddings` are the rows', by the number of layers.

    Each of DRAWS draws holds out a fifth of the subjects, all their rows, and three tenths of GSM8K's rows; a draw
    where the strong model is no better has no score.

    Raises ValueError: no draw has one.
    """
    strong, weak = column(rows, "strong").astype(np.float64), column(rows, "weak").astype(np.float64)
    mmlu = column(rows, "source") == MMLU
    found: dict[Recipe, list[tuple[float, float]]] = {recipe: [] for recipe in recipes}
    for held in _draws(rows, seed):
        parts = (held & mmlu, held & ~mmlu)
        if any(strong[part].mean() <= weak[part].mean() for part in parts):
            continue  # nothing to recover there
        for recipe in recipes:
            known = embeddings[recipe.layers]
            head = fit(known[~held], (strong - weak)[~held], recipe.penalty)
            on_mmlu, on_gsm8k = (apgr(curve(scores(head, known[part]), strong[part], weak[part])) for part in parts)
            found[recipe].append((on_mmlu, on_gsm8k))
    if not all(found.values()):
        raise ValueError("the strong model should be the better one on some of the held-out rows")
    return {recipe: _score(np.array(pairs)) for recipe, pairs in found.items()}


def choose(found: Mapping[Recipe, Score]) -> Recipe:
    """The cheapest of the good ones, by the score on held-out MMLU subjects: new subjects are what a router meets.

    Good is what lies within one standard error of the best (the rule of Breiman et al., "Classification and Regression
    Trees", 1984), cheap is what runs few layers.
    """
    best = max(found.values())
    good = [recipe for recipe, score in found.items() if score.mmlu >= best.mmlu - best.mmlu_error]
    fewest = min(recipe.layers for recipe in good)
    return max((recipe for recipe in good if recipe.layers == fewest), key=lambda recipe: found[recipe].mmlu)


def calibrate(head: Head, embeddings: Floats, rows: Sequence[Row], penalty: float, seed: int) -> Head:
    """The head scaled and shifted, so that its win rate is the probability that only the strong model is right.

    By Platt's method (1999), on what heads of the same penalty say of the rows that cross-validation holds out.

    Raises ValueError: the scores of held-out rows do not rise with that probability.
    """
    strong, weak = column(rows, "strong").astype(np.float64), column(rows, "weak").astype(np.float64)
    said, true = [], []
    for held in _draws(rows, seed):
        said.append(scores(fit(embeddings[~held], (strong - weak)[~held], penalty), embeddings[held]))
        true.append((strong > weak)[held])
    slope, offset = logistic_line(np.concatenate(said), np.concatenate(true))
    if slope <= 0:
        raise ValueError("what is learnt from some subjects should hold for others, and does not")
    return Head((slope * head.direction).astype(np.float32), slope * head.bias + offset)


def logistic_line(said: Floats, true: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the likeliest sigmoid(slope * said + offset) for `true` [N], by Newton's method."""
    matrix = np.stack([said, np.ones(len(said))], axis=1)
    line = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        rates = 1 / (1 + np.exp(-(matrix @ line)))
        curvature = matrix.T @ (matrix * (rates * (1 - rates))[:, np.newaxis])
        line += np.linalg.solve(curvature, matrix.T @ (true - rates))
    return float(line[0]), float(line[1])


def _draws(rows: Sequence[Row], seed: int) -> Iterator[NDArray[np.bool_]]:
    generator = np.random.default_rng(seed)
    subject, source = column(rows, "subject"), column(rows, "source")
    subjects = np.unique(subject[source == MMLU])
    others = np.flatnonzero(source == GSM8K)
    for _ in range(DRAWS):
        count = max(1, round(_HELD_SUBJECTS * len(subjects)))
        held = np.isin(subject, generator.choice(subjects, count, replace=False)) & (source == MMLU)
        held[generator.choice(others, round(_HELD_GSM8K * len(others)), replace=False)] = True
        yield held


def _score(pairs: Floats) -> Score:
    means, errors = pairs.mean(axis=0), pairs.std(axis=0) / np.sqrt(len(pairs))
    return Score(float(means[0]), float(errors[0]), float(means[1]), float(errors[1]))
