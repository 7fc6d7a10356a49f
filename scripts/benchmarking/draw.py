"""Throughput and latency over concurrency as PNG files. Nothing else needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from scripts.benchmarking.figures import Values
from scripts.benchmarking.prompts import LENGTHS

PICTURES = {
    "deberta-curves": "DeBERTa: task decisions over concurrency, by length of the prompt",
    "embedded-curves": "Embedded encoder: task decisions over concurrency, by length of the prompt",
    "gateway": "The gateway beside nginx and the upstream alone",
}
_DPI = 100
_COLOURS = {"ours": "tab:blue", "blueprint": "tab:orange", "gateway": "tab:blue", "direct": "tab:green"}
_COLOURS |= {"nginx": "tab:grey"}


def draw(parts: Mapping[str, Values], folder: Path) -> None:
    """A picture for each part that has one and was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, title in PICTURES.items():
        if name in parts:
            panels: Sequence[str] = ("whole", "stream") if name == "gateway" else LENGTHS
            lines: Sequence[str] = ("direct", "nginx", "gateway") if name == "gateway" else ("ours", "blueprint")
            _draw(parts[name], panels, lines, title, folder / f"{name}.png")


def _draw(values: Values, panels: Sequence[str], lines: Sequence[str], title: str, file: Path) -> None:
    """A column for each panel: throughput above, p50 (solid) and p99 (dashed) below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 6.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex=True)
    for column, panel in enumerate(panels):
        upper, lower = grid[0][column], grid[1][column]
        for line in lines:
            _line(upper, values, line, panel, "rate", label=line)
            _line(lower, values, line, panel, "p50_ms", label=f"{line}, p50")
            _line(lower, values, line, panel, "p99_ms", label=f"{line}, p99", linestyle="--")
        upper.set(title=panel, yscale="log", ylabel="answers per second")
        lower.set(xscale="log", yscale="log", xlabel="concurrency", ylabel="milliseconds")
        for axes in (upper, lower):
            axes.grid(alpha=0.3, which="both")
            if axes.lines:  # a quick run has not every panel
                axes.legend(fontsize=8)
    FigureCanvasAgg(figure)  # no window, no display, no global state
    figure.savefig(file, format="png", dpi=_DPI)


def _line(axes: object, values: Values, line: str, panel: str, kind: str, label: str, linestyle: str = "-") -> None:
    points = sorted(
        (int(concurrency), median(rounds))
        for name, rounds in values.items()
        for side, band, concurrency, of in [(name.split(".") + [""] * 4)[:4]]
        if (side, band, of) == (line, panel, kind)
    )
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", color=_COLOURS[line], linestyle=linestyle, label=label)  # type: ignore[attr-defined]
