"""RouteLLM's similarity-weighted ranking: battles about prompts like this one count more.

Models are rated from all battles and put into ten tiers by rating. A prompt weighs each battle by 10^(s / s_max), s
being the cosine of its embedding with the battle's; from the weighted battles each tier gets a rating, and the win rate
is what the ratings of the two models' tiers say. Ong et al. (2024), section 4.2; `routellm` 0.2.0, whose win rates ours
meet to 1e-6 when its optimiser goes on to the end; as it is, it stops some 1e-4 before. (It has a factor of 10 before
the weights, which changes nothing.)

RouteLLM fits a regression to every battle. Ours sums the weights into a table of tier against tier first, which has the
same likelihood, and solves that. For the files in the folder see `classifiers.routellm.battles`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifiers.checkpoint import CheckpointError
from classifiers.routellm.battles import Battles, BattleSet, find_sets, read_battles, read_directions
from classifiers.routellm.folder import files_digest
from classifiers.routellm.ratings import pair_design, rate, tiers
from classifiers.routellm.router import UNCOUNTED, Scores

STRONG_MODEL = "gpt-4-1106-preview"
WEAK_MODEL = "mixtral-8x7b-instruct-v0.1"

_TIERS = 10

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to embeddings [N, dimensions]."""


def load_sw_ranking(
    folder: Path, embed: Embed, dimensions: int, strong: str = STRONG_MODEL, weak: str = WEAK_MODEL
) -> SwRankingRouter:
    """Reads the battles in the folder and rates their models, and reads the battles' embeddings.

    `embed` gives `dimensions` floats for a prompt. `strong` and `weak` are two of the battles' models.

    Raises CheckpointError: a file is missing, can't be read or has the wrong columns or rows; the embeddings are not of
    `dimensions` floats; one of the two models is in no battle; the battles determine no ratings.
    """
    sets = find_sets(folder)
    battles = read_battles(sets)
    for model in (strong, weak):
        if model not in battles.models:
            raise CheckpointError(f"{folder}: column 'model_a' or 'model_b' should have {model} in some battle")
    try:
        model_tiers = tiers(rate_models(battles), _TIERS)
        table = TierTable(battles, model_tiers, battles.models.index(strong), battles.models.index(weak))
        table.strong_win_rate(np.ones((1, len(battles.wins)), dtype=np.float32))  # raises now rather than per prompt
    except ValueError:
        raise CheckpointError(
            f"{folder}: columns 'winner_model_a' and 'winner_model_b' give no ratings: "
            "one model, or a group of them, never won or never lost against the others"
        ) from None
    digest = files_digest(path for files in sets for path in (*files.battles, *files.embeddings))
    return SwRankingRouter(f"sw_ranking:{digest}", embed, table, _read_in_order(sets, dimensions, table.order))


class SwRankingRouter:
    """Implements `Router`. Holds 4 bytes for each float of the battles' embeddings: 1 GB for the published ones."""

    def __init__(self, name: str, embed: Embed, table: TierTable, directions: NDArray[np.float32]) -> None:
        """`directions` [B, dimensions]: the embeddings, of length 1, in the order of `table.order`."""
        self.name = name
        self._embed = embed
        self._table = table
        self._directions = directions

    def score(self, prompts: Sequence[bytes]) -> Scores:
        """See `Router`. The endpoint counts the tokens for itself; what `embed` raises goes through."""
        embeddings = self._embed([prompt.decode("utf-8", errors="replace") for prompt in prompts])
        similarities = embeddings @ self._directions.T
        similarities /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        similarities *= math.log(10) / similarities.max(axis=1, keepdims=True)
        win_rate = self._table.strong_win_rate(np.exp(similarities, out=similarities))
        return Scores(win_rate, np.full((len(prompts), 2), UNCOUNTED, dtype=np.int32))


class TierTable:
    """Battles as what they say of tiers: sorted into groups of the same two tiers and the same outcome."""

    def __init__(self, battles: Battles, model_tiers: NDArray[np.intp], strong: int, weak: int) -> None:
        """`model_tiers` [models]: each model's tier. `strong`, `weak`: which models to compare, by index."""
        # Numbered without gaps: a tier without models has no rating.
        _, model_tiers = np.unique(model_tiers, return_inverse=True)
        count = model_tiers.max() + 1
        pair = model_tiers[battles.first] * count + model_tiers[battles.second]
        group = pair * 3 + (battles.wins * 2).astype(np.intp)
        self.order = np.argsort(group, kind="stable")
        """[B]: the battles, group by group."""
        groups, self._starts = np.unique(group[self.order], return_index=True)
        pairs, pair_of_group = np.unique(groups // 3, return_inverse=True)
        self._to_battles = np.eye(len(pairs))[pair_of_group]  # [groups, pairs]
        self._to_wins = self._to_battles * (groups % 3 / 2)[:, np.newaxis]
        self._design = pair_design(pairs // count, pairs % count, count)
        self._strong, self._weak = model_tiers[strong], model_tiers[weak]

    def strong_win_rate(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The strong model's win rate [N] for N ways [N, B] to weigh the battles, which are in the order of `order`.

        Raises ValueError: the battles determine no ratings (of the tiers; how they are weighed does not matter).
        """
        by_group: NDArray[np.float64] = np.add.reduceat(weights, self._starts, axis=1, dtype=np.float64)
        ratings = rate(self._design, by_group @ self._to_battles, by_group @ self._to_wins)
        odds = ratings[:, self._strong] - ratings[:, self._weak]
        win_rate: NDArray[np.float64] = 1 / (1 + np.exp(-odds))
        return win_rate.astype(np.float32)


def rate_models(battles: Battles) -> NDArray[np.float64]:
    """The ratings [models] that all battles give, each counted once."""
    count = len(battles.models)
    pairs, battle_pair = np.unique(battles.first * count + battles.second, return_inverse=True)
    design = pair_design(pairs // count, pairs % count, count)
    fought = np.bincount(battle_pair).astype(np.float64)
    won = np.bincount(battle_pair, battles.wins).astype(np.float64)
    ratings: NDArray[np.float64] = rate(design, fought[np.newaxis], won[np.newaxis])[0]
    return ratings


def _read_in_order(sets: Sequence[BattleSet], dimensions: int, order: NDArray[np.intp]) -> NDArray[np.float32]:
    """The embeddings [B, dimensions] of all sets, of length 1, the one of battle `order[i]` at row i."""
    place = np.argsort(order)
    directions = np.empty((len(order), dimensions), dtype=np.float32)
    start = 0
    for path in (path for battle_set in sets for path in battle_set.embeddings):
        for rows in read_directions(path, dimensions):
            directions[place[start : start + len(rows)]] = rows
            start += len(rows)
    return directions
