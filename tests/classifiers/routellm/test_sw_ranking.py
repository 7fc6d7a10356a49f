"""The similarity-weighted ranking, against RouteLLM's own class on the same parquet files."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from classifiers.checkpoint import CheckpointError
from classifiers.routellm.battles import find_sets, read_battles
from classifiers.routellm.embeddings import EmbeddingsEndpoint
from classifiers.routellm.ratings import tiers
from classifiers.routellm.router import UNCOUNTED, Router
from classifiers.routellm.sw_ranking import (
    STRONG_MODEL,
    WEAK_MODEL,
    SwRankingRouter,
    load_sw_ranking,
    rate_models,
)
from tests.embeddings_endpoint import Endpoint, running_endpoint, vectors
from tests.oracle import OLD_PENALTY, embed_at, routellm, similarity_weighted
from tests.published_battles import (
    ARENA_BATTLES,
    ARENA_EMBEDDINGS,
    DIMENSIONS,
    JUDGE_BATTLES,
    JUDGE_EMBEDDINGS,
    MODELS,
    write,
    write_battles,
)

pytestmark = pytest.mark.filterwarnings(OLD_PENALTY)

PROMPTS = [f"{verb} {topic}." for verb in ("Explain", "Prove", "Draw", "Sort", "Sum up") for topic in "abcdef"]

embed = functools.partial(vectors, dimensions=DIMENSIONS)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint(DIMENSIONS) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_battles(tmp_path_factory.mktemp("sw_ranking"))


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(published, tmp_path / "data")


@pytest.fixture(scope="module")
def router(published: Path, endpoint: Endpoint) -> SwRankingRouter:
    embeddings = EmbeddingsEndpoint.from_environ(endpoint.environ())
    return load_sw_ranking(published, embeddings.embed, embeddings.dimensions)


@pytest.fixture(scope="module")
def oracle(published: Path, endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Any:
    embed_at(endpoint.base_url)
    names = ("arena", "gpt4_judge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        return routellm.SWRankingRouter(
            arena_battle_datasets=[str(published / name / "battles") for name in names],
            arena_embedding_datasets=[str(published / name / "embeddings") for name in names],
        )


def score(router: Router, prompts: Sequence[str]) -> NDArray[np.float32]:
    return router.score([prompt.encode() for prompt in prompts]).strong_win_rate


def test_win_rates_are_routellms(router: SwRankingRouter, oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 prompts in one batch get the win rates of RouteLLM's class, whose optimiser is told to go on to the end."""
    exact = functools.partial(similarity_weighted.LogisticRegression, tol=1e-9, max_iter=1000)
    monkeypatch.setattr(similarity_weighted, "LogisticRegression", exact)
    expected = [oracle.calculate_strong_win_rate(prompt) for prompt in PROMPTS]
    np.testing.assert_allclose(score(router, PROMPTS), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected) > 0.05
    same_tier = oracle.arena_df["model_a"] == oracle.arena_df["model_b"]
    assert same_tier.sum() > 50  # those that count oddly


def test_win_rates_are_near_those_of_routellm_as_it_is(router: SwRankingRouter, oracle: Any) -> None:
    """RouteLLM's optimiser stops at a gradient of 1e-4, which for so few battles leaves some 1e-4 of a win rate."""
    expected = [oracle.calculate_strong_win_rate(prompt) for prompt in PROMPTS]
    np.testing.assert_allclose(score(router, PROMPTS), expected, rtol=0, atol=1e-3)


def test_model_tiers_are_routellms(published: Path, oracle: Any) -> None:
    """Each model is in the same one of the ten tiers."""
    battles = read_battles(find_sets(published))
    found = tiers(rate_models(battles), 10)
    assert dict(zip(battles.models, found.tolist(), strict=True)) == oracle.model2tier
    assert len(set(found)) == 10


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=14), st.integers(1, 10))
def test_tiers_are_the_least_varied_runs(ratings: list[float], count: int) -> None:
    """RouteLLM's cut of any ratings, fewer than tiers and equal ones among them."""
    ranked = sorted(ratings, reverse=True)
    expected = similarity_weighted.compute_tiers(pandas.Series(ranked, index=range(len(ranked))), count)
    assert tiers(np.array(ranked), count).tolist() == [expected[model] for model in range(len(ranked))]


def test_neighbours_change_nothing(router: SwRankingRouter) -> None:
    """A prompt's win rate is the same alone and in a batch, and so is the order of rows."""
    together = score(router, PROMPTS)
    alone = [score(router, [prompt])[0] for prompt in PROMPTS]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_bytes_that_are_no_text_are_scored(router: SwRankingRouter) -> None:
    """They are read as U+FFFD; tokens are not counted; no prompts get no scores."""
    scores = router.score([b"caf\xe9"])
    assert scores.strong_win_rate == score(router, ["caf\ufffd"])
    assert scores.strong_win_rate.dtype == np.float32 and scores.tokens.dtype == np.int32
    assert scores.tokens.tolist() == [[UNCOUNTED, UNCOUNTED]]
    assert router.score([]).strong_win_rate.shape == (0,)


def test_another_pair_of_models(published: Path) -> None:
    """Win rates of a pair and of the reversed one sum to 1."""
    forward = load_sw_ranking(published, embed, DIMENSIONS, MODELS[3], MODELS[12])
    backward = load_sw_ranking(published, embed, DIMENSIONS, MODELS[12], MODELS[3])
    np.testing.assert_allclose(score(forward, PROMPTS) + score(backward, PROMPTS), 1, rtol=0, atol=1e-6)


def test_how_the_files_are_cut_and_typed_does_not_matter(router: SwRankingRouter, folder: Path) -> None:
    """Shards are read in the order of their names, and lists of any float type and fixed or free length alike."""
    whole = folder / ARENA_EMBEDDINGS
    rows = np.array(pq.read_table(whole)["embeddings"].to_pylist(), dtype=np.float64)
    whole.unlink()
    write(pa.table({"embeddings": list(rows[:100])}), whole.with_name("train-00000-of-00002.parquet"))
    fixed = pa.FixedSizeListArray.from_arrays(rows[100:].astype(np.float32).ravel(), DIMENSIONS)
    write(pa.table({"embeddings": fixed}), whole.with_name("train-00001-of-00002.parquet"))
    again = load_sw_ranking(folder, embed, DIMENSIONS)
    assert np.array_equal(score(again, PROMPTS), score(router, PROMPTS))


def test_the_name_tells_the_data_apart(router: SwRankingRouter, folder: Path) -> None:
    """`sw_ranking:digest`, with the digest of every file."""
    path = folder / ARENA_BATTLES
    write(pq.read_table(path).set_column(0, "id", [["another"] * 500]), path)
    name, digest = load_sw_ranking(folder, embed, DIMENSIONS).name.split(":")
    assert name == "sw_ranking" and len(digest) == 12
    assert digest != router.name.split(":")[1]


def drop(column: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns(column)


def put(column: str, values: Callable[[list[Any]], Any]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        changed = pa.array(values(table[column].to_pylist()))
        return table.set_column(table.schema.get_field_index(column), column, changed)

    return change


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        (ARENA_BATTLES, drop("model_a"), "column 'model_a' is missing"),
        (
            ARENA_BATTLES,
            put("model_b", lambda old: [1] * len(old)),
            "column 'model_b' has type int64, and should be strings",
        ),
        (ARENA_BATTLES, put("model_b", lambda old: [None, *old[1:]]), "column 'model_b' has a null"),
        (ARENA_BATTLES, put("winner_model_a", lambda old: ["a"] * len(old)), "column 'winner_model_a' has type string"),
        (ARENA_BATTLES, put("winner_model_b", lambda old: [None, *old[1:]]), "column 'winner_model_b' has a null"),
        (ARENA_BATTLES, put("prompt", lambda old: ["Hello", *old[1:]]), "column 'prompt', row 0: expected a JSON list"),
        (ARENA_BATTLES, put("prompt", lambda old: [*old[:9], "[null]", *old[10:]]), "column 'prompt', row 9"),
        (ARENA_EMBEDDINGS, lambda table: table.rename_columns(["vectors"]), "column 'embeddings' is missing"),
        (ARENA_EMBEDDINGS, put("embeddings", lambda old: ["x"] * len(old)), "should be lists of floats"),
        (ARENA_EMBEDDINGS, put("embeddings", lambda old: [None, *old[1:]]), "column 'embeddings' has a null"),
        (
            ARENA_EMBEDDINGS,
            put("embeddings", lambda old: [row[:40] for row in old]),
            "'embeddings' has 40 floats a row",
        ),
        (ARENA_EMBEDDINGS, put("embeddings", lambda old: [old[0][:40], *old[1:]]), "has 40 or 48 floats a row"),
        (ARENA_EMBEDDINGS, put("embeddings", lambda old: [[0.0] * DIMENSIONS, *old[1:]]), "has a row of zeros"),
        (ARENA_EMBEDDINGS, put("embeddings", lambda old: [[float("nan")] * DIMENSIONS, *old[1:]]), "or one with a NaN"),
        (ARENA_EMBEDDINGS, lambda table: table[1:], "rows and should have"),
    ],
)
def test_wrong_columns_are_refused(folder: Path, path: str, change: Callable[[pa.Table], pa.Table], says: str) -> None:
    """One line names file and column, and says what was expected; it holds no prompt."""
    write(change(pq.read_table(folder / path)), folder / path)
    line = refusal(folder)
    assert says in line and "column '" in line
    assert str(folder / path) in line or str(folder / "arena" / "embeddings") in line
    assert "Question" not in line and "Hello" not in line


@pytest.mark.parametrize("path", [ARENA_BATTLES, *JUDGE_EMBEDDINGS])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped"])
def test_broken_files_are_refused(folder: Path, path: str, damage: str) -> None:
    """One line names the file."""
    content = bytearray((folder / path).read_bytes())
    if damage == "flipped":  # every page; the footer, whose length stands before the last four bytes, is whole
        pages = slice(4, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))
        content[pages] = bytes(255 - byte for byte in content[pages])
    broken: dict[str, bytes | bytearray] = {
        "truncated": content[:-100],
        "empty": b"",
        "text": b"model_a,model_b\n" * 100,
        "flipped": content,
    }
    (folder / path).write_bytes(broken[damage])
    assert str(folder / path) in refusal(folder)


@pytest.mark.parametrize("path", ["", "arena/battles/default", "gpt4_judge/embeddings"])
def test_missing_files_are_refused(folder: Path, path: str) -> None:
    """The line names the folder that lacks them, and the command that fetches them."""
    shutil.rmtree(folder / path)
    line = refusal(folder)
    assert str(folder / path).removesuffix("/default") in line and "scripts/fetch_models routellm_sw_ranking" in line


def test_an_embedder_of_other_dimensions_is_refused(published: Path) -> None:
    """Battles embedded with one model say nothing of prompts embedded with another."""
    with pytest.raises(CheckpointError, match="has 48 floats a row, and prompts are embedded with 384"):
        load_sw_ranking(published, embed, 384)


def test_a_model_that_is_in_no_battle_is_refused(published: Path) -> None:
    """The line names it."""
    with pytest.raises(CheckpointError, match="'model_a' or 'model_b' should have gpt-6"):
        load_sw_ranking(published, embed, DIMENSIONS, strong="gpt-6")


@pytest.mark.parametrize("loser", ["model-7", STRONG_MODEL])
def test_a_model_that_never_wins_has_no_rating(folder: Path, loser: str) -> None:
    """No finite rating explains that it lost every battle."""
    for path in (folder / ARENA_BATTLES, folder / JUDGE_BATTLES):
        battles = pq.read_table(path).to_pandas()
        # Against itself it would win half of the time.
        battles.loc[(battles["model_a"] == loser) & (battles["model_b"] == loser), "model_b"] = WEAK_MODEL
        for side, other in (("a", "b"), ("b", "a")):
            lost = battles[f"model_{side}"] == loser
            battles.loc[lost, f"winner_model_{side}"] = 0
            battles.loc[lost, f"winner_model_{other}"] = 1
        battles.to_parquet(path)
    assert "give no ratings" in refusal(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_sw_ranking(folder, embed, DIMENSIONS)
    line = str(caught.value)
    assert "\n" not in line
    return line
