"""Traces by OpenTelemetry, when its own environment variables ask for them. Off, nothing of it is imported."""

import importlib.util
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.observe.spans import Tracing

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
INSTALL = "pip install 'llm-router[tracing]'"
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_CAPTURED = frozenset({"true", "span_only", "span_and_event"})
_NOT_CAPTURED = frozenset({"", "false", "no_content", "event_only"})  # no events are written here
_log = logging.getLogger(__name__)


def load_tracing(environ: Mapping[str, str]) -> "Tracing | None":
    """What traces requests; None when nobody asked for it, or, with one warning, when it cannot be had."""
    if not is_asked_for(environ):
        return None
    if (fault := fault_of(environ)) is not None:
        _warn(fault)
        return None
    from gateway.observe.spans import Tracing

    try:
        return Tracing(_captures_content(environ))
    except ValueError as error:  # a variable of OpenTelemetry's that its own packages refuse
        _warn(str(error))
        return None


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name an endpoint, and none turns traces off."""
    if _value(environ, "OTEL_SDK_DISABLED") == "true" or _value(environ, "OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(_value(environ, name) for name in ENDPOINTS)


def fault_of(environ: Mapping[str, str]) -> str | None:
    """Why there can be no traces."""
    exporter = _value(environ, "OTEL_TRACES_EXPORTER")
    if exporter not in ("", "otlp"):
        return f"OTEL_TRACES_EXPORTER: expected 'otlp' or 'none', and got {exporter[:100]!r}"
    name, protocol = _first(environ, _PROTOCOLS)
    if protocol not in ("", _PROTOCOL):
        return f"{name}: expected {_PROTOCOL!r} (a collector's port 4318), and got {protocol[:100]!r}"
    name, endpoint = _first(environ, ENDPOINTS)
    if not endpoint.startswith(("http://", "https://")):
        return f"{name}: expected a URL that begins with http:// or https://"
    if not all(map(_is_installed, _PACKAGES)):
        return f"OpenTelemetry is not installed: {INSTALL}"
    return None


def _captures_content(environ: Mapping[str, str]) -> bool:
    value = _value(environ, CAPTURE)
    if value not in _CAPTURED | _NOT_CAPTURED:
        _log.warning("%s: expected 'true' or 'SPAN_ONLY', and got something else: no content in traces", CAPTURE)
    return value in _CAPTURED


def _warn(fault: str) -> None:
    _log.warning("there are no traces", extra={"fields": {"fault": fault}})


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """The first of these variables that is set, and its value."""
    return next(((name, value) for name in names if (value := _value(environ, name))), (names[0], ""))


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip().lower()


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # nor what it is a part of
        return False
