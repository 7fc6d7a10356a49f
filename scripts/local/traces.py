"""What Triton and the demo Dynamo need to send traces where the gateway does, by the same OpenTelemetry variables."""

import functools
import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from typing import Any

from gateway.observe.traces import fault_of, is_asked_for
from scripts.local.triton import ROOT


def trace_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What Dynamo needs beside OpenTelemetry's variables to send traces, and its log with them; {} when those ask for
    none, or for what the gateway can't do. It would speak gRPC by itself, which Triton and the gateway do not."""
    if not is_asked_for(environ) or fault_of(environ) is not None:
        return {}
    protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_SERVICE_NAME": "dynamo"}
    return {"OTEL_EXPORT_ENABLED": "true", "DYN_LOGGING_JSONL": "true", **protocol}


def trace_options(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Triton's own options to send traces, those of its image: none where the gateway would have none."""
    options: tuple[str, ...] = _image_start().trace_options(environ)
    return options


@functools.cache
def _image_start() -> Any:
    """The program that starts Triton in its image; by its path, since it stands alone there."""
    loader = SourceFileLoader("deploy_triton_start", str(ROOT / "deploy" / "triton" / "start"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # its dataclass looks itself up
    loader.exec_module(module)
    return module
