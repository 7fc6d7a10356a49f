"""Ratings of players from their battles (Bradley and Terry, 1952), and tiers of players by rating.

Ratings are in log odds: a player of rating r beats one of rating s with probability sigmoid(r - s). RouteLLM's Elo
points are 400 / ln 10 times as many, about a mean of 1000; neither changes a probability or a tier.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = 100
_CLOSE = 1e-9  # log odds: far below what a float32 win rate shows


def pair_design(first: NDArray[np.intp], second: NDArray[np.intp], players: int) -> NDArray[np.float64]:
    """For each pair [P] the row [players] whose product with the ratings is the log odds that `first` wins.

    A player against itself gets -1, not 0: RouteLLM 0.2.0 writes +1 and then -1 into the same cell. Its published
    thresholds were measured so.
    """
    design = np.zeros((len(first), players))
    rows = np.arange(len(first))
    design[rows, first] = 1
    design[rows, second] = -1
    return design


def rate(design: NDArray[np.float64], battles: NDArray[np.float64], wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratings [N, players] float64 of greatest likelihood, for N tables at once, by Newton's method.

    `design` [P, players] is of `pair_design`; `battles` and `wins` [N, P] are how much of a pair's battles, by weight,
    there was and how much of that the first player won.

    Raises ValueError: the battles determine no ratings, because some players never win, or never lose, against others.
    """
    # Without a battle of a player against itself only differences are determined: the first player stays at 0.
    fixed = 0 if design.sum(axis=1).any() else 1
    free = design[:, fixed:]
    ratings = np.zeros((len(battles), design.shape[1]))
    for _ in range(_STEPS):
        odds = ratings @ design.T
        win, loss = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))
        slope = (wins * loss - (battles - wins) * win) @ free
        curvature = free.T @ ((battles * win * loss)[:, :, np.newaxis] * free)
        try:
            step = np.linalg.solve(curvature, slope[:, :, np.newaxis])[:, :, 0]
        except np.linalg.LinAlgError:
            break
        largest = np.abs(step).max(axis=1, initial=0, keepdims=True)
        ratings[:, fixed:] += step / np.maximum(largest, 1)  # a full step can overshoot far from the solution
        if (largest < _CLOSE).all():
            return ratings
    raise ValueError("the battles determine no ratings")


def tiers(ratings: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The tier [players] of each player, 0 the best: the cut of the sorted ratings into at most `count` runs that has
    the least sum of the runs' variances.

    By dynamic programming over the number of runs. Of equally good cuts the one with the earliest last cut is taken,
    as RouteLLM does.
    """
    order = np.argsort(-ratings, kind="stable")
    ranked = ratings[order]
    players = len(ranked)
    variance = np.array([[ranked[i : j + 1].var() if i < j else 0.0 for j in range(players)] for i in range(players)])
    best = variance[0]  # best[j]: the least sum for the players 0 to j, with the runs so far
    cuts = np.zeros((count, players), dtype=np.intp)  # cuts[k, j]: the last player before the last of k + 1 runs
    for run in range(1, count):
        sums = [best[:j] + variance[1 : j + 1, j] for j in range(1, players)]
        cuts[run, 1:] = [candidates.argmin() for candidates in sums]
        best = np.array([0.0, *(candidates.min() for candidates in sums)])
    found = np.empty(players, dtype=np.intp)
    end = players - 1
    for run in range(count - 1, 0, -1):
        start = cuts[run, end] + 1
        found[order[start : end + 1]] = run
        end = start - 1
    found[order[: end + 1]] = 0
    return found
