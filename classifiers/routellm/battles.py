"""Battles of models, each with the embedding of its prompt, from parquet files.

A folder has a sub-folder for each set of battles, as downloaded from the hub (how deep a file lies does not matter):

    FOLDER/SET/battles/**/*.parquet      model_a, model_b, prompt (strings; a prompt is a JSON list of the turns),
                                         winner_model_a, winner_model_b (1 for the winner; a tie when neither is)
    FOLDER/SET/embeddings/**/*.parquet   embeddings (a list of floats), one row for each battle that is kept

Files are read in the order of their paths. A battle is kept when its first turn, stripped, has 16 characters or more:
RouteLLM made its embeddings of those. These are the columns of RouteLLM's data sets: arena-human-preference-55k with
arena_battles_embeddings, and gpt4_judge_battles with gpt4_judge_battles_embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from classifiers.checkpoint import CheckpointError

EMBEDDINGS = "embeddings"

_BATCH = 4096  # rows in memory beside the table: 25 MB of embeddings of 1,536 floats
_MIN_CHARACTERS = 16
_FETCH = "scripts/fetch_models routellm_sw_ranking fetches the published ones"


@dataclass(frozen=True)
class BattleSet:
    """The files of one set of battles, which its embeddings follow row for row."""

    folder: Path
    battles: tuple[Path, ...]
    embeddings: tuple[Path, ...]


@dataclass(frozen=True)
class Battles:
    """`models`: their names. `first`, `second` [B]: the models that met, by index. `wins` [B]: how much of the battle
    `first` won: 1, .5 (a tie) or 0.
    """

    models: tuple[str, ...]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    wins: NDArray[np.float64]


class _Kind(NamedTuple):
    """What a column should hold, in words and as a predicate on an Arrow type."""

    name: str
    accepts: Callable[[Any], bool]


def _is_list_of_floats(found: Any) -> bool:
    lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
    return bool(lists and pa.types.is_floating(found.value_type))


_STRINGS = _Kind("strings", lambda found: bool(pa.types.is_string(found) or pa.types.is_large_string(found)))
_NUMBERS = _Kind("numbers", lambda found: bool(pa.types.is_integer(found) or pa.types.is_floating(found)))
_VECTORS = _Kind("lists of floats", _is_list_of_floats)


def find_sets(folder: Path) -> tuple[BattleSet, ...]:
    """The sets in a folder, by name.

    Raises CheckpointError: there is none, or one lacks battles or embeddings.
    """
    found = [path.parent for path in sorted(folder.glob("*/battles"))]
    if not found:
        raise CheckpointError(f"{folder}: holds no SET/battles/*.parquet; {_FETCH}")
    return tuple(
        BattleSet(path, _parquet_files(path / "battles"), _parquet_files(path / "embeddings")) for path in found
    )


def read_battles(sets: Sequence[BattleSet]) -> Battles:
    """The kept battles of all sets, one set after the other.

    Raises CheckpointError: a file can't be read, a column is missing, of another type or has a null, a prompt is no
    JSON list of strings, or a set's embeddings are not as many as its battles.
    """
    models: dict[str, int] = {}
    first: list[int] = []
    second: list[int] = []
    wins: list[float] = []
    for battle_set in sets:
        before = len(wins)
        for path in battle_set.battles:
            for model_a, model_b, won in _read_file(path):
                first.append(models.setdefault(model_a, len(models)))
                second.append(models.setdefault(model_b, len(models)))
                wins.append(won)
        kept, embedded = len(wins) - before, sum(map(_count_rows, battle_set.embeddings))
        if kept != embedded:
            raise CheckpointError(
                f"{battle_set.folder / 'embeddings'}: column '{EMBEDDINGS}' has {embedded} rows and should have {kept}:"
                f" one for each battle beside it whose first turn has {_MIN_CHARACTERS} characters or more"
            )
    return Battles(tuple(models), np.array(first, np.intp), np.array(second, np.intp), np.array(wins, np.float64))


def read_directions(path: Path, dimensions: int) -> Iterator[NDArray[np.float32]]:
    """The embeddings in a file, a batch of rows [n, dimensions] at a time, each row of length 1.

    Raises CheckpointError: the file can't be read, the column is missing or of another type, or a row has another
    number of floats, or ones that have no direction.
    """
    for batch in _read_columns(path, {EMBEDDINGS: _VECTORS}):
        lists = batch.column(0)
        sizes = np.unique(np.asarray(pc.list_value_length(lists)))
        if sizes.tolist() != [dimensions]:
            found = " or ".join(map(str, sizes))
            raise CheckpointError(
                f"{path}: column '{EMBEDDINGS}' has {found} floats a row, and prompts are embedded with {dimensions}"
            )
        rows = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(lists), dimensions)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise CheckpointError(f"{path}: column '{EMBEDDINGS}' has a row of zeros, or one with a NaN or an infinity")
        yield rows / lengths


def _read_file(path: Path) -> Iterator[tuple[str, str, float]]:
    """The models of each kept battle, and how much of it the first won."""
    columns = {
        "model_a": _STRINGS,
        "model_b": _STRINGS,
        "prompt": _STRINGS,
        "winner_model_a": _NUMBERS,
        "winner_model_b": _NUMBERS,
    }
    row = 0
    for batch in _read_columns(path, columns):
        for model_a, model_b, prompt, won_a, won_b in zip(*(batch[name].to_pylist() for name in columns), strict=True):
            if len(_first_turn(prompt, path, row)) >= _MIN_CHARACTERS:
                yield model_a, model_b, 1.0 if won_a == 1 else 0.0 if won_b == 1 else 0.5
            row += 1


def _first_turn(prompt: str, path: Path, row: int) -> str:
    try:
        turns = json.loads(prompt)
    except ValueError:
        turns = None
    if not (isinstance(turns, list) and turns and isinstance(turns[0], str)):
        raise CheckpointError(f"{path}: column 'prompt', row {row}: expected a JSON list of strings")
    return turns[0].strip()


def _read_columns(path: Path, columns: Mapping[str, _Kind]) -> Iterator[Any]:
    """Record batches of the columns, each of its kind and without nulls."""
    file = _open(path)
    for name, kind in columns.items():
        if name not in file.schema_arrow.names:
            raise CheckpointError(f"{path}: column '{name}' is missing")
        found = file.schema_arrow.field(name).type
        if not kind.accepts(found):
            raise CheckpointError(f"{path}: column '{name}' has type {found}, and should be {kind.name}")
    try:
        for batch in file.iter_batches(_BATCH, columns=list(columns)):
            for name in columns:
                if batch[name].null_count:
                    raise CheckpointError(f"{path}: column '{name}' has a null")
            yield batch
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(f"{path}: cannot read {', '.join(columns)} ({_first_line(error)})") from None


def _parquet_files(folder: Path) -> tuple[Path, ...]:
    found = tuple(sorted(folder.rglob("*.parquet")))
    if not found:
        raise CheckpointError(f"{folder}: holds no *.parquet; {_FETCH}")
    return found


def _count_rows(path: Path) -> int:
    return int(_open(path).metadata.num_rows)


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(f"{path}: truncated, or no parquet file ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
