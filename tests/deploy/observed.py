"""The dashboards and rules as files, and Prometheus' answers to what they ask."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gateway.observe.metrics import Metrics
from tests.deploy.chart import CHART, ROOT

Dashboard = dict[str, Any]

DASHBOARDS: list[Dashboard] = [json.loads(path.read_text()) for path in sorted(CHART.glob("dashboards/*.json"))]
RULES = CHART / "rules" / "llm-router.yaml"
PROMETHEUS = ROOT / "deploy" / "observe" / "prometheus.yml"

_TRITON = (
    *("queue_duration_us", "compute_infer_duration_us", "request_success", "request_failure", "count", "exec_count"),
)
# What Grafana puts in place of its variables: without a choice of namespaces, and with these times.
_VARIABLES = {"$namespace": ".*", "$__rate_interval": "1m", "$__range": "10m"}


def panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Those that show something: rows do not."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@functools.cache
def known_metrics() -> frozenset[str]:
    """Names of the gateway's metrics, and of Triton's that are used here."""
    names = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}
    return frozenset(names | {f"nv_inference_{name}" for name in _TRITON})


def metrics_in(text: str) -> set[str]:
    """The metrics that queries in a text ask for: names before a selector."""
    return {name.removesuffix("_bucket") for name in re.findall(r"(?<!\w)([a-z]\w+)\{", text)} - {"up"}


def queries(dashboard: Dashboard) -> Iterator[str]:
    """Of each panel, with the variables in place."""
    return (with_variables(target["expr"]) for panel in panels(dashboard) for target in panel["targets"])


def with_variables(expr: str) -> str:
    """The expression as Grafana sends it."""
    for name, value in _VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


@dataclass(frozen=True)
class Empty:
    """A panel's query that returned nothing that can be drawn."""

    dashboard: str
    panel: str
    expr: str


def empty_queries(dashboard: Dashboard, ask: Callable[[str], list[float]]) -> Iterator[Empty]:
    """The queries of a dashboard for which `ask`, with the variables in place, has no number. What stands in where
    nothing ever happened does not count."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expr, _, _ = with_variables(target["expr"]).partition(" or on() ")
            if not any(map(math.isfinite, ask(expr))):
                yield Empty(dashboard["uid"], panel["title"], expr)
