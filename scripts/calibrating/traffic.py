"""The prompts that a threshold is to divide, or the win rates that they got already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.errors import BadRequest
from gateway.prompt import Rule, bounded, text_of_messages, text_of_prompt
from scripts.training.data import DataError

_PROMPT_KEYS = ("text", "prompt", "messages")


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
    for path in paths:
        if [each.absolute() for each in paths].count(path.absolute()) > 1:
            raise DataError(f"{path}: given twice")
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    at = f"{path}, line {number}"
                    try:
                        value = json.loads(line)
                    except ValueError as error:
                        broken.append(f"{at}: not JSON ({error})")
                        continue
                    _read_value(value, at, rule, policy, traffic)
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error})") from None
    if broken and not traffic.win_rates:
        raise DataError(broken[0])
    traffic.skipped += len(broken)
    if len(traffic.checkpoints) > 1:
        found = ", ".join(sorted(traffic.checkpoints))
        raise DataError(f"the decisions are of several checkpoints ({found}), whose win rates don't compare")
    return traffic


def _read_value(value: Any, at: str, rule: Rule, policy: str | None, traffic: Traffic) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{at}: expected a JSON object")
    if any(key in value for key in _PROMPT_KEYS):
        text = _text(value, at, rule)
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
        traffic.win_rates.append(_win_rate(rate, at))
        if isinstance(checkpoint := value.get("checkpoint"), str):
            traffic.checkpoints.add(checkpoint)
    else:
        raise DataError(f"{at}: expected one of {', '.join(_PROMPT_KEYS)}, or a decision's win_rate")


def _text(value: Mapping[str, Any], at: str, rule: Rule) -> str:
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


def _win_rate(value: Any, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise DataError(f"{at}: 'win_rate' should be a number from 0 to 1, and is {value!r}")
    return float(value)
