"""`/decisions`: what was decided lately, and which models answer how often. No prompt, answer or key is in it."""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.chat import ROUTE
from gateway.errors import AsciiJSONResponse
from gateway.observe import shared
from gateway.observe.log import fields_of
from gateway.observe.record import Record

KEPT = 1000
"""Records that each worker keeps; the shares are those of all that are kept."""
SHOWN = 100
"""The newest of them, which are shown one by one."""
WRITE_SECONDS = 1.0
"""How old another worker's part of an answer may be."""

_FIELDS = (
    "path",
    "policy",
    "label",
    "reason",
    "status",
    "outcome",
    "decision_ms",
    "first_byte_ms",
    "duration_ms",
    "tokens_read",
    "tokens_in_prompt",
    "input_tokens",
    "output_tokens",
)

Row = Mapping[str, Any]
Summary = Mapping[str, Any]
"""`kept`: how many rows there are; `decisions`: the newest rows, newest first; `policies`, `models`: of the rows that
went upstream, how many had each; empty is the name of what the client chose by itself."""


class Recent:
    """The latest records of one worker, as rows."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque(maxlen=KEPT)
        self._changed = False

    def note(self, record: Record) -> None:
        """Observer: keeps a row of a record for which a model was chosen."""
        if record.routed is None:
            return
        self._rows.append(_row(record, time.time()))
        self._changed = True

    def summary(self) -> Summary:
        """Of this worker's rows."""
        rows = list(reversed(self._rows))
        forwarded = [row for row in rows if row["path"] != ROUTE]
        return {
            "kept": len(rows),
            "decisions": rows[:SHOWN],
            "policies": Counter(row["policy"] or "" for row in forwarded),
            "models": Counter(row["model"] or "" for row in forwarded),
        }

    async def endpoint(self, request: Request) -> Response:
        """`GET /decisions`: of all workers together."""
        summaries = [self.summary(), *_others()]
        return AsciiJSONResponse(merged(summaries), headers={"cache-control": "no-store"})

    async def keep_written(self) -> None:
        """One worker's summary, for the `/decisions` of the others; never returns."""
        while True:
            if self._changed:
                self._changed = False
                with suppress(OSError):  # a full disk: the others show an older one, and requests go on
                    shared.write(shared.own_file(), json.dumps(self.summary()))
            await asyncio.sleep(WRITE_SECONDS)


def _row(record: Record, now: float) -> Row:
    assert record.routed is not None
    fields = fields_of(record)
    target = record.routed.selection.target
    return {
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        # What no llm has is a name of the client's own: it could be any text.
        "model": target.model if target.name else None,
        **{name: fields[name] for name in _FIELDS},
    }


def merged(summaries: Iterable[Summary]) -> Summary:
    """The summary of several workers together."""
    kept = 0
    rows: list[Row] = []
    counts: dict[str, Counter[str]] = {"policies": Counter(), "models": Counter()}
    for summary in summaries:
        kept += summary["kept"]
        rows += summary["decisions"]
        for name, count in counts.items():
            count.update(summary[name])
    rows.sort(key=lambda row: str(row["time"]), reverse=True)
    return {"kept": kept, "decisions": rows[:SHOWN]} | {
        name: dict(count.most_common()) for name, count in counts.items()
    }


def _others() -> Iterator[Summary]:
    """What the other workers have written; none when there is one worker."""
    for file in shared.files_of_others():
        with suppress(OSError):  # of a worker that ended just now
            yield json.loads(file.read_text(encoding="utf-8"))
