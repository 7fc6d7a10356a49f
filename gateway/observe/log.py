"""One JSON line for each request, and for each log message. Decisions are in it; content and keys are not."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from gateway.observe.record import Record

QUIET_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/metrics", "/decisions"})
"""What is asked every few seconds."""
_log = logging.getLogger("gateway.requests")


def log_record(record: Record) -> None:
    """Observer: writes the record, except for what is asked again and again and went well."""
    if record.path in QUIET_PATHS and record.status == 200:
        return
    _log.info("request", extra={"fields": fields_of(record)})


def fields_of(record: Record) -> dict[str, Any]:
    """The line's fields, in milliseconds and bytes."""
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "outcome": record.outcome,
        "duration_ms": _ms(record.seconds),
        "first_byte_ms": _ms(record.first_byte_seconds),
        "bytes_out": record.bytes_out,
        "client": record.client,
    }
    if record.trace_id is not None:
        fields["trace_id"] = record.trace_id
    if routed := record.routed:
        decision = routed.decision
        fields |= {
            "policy": routed.policy.name if routed.policy else None,
            "label": routed.selection.label,
            "model": routed.selection.target.model,
            "reason": routed.selection.reason,
            "decision_ms": _ms(routed.decision_seconds),
            "win_rate": decision.win_rate if decision else None,
            "threshold": routed.selection.threshold,
            "confidence": decision.confidence if decision else None,
            "score": max(decision.scores, default=None) if decision else None,
            "tokens_read": decision.tokens_read if decision else None,
            "tokens_in_prompt": decision.tokens_in_prompt if decision else None,
            "prompt_cut": routed.prompt_cut,
            "checkpoint": decision.checkpoint if decision else None,
            "upstream_ms": _ms(routed.upstream_seconds),
            "input_tokens": record.usage.input_tokens if record.usage else None,
            "output_tokens": record.usage.output_tokens if record.usage else None,
            "cost": record.spent.cost if record.spent else None,
            "cost_at_strongest": record.spent.at_strongest if record.spent else None,
        }
    return fields


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(stream: TextIO = sys.stdout) -> None:
    """Send everything that is logged to `stream`, a line of JSON each."""
    # Not in our lines, and dear to find out (the logging module's own advice on its cost).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
