"""scripts/benchmark: that it measures everything it promises, never how fast that is."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarking import page, record
from scripts.benchmarking.benchmark import PARTS, main
from scripts.benchmarking.draw import PICTURES, draw
from scripts.benchmarking.figures import PROMISES, chunk_microseconds, number, results
from scripts.benchmarking.limit import groups
from scripts.benchmarking.perf_analyzer import read_export
from scripts.benchmarking.prompts import DEFAULT, PromptsError, read_texts


@pytest.mark.slow
def test_a_quick_run_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real Triton, Dynamo, gateway and nginx, a quick run measures whatever the page shows, and the page can
    be made of it."""
    out = tmp_path / "quick.json"
    assert main(["--quick", "--out", str(out), "--state", str(tmp_path / "state")]) == 0

    found = json.loads(out.read_text())
    assert found["parts"].keys() == PARTS.keys()
    for name, part in found["parts"].items():
        for key, rounds in part["values"].items():
            assert len(rounds) == 1 and math.isfinite(rounds[0]), (name, key)
            assert rounds[0] > 0 or key.endswith("_us"), (
                name,
                key,
            )  # in ticks of 10 ms, which quick loads are short of
        assert part["quick"]
    measured = record.results_of(found)
    assert [each.promise.name for each in measured] == [promise.name for promise in PROMISES]
    assert all(math.isfinite(each.value) for each in measured)

    draw(record.values_of(found), tmp_path / "plots")
    assert all((tmp_path / "plots" / f"{name}.png").stat().st_size for name in PICTURES)
    monkeypatch.setattr(page, "load_record", lambda: found)
    assert page.promises().count("\n") == len(PROMISES) + 1
    assert "A quick run" in page.measured_on()
    profiles = (page.profile_of_passes(), page.profile_of_decisions(), page.profile_of_gateway())
    for table in (page.embedded(), page.curves(), page.gateway(), page.notes(), *profiles):
        assert table.count("\n") > 2


def test_the_page_stands_without_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything is recorded the page says so, everywhere."""
    monkeypatch.setattr(page, "load_record", lambda: record.load_record(tmp_path / "none.json"))
    profiles = (page.profile_of_passes(), page.profile_of_decisions(), page.profile_of_gateway())
    tables = (
        page.promises(),
        page.embedded(),
        page.curves(),
        page.gateway(),
        page.notes(),
        page.measured_on(),
        *profiles,
    )
    assert set(tables) == {page.pictures(tmp_path)}


def test_quick_figures_are_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    """A quick run never becomes the page's."""
    assert main(["--quick", "--record"]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["{}", "no JSON", '["text"]', ""])
def test_wrong_prompts_are_named(line: str, tmp_path: Path) -> None:
    """A file without prompts, or with a line that has none, is refused with its name."""
    file = tmp_path / "prompts.jsonl"
    file.write_text(line)
    with pytest.raises(PromptsError, match=r"prompts\.jsonl"):
        read_texts(file)


def test_the_default_prompts_are_in_the_repository() -> None:
    """Anybody can measure the same."""
    assert len(read_texts(DEFAULT)) > 1000


def test_ratios_are_taken_round_by_round() -> None:
    """The figure is the median of the rounds' ratios, not a ratio of medians; its target is the processor's."""
    values = {
        "ours.task32.rate": [20.0, 10.0, 30.0],
        "blueprint.task32.rate": [1.0, 1.0, 2.0],
        "ours.both32.rate": [1.0],
        "blueprint.both32.rate": [1.0],
        "ours.alone.p50_ms": [10.0],
        "blueprint.alone.p50_ms": [180.0],
        "limit.alone.p50_ms": [9.0],
        "ours.mixed64.rate": [9.0],
        "limit.mixed.rate": [10.0],
        "ours.mixed64.cpu_ms": [1.0],
        "ours.mixed8.cpu_ms": [1.0],
        "ours.pss_mib": [1000.0],
        "ours.rss_mib": [1200.0],
    }
    with_bf16, without = (results({"deberta": values}, has_bf16)[0] for has_bf16 in (True, False))
    assert with_bf16.rounds == (20.0, 10.0, 15.0)
    assert with_bf16.value == 15.0
    assert (with_bf16.target, with_bf16.met) == (20, False)
    assert (without.target, without.met) == (13, True)


def test_a_chunk_costs_what_longer_streams_cost_more() -> None:
    """What a stream costs whatever its length is no part of it."""
    values = {
        "gateway.paced.cpu_seconds": [1.1],
        "gateway.paced-short.cpu_seconds": [0.1],
        "gateway.paced.chunks": [110_000.0],
        "gateway.paced-short.chunks": [10_000.0],
    }
    assert chunk_microseconds("gateway")(values) == pytest.approx([10.0])


def test_parts_of_another_machine_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page never mixes machines; parts of the same one stay beside a new one."""
    from scripts.benchmarking.rounds import Kept, Run

    run = Run(Path(), [], Kept())
    first = record.add_part({"machine": None, "parts": {}}, "gateway", {"a": [1.23456789]}, run)
    both = record.add_part(first, "growth", {"b": [2.0]}, run)
    assert both["parts"].keys() == {"gateway", "growth"}
    assert both["parts"]["gateway"]["values"] == {"a": [1.23457]}
    elsewhere: dict[str, Any] = {"machine": {"cpu": "another"}, "parts": both["parts"]}
    assert record.add_part(elsewhere, "growth", {"b": [2.0]}, run)["parts"].keys() == {"growth"}


def test_an_export_of_perf_analyzer_is_read(tmp_path: Path) -> None:
    """Throughput over the time from the first request to the last answer, percentiles over the requests."""
    requests = [{"timestamp": n * 10**8, "response_timestamps": [(n + 1) * 10**8]} for n in range(10)]
    file = tmp_path / "export.json"
    file.write_text(json.dumps({"experiments": [{"requests": requests}]}))
    load = read_export(file)
    assert (load.rate, load.p50, load.p99, load.requests) == (10.0, 100.0, 100.0, 10)


def test_the_limit_keeps_every_prompt() -> None:
    """Whatever the way, each prompt goes through the network once."""
    rows = [[1] * (n % 7 + 1) for n in range(130)]
    assert [len(group) for group in groups(rows, "alone")] == [1] * 130
    assert [len(group) for group in groups(rows, "batches")] == [64, 64, 2]
    assert [row for group in groups(rows, "sorted") for row in group] == sorted(rows, key=len)


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.5, "1,234"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")]
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    """More would claim a precision that nobody measured."""
    assert number(value) == shown
