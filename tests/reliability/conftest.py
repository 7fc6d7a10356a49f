"""The figures of each test: shown in the end, and written to docs/reliability.json with `--record`."""

from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from tests.reliability import report

Figures = dict[str, Any]
_ROWS = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write what the reliability tests measure to docs/")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = {}


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """To be filled at the end of a test: `requests` by report.requests, and everything else that it measured."""
    found: Figures = {}
    yield found
    if found:
        what = " ".join(request.function.__doc__.split())
        row = {"what": what, "requests": found.pop("requests"), "figures": found}
        request.config.stash[_ROWS][request.node.name] = row


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash[_ROWS]:
        terminalreporter.section("reliability")
        for line in report.lines(rows):
            terminalreporter.write_line(line)
        if config.getoption("--record", False):
            report.record(rows)
