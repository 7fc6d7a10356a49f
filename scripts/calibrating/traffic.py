"""The prompts that a threshold is to divide, or the win rates that they got already."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gateway.errors import BadRequest
from gateway.prompt import Rule, bounded, text_of_messages, text_of_prompt
from scripts.training.data import DataError

PROMPT_KEYS = ("text", "prompt", "messages")


class NotJson(NamedTuple):
    """A line that is no JSON, as logs have some."""

    why: str


@dataclass
class Traffic:
    """Either the texts of prompts, or the win rates of decisions; never both.

    `checkpoints` are those that the decisions name; `skipped` counts lines without a decision by a RouteLLM router,
    and prompts without text.
    """

    prompts: list[str] = field(default_factory=list)
    win_rates: list[float] = field(default_factory=list)
    checkpoints: set[str] = field(default_factory=set)
    skipped: int = 0


def read_traffic(paths: Sequence[Path], rule: Rule, policy: str | None = None) -> Traffic:
    """The lines of all files, each a JSON object: a prompt, or a line of the gateway's log.

    A prompt has `text`, `prompt` or `messages`; `rule` says which of its messages decide, and a long text is cut, as
    in the gateway. Of a log the decisions count that have a `win_rate`; only those of `policy`, when it is given; there
    may be lines between that are no JSON. A prompt that occurs twice counts twice: it is traffic.

    Raises DataError: a file can't be read or is given twice, a line is neither (with its number), prompts are mixed
    with decisions, or the decisions are of several checkpoints.
    """
    traffic = Traffic()
    broken = []
    for at, value in read_lines(paths):
        if isinstance(value, NotJson):
            broken.append(f"{at}: not JSON ({value.why})")
        else:
            _read_value(value, at, rule, policy, traffic)
    if broken and not traffic.win_rates:
        raise DataError(broken[0])
    traffic.skipped += len(broken)
    if len(traffic.checkpoints) > 1:
        found = ", ".join(sorted(traffic.checkpoints))
        raise DataError(f"the decisions are of several checkpoints ({found}), whose win rates don't compare")
    return traffic


def read_lines(paths: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """The value of each line of all files, and where it stands; NotJson for one that is none.

    Raises DataError: a file can't be read, or is given twice.
    """
    require_different(paths)
    for path in paths:
        yield from read_file(path)


def require_different(paths: Sequence[Path]) -> None:
    """Raises DataError: a file is given twice."""
    places = [path.absolute() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise DataError(f"{path}: given twice")


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """`read_lines` of one file. Raises DataError: it can't be read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path}, line {number}", _value(line)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from None


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # the second of what is nested too deeply
        return NotJson(str(error))


def _read_value(value: Any, at: str, rule: Rule, policy: str | None, traffic: Traffic) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{at}: expected a JSON object")
    if any(key in value for key in PROMPT_KEYS):
        text = text_of(value, at, rule)
        if traffic.win_rates:
            raise DataError(f"{at}: is a prompt, and the lines before it are decisions; expected one kind")
        if text.strip():
            traffic.prompts.append(bounded(text))
        else:
            traffic.skipped += 1  # the gateway asks no router about it either
    elif "win_rate" in value or "event" in value:
        rate = value.get("win_rate")
        if rate is None or (policy is not None and value.get("policy") != policy):
            traffic.skipped += 1
            return
        if traffic.prompts:
            raise DataError(f"{at}: is a decision, and the lines before it are prompts; expected one kind")
        traffic.win_rates.append(read_win_rate(rate, at))
        if isinstance(checkpoint := value.get("checkpoint"), str):
            traffic.checkpoints.add(checkpoint)
    else:
        raise DataError(f"{at}: expected one of {', '.join(PROMPT_KEYS)}, or a decision's win_rate")


def text_of(value: Mapping[str, Any], at: str, rule: Rule) -> str:
    """The text of a prompt that decides, by a policy's `rule`; it may be empty, and is not cut.

    Raises DataError: the prompt is of a wrong shape.
    """
    if "text" in value:
        if not isinstance(value["text"], str):
            raise DataError(f"{at}: 'text' should be a text")
        return value["text"]
    try:
        if "messages" in value:
            return text_of_messages(value["messages"], rule)
        return text_of_prompt(value["prompt"], rule)
    except BadRequest as error:
        raise DataError(f"{at}: {error.message}") from None


def read_win_rate(value: Any, at: str) -> float:
    """Raises DataError: no number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise DataError(f"{at}: 'win_rate' should be a number from 0 to 1, and is {value!r}")
    return float(value)
