"""Rows of several requests, one after the other."""

from __future__ import annotations

from collections.abc import Iterable


def slices(counts: Iterable[int]) -> list[slice]:
    """Where each request's rows stand; `counts` are their numbers of rows."""
    start = 0
    return [slice(start, start := start + count) for count in counts]
