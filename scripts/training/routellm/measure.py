"""How good a router is on the dev rows, beside what needs no training or less of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from scripts.evaluating.strong_weak import Figures, Intervals, bootstrap, curve, figures
from scripts.training.routellm.data import Row, column

RANDOM, LENGTH, TFIDF = "random", "prompt length", "TF-IDF, logistic regression"


@dataclass(frozen=True)
class Measured:
    """Of one group of prompts: how many there are, each model's accuracy, and the routers' figures by name."""

    rows: int
    strong: float
    weak: float
    routers: Mapping[str, tuple[Figures, Intervals]]


def measure(scores: Mapping[str, NDArray[np.float64]], rows: Sequence[Row], source: str, seed: int) -> Measured:
    """Figures of the routers' `scores` [N], each with its intervals, on the rows of one source that RouteLLM does not
    leave out as contaminated."""
    chosen = (column(rows, "source") == source) & ~column(rows, "contaminated")
    strong, weak = (column(rows, name)[chosen].astype(np.float64) for name in ("strong", "weak"))
    routers = {
        name: (
            figures(curve(each[chosen], strong, weak)),
            bootstrap(each[chosen], strong, weak, seed=seed),
        )
        for name, each in scores.items()
    }
    return Measured(len(strong), float(strong.mean()), float(weak.mean()), routers)


def baselines(train: Sequence[Row], dev: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """Scores [N] of the dev rows by routers to compare with: a longer prompt goes to the strong model first, and words
    as they were in the training rows that only the strong model got right.

    A random router has one score for all: its curve is the straight line.
    """
    return {
        RANDOM: np.zeros(len(dev)),
        LENGTH: np.array([float(len(row.text)) for row in dev]),
        TFIDF: _tfidf(train, dev),
    }


def _tfidf(train: Sequence[Row], dev: Sequence[Row]) -> NDArray[np.float64]:
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    seen = words.fit_transform([row.text for row in train])
    wins = column(train, "strong") > column(train, "weak")
    model = LogisticRegression(max_iter=1000).fit(seen, wins)
    found: NDArray[np.float64] = model.decision_function(words.transform([row.text for row in dev]))
    return found
