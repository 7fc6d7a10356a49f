"""The lines of a gateway's log that are requests for a model's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.calibrating.traffic import read_lines
from scripts.training.data import DataError
from scripts.training.records import refuse

_ROUTE = "/v1/route"  # which only tells what would be decided
_MOST = 2**53  # of tokens, and of money: what is more is a mistake, and its sum might be no number
UNKNOWN = "(unknown)"
"""Models that clients named and that did not answer, which may be anything."""


@dataclass(frozen=True)
class Answer:
    """One request's line. Tokens are None where the upstream did not tell, costs where the configuration does not."""

    time: datetime
    """UTC."""
    policy: str
    model: str
    reason: str
    answered: bool
    """Whether a whole answer came, with status 200."""
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    cost_at_strongest: float | None


@dataclass(frozen=True)
class Log:
    """The answers in their order, and how many lines were none: messages, probes, errors before a model was chosen."""

    answers: Sequence[Answer]
    others: int


def read_log(paths: Sequence[Path]) -> Log:
    """The requests of all files. Others write into a log, too: lines that are no JSON count among the others.

    Raises DataError, a line for each fault: a file that can't be read or is given twice, a request's line with a value
    that is wrong, or no request at all.
    """
    answers: list[Answer] = []
    faults: list[str] = []
    others = 0
    for at, value in read_lines(paths):
        if not _is_request(value):
            others += 1
            continue
        try:
            answers.append(_read(value, at))
        except DataError as error:
            faults.append(str(error))
    refuse(faults)
    if not answers:
        raise DataError(f"{', '.join(map(str, paths))}: no request for a model's answer")
    return Log(answers, others)


def _is_request(value: Any) -> bool:
    """Whether a model was chosen, and asked."""
    is_routed = isinstance(value, dict) and value.get("event") == "request" and value.get("model") is not None
    return is_routed and value.get("path") != _ROUTE


def _read(value: Mapping[str, Any], at: str) -> Answer:
    policy, model = _text(value, "policy", at), _text(value, "model", at)
    answered = value.get("status") == 200 and value.get("outcome") == "complete"
    answer = Answer(
        time=_time(value, at),
        policy=policy,
        model=model if policy or answered else UNKNOWN,
        reason=_text(value, "reason", at),
        answered=answered,
        input_tokens=_tokens(value, "input_tokens", at),
        output_tokens=_tokens(value, "output_tokens", at),
        cost=_money(value, "cost", at),
        cost_at_strongest=_money(value, "cost_at_strongest", at),
    )
    if (answer.input_tokens is None) != (answer.output_tokens is None):
        raise DataError(f"{at}: 'input_tokens' and 'output_tokens' belong together")
    return answer


def _time(value: Mapping[str, Any], at: str) -> datetime:
    found = value.get("time")
    try:
        time = datetime.fromisoformat(found) if isinstance(found, str) else None
        if time is not None and time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):  # the second of what is before the year 1, or after 9999, in UTC
        pass
    raise DataError(f"{at}: 'time' should be a time with its zone, as in 2026-01-31T12:00:00.000+00:00")


def _text(value: Mapping[str, Any], key: str, at: str) -> str:
    """Empty for null, as the policy of a request that named its model. What a terminal would obey becomes `?`."""
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise DataError(f"{at}: '{key}' should be a text")
    return "".join(character if character.isprintable() else "?" for character in found)


def _tokens(value: Mapping[str, Any], key: str, at: str) -> int | None:
    found = value.get(key)
    if found is not None and (type(found) is not int or not 0 <= found < _MOST):
        raise DataError(f"{at}: '{key}' should be a whole number from 0 on, and below 2**53")
    return found


def _money(value: Mapping[str, Any], key: str, at: str) -> float | None:
    found = value.get(key)
    if found is None:
        return None
    if type(found) not in (int, float) or not 0 <= found < _MOST:  # NaN is neither
        raise DataError(f"{at}: '{key}' should be a number from 0 on, and below 2**53")
    return float(found)
