"""Golden prompts: what a version has to answer before anybody relies on it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.pushing.errors import PushError

DEFAULT = Path(__file__).with_name("golden.jsonl")
_TOLERANCE = 2e-3  # reduced precision on another device

Expected = str | float | tuple[float, ...]


@dataclass(frozen=True)
class Golden:
    """A prompt, and what each of some outputs should be: a text, a number, or two: from the one to the other; of an
    output with several values, as scores have one for each label, a number for each."""

    prompt: str
    expect: Mapping[str, Expected]


def read_golden(path: Path | None, outputs: Mapping[str, int]) -> list[Golden]:
    """The golden prompts of a file, or the project's own as far as they are about `outputs`: how many values each has,
    or 0 where nobody knows.

    Raises PushError, with the line's number: it is broken, or about an output that the model has not, or has otherwise.
    """
    try:
        lines = (path or DEFAULT).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PushError(f"{path}: can't be read ({error})") from None
    found = [
        _read_line(line, f"{path or DEFAULT}, line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if path is None:
        kept = [
            Golden(each.prompt, {name: each.expect[name] for name in each.expect if name in outputs}) for each in found
        ]
        return [each for each in kept if each.expect]
    if not found:
        raise PushError(f"{path}: holds no prompts")
    for number, each in enumerate(found, 1):
        if strange := [name for name in each.expect if name not in outputs]:
            raise PushError(
                f"{path}, prompt {number}: the model has no output {strange[0]}; it has {', '.join(outputs)}"
            )
        for name, expected in each.expect.items():
            if problem := _misfit(expected, outputs[name]):
                raise PushError(f"{path}, prompt {number}: '{name}' {problem}")
    return found


def _misfit(expected: Expected, size: int) -> str | None:
    """Why no output of so many values can be as expected."""
    count = len(expected) if isinstance(expected, tuple) else 1
    if size > 1:
        return None if count == size else f"has {size} values, and the golden prompt {count}"
    if size == 1 and isinstance(expected, tuple):
        if count != 2:
            return f"has one value, and the golden prompt {count}; [low, high] is what two mean"
        if not expected[0] <= expected[1]:
            return f"should be [low, high], and {expected[0]:g} is above {expected[1]:g}"
    return None


def faults(golden: Sequence[Golden], answers: Sequence[Mapping[str, NDArray[Any]]]) -> list[str]:
    """A line for each answer that is another one than expected."""
    found = []
    for each, answer in zip(golden, answers, strict=True):
        found += [f"{text} for {_short(each.prompt)}" for text in _faults(each, answer)]
    return found


def _faults(golden: Golden, answer: Mapping[str, NDArray[Any]]) -> list[str]:
    found = [
        f"{name} is not finite"
        for name, values in answer.items()
        if values.dtype.kind == "f" and not np.isfinite(values).all()
    ]
    for name, expected in golden.expect.items():
        values = answer[name].ravel()
        if len(values) != 1:
            found += _faults_of_each(name, values, expected)
            continue
        value = values[0].decode(errors="replace") if isinstance(values[0], bytes) else values[0].item()
        if not _is(value, expected):
            found.append(f"{name} is {_plain(value)} and should be {_plain(expected)}")
    return found


def _faults_of_each(name: str, values: NDArray[Any], expected: Expected) -> list[str]:
    if not isinstance(expected, tuple) or len(expected) != len(values):
        count = len(expected) if isinstance(expected, tuple) else 1
        return [f"{name} has {len(values)} values, and the golden prompt {count}"]
    return [
        f"{name}[{number}] is {_plain(value)} and should be {_plain(wanted)}"
        for number, (value, wanted) in enumerate(zip(values.tolist(), expected, strict=True))
        if not _is(value, wanted)
    ]


def _is(value: object, expected: Expected) -> bool:
    if isinstance(expected, str) or isinstance(value, str):
        return value == expected
    number = float(value)  # type: ignore[arg-type]
    if isinstance(expected, tuple):
        return len(expected) == 2 and expected[0] <= number <= expected[1]
    return math.isclose(number, expected, abs_tol=_TOLERANCE)


def _read_line(line: str, at: str) -> Golden:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise PushError(f"{at}: not JSON ({error})") from None
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise PushError(f"{at}: expected an object with a 'prompt'")
    expect = value.get("expect", {})
    if not isinstance(expect, dict):
        raise PushError(f"{at}: 'expect' should be an object")
    return Golden(value["prompt"], {name: _expected(each, f"{at}: '{name}'") for name, each in expect.items()})


def _expected(value: object, at: str) -> Expected:
    if isinstance(value, str):
        return value
    try:
        if _is_number(value):
            return float(value)  # type: ignore[arg-type]
        if isinstance(value, list) and len(value) > 1 and all(map(_is_number, value)):
            return tuple(map(float, value))
    except OverflowError:
        raise PushError(f"{at} is a number beyond all floating-point numbers") from None
    raise PushError(f"{at} should be a text, a number or [low, high], or a number for each value, and is {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return f"from {value[0]:g} to {value[1]:g}" if len(value) == 2 else f"{len(value)} values"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(prompt: str) -> str:
    text = " ".join(prompt.split())
    return repr(text if len(text) <= 50 else f"{text[:47]}...")
