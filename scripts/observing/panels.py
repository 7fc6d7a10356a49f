"""Pieces of a Grafana dashboard, and of the PromQL in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
"""Of Grafana's grid."""
_HEIGHT = 8
_STAT_HEIGHT = 4

# A query matches series without the label, too: outside Kubernetes there are no namespaces, and All is `.*`.
_NAMESPACE = 'namespace=~"$namespace"'


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and what its lines are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True)
class Panel:
    """One panel; `options` are more of Grafana's own for its fields' defaults."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    stacked: bool = False
    stat: bool = False
    width: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row that folds, with its panels."""

    title: str
    panels: Sequence[Panel]


def series(metric: str, *matchers: str) -> str:
    """The metric's series of the chosen namespaces."""
    return f"{metric}{{{','.join((_NAMESPACE, *matchers))}}}"


def rate(metric: str, *matchers: str, by: str = "") -> str:
    """A counter's sum a second."""
    return f"sum{_by(by)}(rate({series(metric, *matchers)}[$__rate_interval]))"


def in_range(metric: str, *matchers: str, by: str = "") -> str:
    """A counter's increase in what the dashboard shows."""
    return f"sum{_by(by)}(increase({series(metric, *matchers)}[$__range]))"


def quantile(share: float, metric: str, *matchers: str, by: str = "") -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', *matchers, by=f'{by}, le' if by else 'le')})"


def quantiles(metric: str, *matchers: str, by: str = "") -> list[Query]:
    """The median and the 95th percentile, of each value of the label `by`."""
    name = f"{{{{{by}}}}} " if by else ""
    return [Query(quantile(share, metric, *matchers, by=by), f"{name}p{share * 100:.0f}") for share in (0.5, 0.95)]


def ratio(part: str, whole: str) -> str:
    """A part of a whole, where there is any."""
    return f"{part} / ({whole} > 0)"


def else_none(expr: str, label: str) -> str:
    """What may never have happened yet: a line at 0, named `none`, where there is nothing else."""
    return f'{expr} or on() label_replace(vector(0), "{label}", "none", "", "")'


def dashboard(uid: str, title: str, description: str, namespaces_of: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Grafana's JSON; the namespaces to choose from are those of the metric `namespaces_of`."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["llm-router"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # the cursor is on all panels at once
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source_variable(), _namespace_variable(namespaces_of)]},
        "panels": list(_laid_out(rows)),
    }


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def _data_source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _namespace_variable(metric: str) -> dict[str, Any]:
    return {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": DATA_SOURCE,
        "query": f"label_values({metric}, namespace)",
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "multi": True,
        "refresh": 2,
    }


def _laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Rows from above, their panels from the left."""
    number, y = 1, 0
    for row in rows:
        yield _row(number, row.title, y)
        number, y, x, tallest = number + 1, y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            height = _STAT_HEIGHT if panel.stat else _HEIGHT
            yield _panel(number, panel, {"h": height, "w": panel.width, "x": x, "y": y})
            number, x, tallest = number + 1, x + panel.width, max(tallest, height)
        y += tallest


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
        "panels": [],
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": _drawing(panel), **panel.options},
            "overrides": [],
        },
        "options": _stat_options() if panel.stat else _timeseries_options(),
        "targets": [_target(letter, query) for letter, query in zip("ABCDEF", panel.queries, strict=False)],
    }


def _drawing(panel: Panel) -> dict[str, Any]:
    if panel.stat:
        return {}
    return {"fillOpacity": 20, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 0}


def _stat_options() -> dict[str, Any]:
    # Without a colour: no bound holds for every router, and Grafana's own one is 80 of whatever it is.
    return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}


def _timeseries_options() -> dict[str, Any]:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _target(letter: str, query: Query) -> dict[str, Any]:
    return {"refId": letter, "datasource": DATA_SOURCE, "expr": query.expr, "legendFormat": query.legend}
