"""The requests to replay: prompts, or the decisions in a gateway's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.calibrating.traffic import PROMPT_KEYS, NotJson, read_file, read_win_rate, require_different, text_of
from scripts.training.data import DataError
from scripts.training.records import refuse

_LEAST_CONFIDENCE = 1e-4  # the likeliest of 4,096 labels, the most that the gateway asks for, has twice as much


@dataclass(frozen=True)
class Logged:
    """What a line of the log says of a decision; neither label nor win rate when there was none, for `reason`.

    `model` is the one that answered. `tells_confidence`: the line has a confidence, or says that there is none.
    """

    reason: str
    model: str | None
    label: str | None
    win_rate: float | None
    confidence: float | None
    tells_confidence: bool
    tokens_in_prompt: int | None


@dataclass(frozen=True)
class Request:
    """One request, and the file and line where it stands: a prompt, the line itself, or a decision.

    `policy` is what it names. `label` is the true one; `strong` and `weak` are 1 when that model's answer is right,
    else 0.
    """

    at: str
    policy: str | None = None
    prompt: Mapping[str, Any] | None = None
    logged: Logged | None = None
    label: str | None = None
    strong: int | None = None
    weak: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class Replay:
    """The requests in their order, and how many lines held none that a policy decides."""

    requests: Sequence[Request]
    skipped: int


def read_requests(paths: Sequence[Path]) -> Replay:
    """The lines of all files, each a JSON object: a prompt with `text`, `prompt` or `messages`, or a line of a log.

    A file with a line of a log is one. Others write into it, too: lines that are no JSON, or no object, are skipped
    there, and so are messages and requests that named their model. In a file of prompts a broken line is a fault.

    Raises DataError, a line for each fault: a file that can't be read or is given twice, broken lines, or no request.
    """
    requests: list[Request] = []
    faults: list[str] = []
    skipped = 0
    require_different(paths)
    for path in paths:
        lines = list(read_file(path))
        is_log = any(_is_logged(value) for _, value in lines)
        for at, value in lines:
            try:
                request = None if is_log and not isinstance(value, dict) else _read(value, at)
            except DataError as error:
                faults.append(str(error))
                continue
            if request is None:
                skipped += 1
            else:
                requests.append(request)
    refuse(faults)
    if not requests:
        raise nothing_decided(paths)
    return Replay(requests, skipped)


def nothing_decided(paths: Sequence[Path]) -> DataError:
    """There is nothing to compare."""
    return DataError(f"{', '.join(map(str, paths))}: no request that a policy decides")


def _is_logged(value: Any) -> bool:
    return isinstance(value, dict) and not _is_prompt(value) and ("event" in value or "policy" in value)


def _is_prompt(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in PROMPT_KEYS)


def _read(value: Any, at: str) -> Request | None:
    if isinstance(value, NotJson):
        raise DataError(f"{at}: not JSON ({value.why})")
    if not isinstance(value, dict):
        raise DataError(f"{at}: expected a JSON object")
    if _is_prompt(value):
        return _read_prompt(value, at)
    if _is_logged(value):
        return _read_decision(value, at)
    raise DataError(f"{at}: expected one of {', '.join(PROMPT_KEYS)}, or a line of the gateway's log")


def _read_prompt(value: Mapping[str, Any], at: str) -> Request:
    text_of(value, at, "last_user")  # a wrong shape is one under every rule
    strong, weak = (_right(value, key, at) for key in ("strong", "weak"))
    if (strong is None) != (weak is None):
        raise DataError(f"{at}: 'strong' and 'weak' belong together")
    return Request(
        at,
        policy=_text(value, "policy", at),
        prompt=value,
        label=_text(value, "label", at),
        strong=strong,
        weak=weak,
        output_tokens=_count(value, "output_tokens", at),
    )


def _read_decision(value: Mapping[str, Any], at: str) -> Request | None:
    policy, reason = _text(value, "policy", at), _text(value, "reason", at)
    if policy is None or reason is None or reason == "manual":
        return None
    win_rate = value.get("win_rate")
    logged = Logged(
        reason,
        _text(value, "model", at),
        _text(value, "label", at),
        None if win_rate is None else read_win_rate(win_rate, at),
        _confidence(value, at),
        "confidence" in value,
        _count(value, "tokens_in_prompt", at),
    )
    return Request(at, policy, logged=logged, output_tokens=_count(value, "output_tokens", at))


def _text(value: Mapping[str, Any], key: str, at: str) -> str | None:
    found = value.get(key)
    if found is not None and (not isinstance(found, str) or not found):
        raise DataError(f"{at}: '{key}' should be a text, and is {found!r}")
    return found


def _count(value: Mapping[str, Any], key: str, at: str) -> int | None:
    found = value.get(key)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 0):
        raise DataError(f"{at}: '{key}' should be a whole number from 0 on, and is {found!r}")
    return found


def _right(value: Mapping[str, Any], key: str, at: str) -> int | None:
    found = value.get(key)
    if found is not None and found not in (0, 1):
        raise DataError(f"{at}: '{key}' should be 0 or 1, whether that model's answer is right")
    return None if found is None else int(found)


def _confidence(value: Mapping[str, Any], at: str) -> float | None:
    found = value.get("confidence")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise DataError(f"{at}: 'confidence' should be a number, and is {found!r}")
    if not _LEAST_CONFIDENCE <= found <= 1.001:  # a float32 may lie a rounding above 1
        raise DataError(f"{at}: 'confidence' should be a number from {_LEAST_CONFIDENCE:g} to 1, and is {found!r}")
    return min(float(found), 1.0)
