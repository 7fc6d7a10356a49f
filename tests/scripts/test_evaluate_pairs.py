"""scripts/evaluate on strong/weak data: what is read, and that the figures are those of the served router's scores."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from scripts.evaluating.evaluate import main
from scripts.evaluating.evaluation import Evaluation, write
from scripts.evaluating.pairs import PairEvaluation, are_pairs, read_pairs, summarise_pairs
from scripts.evaluating.score import reach_router, score
from scripts.evaluating.strong_weak import apgr, bootstrap, cpt, curve
from scripts.local.process import free_port
from scripts.local.triton import ROOT, Triton
from scripts.training.data import DataError

COMMAND = ROOT / "scripts" / "evaluate"
THINGS = ("a bicycle", "the tide", "two brothers", "an old radio", "a village fair", "rye bread", "a lost letter")
QUESTIONS = (
    "What is {}?",
    "Prove by induction that {} has no largest prime factor.",
    "Which of these is heavier, {} or a ton of feathers? A) the first B) the second C) neither",
    "In the quantum theory of {}, derive the ground state energy to second order.",
    "Five people share {}; each pays 3 euros and gets 1 back. What did it cost? Think step by step.",
)


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(text: str, source: str, strong: int, weak: int) -> dict[str, Any]:
    return {"text": text, "source": source, "subject": "x", "label": 1, "strong": strong, "weak": weak}


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    """Two files, more rows than one request holds, three sources; in one the weak model is the better one."""
    first = [
        pair(
            question.format(thing),
            f"{'even' if number % 2 else 'odd'}:{at}",
            int((at + number) % 5 > 0),
            int((2 * at + number) % 3 == 0),
        )
        for number, question in enumerate(QUESTIONS)
        for at, thing in enumerate(THINGS * 2)
    ]
    second = [pair(f"Name {thing}.", "upside", 0, 1) for thing in THINGS]
    return [write_lines(tmp_path / "first.jsonl", first), write_lines(tmp_path / "task" / "second.jsonl", second)]


def test_the_report_is_what_triton_answers(triton: Triton, data: list[Path], tmp_path: Path) -> None:
    """Every figure, of all rows and of each source, is that of the win rates that the served router gives."""
    out = tmp_path / "out"
    command: list[str | Path] = [COMMAND, "--data", *data, "--triton", triton.grpc_url, "--out", out, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert json.loads((out / "report.json").read_text()) == report
    assert sorted(path.name for path in out.iterdir()) == ["cost-quality.png", "report.json"]

    rows = read_pairs(data)
    with reach_router(triton.grpc_url, "mf") as client:
        scored = score(client, "mf", [row.text for row in rows])
    assert report["router"] == "mf" and report["checkpoint"] == scored.checkpoint
    assert report["rows"] == len(rows) == 77
    hashes = [{"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in data]
    assert report["files"] == hashes
    strong, weak = (np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in ("strong", "weak"))
    groups = {"all": np.ones(len(rows), dtype=np.bool_)}
    groups |= {name: np.array([row.source.split(":")[0] == name for row in rows]) for name in ("even", "odd", "upside")}
    assert report["sources"].keys() == groups.keys() - {"all"}
    for name, chosen in groups.items():
        found = report["all"] if name == "all" else report["sources"][name]
        expected = curve(scored.win_rates[chosen], strong[chosen], weak[chosen])
        assert found["rows"] == chosen.sum()
        assert found["strong_quality"] == pytest.approx(strong[chosen].mean())
        assert found["weak_quality"] == pytest.approx(weak[chosen].mean())
        assert found["curve"][0] == [0, pytest.approx(found["weak_quality"])]
        assert found["curve"][-1] == [1, pytest.approx(found["strong_quality"])]
        assert len(found["curve"]) == 101
        if name == "upside":
            assert found["apgr"] is None and found["cpt"] is None
            continue
        assert found["apgr"]["value"] == pytest.approx(apgr(expected), abs=0.02)  # a rounding may swap neighbours
        assert found["cpt"]["0.5"]["value"] == pytest.approx(cpt(expected, 0.5), abs=0.05)
        assert found["cpt"]["0.8"]["value"] == pytest.approx(cpt(expected, 0.8), abs=0.05)
        low, high = found["apgr"]["interval"]
        assert low < found["apgr"]["value"] < high


def test_the_table(triton: Triton, data: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json it prints one aligned table, sources below all; where there is no gap, no figure."""
    assert main(["--data", *map(str, data), "--triton", triton.grpc_url]) == 0
    first, *files, empty, head, rule, whole, even, odd, upside = capsys.readouterr().out.splitlines()
    assert first.startswith("mf, ") and first.endswith(", 77 rows; intervals of 95%")
    assert [line.split("  ")[1] for line in files] == list(map(str, data)) and not empty
    assert head.split() == "| source | rows | weak | strong | APGR | CPT(50%) | CPT(80%) |".split()
    assert len({len(line) for line in (head, rule, whole, even, odd, upside)}) == 1
    assert whole.startswith("| all    |   77 |") and " to " in whole
    assert upside.split() == "| upside | 7 | 1.000 | 0.000 | - | - | - |".split()


def test_a_router_that_is_not_served(triton: Triton, data: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """--router says which router is asked: one that Triton has not loaded is named."""
    assert main(["--data", *map(str, data), "--triton", triton.grpc_url, "--router", "bert"]) == 1
    said = f"evaluate: the Triton at {triton.grpc_url} does not serve routellm_bert\n"
    assert capsys.readouterr().err == said


def evaluation(seed: int = 0, count: int = 200) -> PairEvaluation:
    """A router that knows something, on made-up answers."""
    generator = np.random.default_rng(seed)
    win_rates = generator.random(count)
    strong = (generator.random(count) < 0.9).astype(np.float64)
    weak = (generator.random(count) < 0.9 - 0.8 * win_rates).astype(np.float64)
    whole = summarise_pairs(win_rates, strong, weak)
    parts = {name: summarise_pairs(win_rates[at::3], strong[at::3], weak[at::3]) for at, name in enumerate("abc")}
    same = summarise_pairs(win_rates, strong, strong)
    return PairEvaluation("mf", "embedded:1:abc", {"a.jsonl": "0" * 64}, whole, parts | {"same": same})


def test_the_figures_are_those_of_the_curve() -> None:
    """APGR and CPT come with the bootstrap's intervals; where both models are as good, there are none."""
    generator = np.random.default_rng(3)
    win_rates, strong, weak = generator.random(300), (generator.random(300) < 0.5).astype(np.float64), np.zeros(300)
    found = summarise_pairs(win_rates, strong, weak)
    assert found.apgr is not None and found.cpt is not None
    assert found.apgr.value == apgr(curve(win_rates, strong, weak))
    assert found.cpt[0.8].value == cpt(curve(win_rates, strong, weak), 0.8)
    intervals = bootstrap(win_rates, strong, weak, seed=0)
    assert found.apgr.interval == intervals.apgr
    assert {share: each.interval for share, each in found.cpt.items()} == intervals.cpt
    same = summarise_pairs(win_rates, weak, weak)
    assert (same.apgr, same.cpt, same.strong) == (None, None, 0)


def test_hardly_a_gap() -> None:
    """Where most resamples have no gap, the figures stand without an interval, in the table and in JSON."""
    strong = np.repeat([1.0, 0.0], [1501, 1500])  # one right answer more than the weak model has
    found = summarise_pairs(np.random.default_rng(0).random(3001), strong, 1.0 - strong).apgr
    assert found is not None and found.interval is None
    assert str(found) == f"{found.value:.3f}"
    assert found.as_json() == {"value": found.value, "interval": None}


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    """One picture with a panel for all and each source; what another kind of run drew is gone, both ways."""
    for name in ("confusion-task.png", "reliability-complexity.png"):
        (tmp_path / name).touch()
    write(evaluation(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost-quality.png", "report.json"]
    pixels = np.asarray(imread(tmp_path / "cost-quality.png"))
    assert min(pixels.shape[:2]) > 700
    for half in np.array_split(pixels, 2):
        assert half.std() > 0.05 and len(np.unique(half.reshape(-1, pixels.shape[2]), axis=0)) > 50
    write(Evaluation("some:1:network", 3, {}, {}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_better_router_has_better_figures() -> None:
    """Sent where the weak model fails, fewer strong calls recover more: the figures tell routers apart."""
    generator = np.random.default_rng(0)
    strong, weak = np.ones(400), (generator.random(400) < 0.5).astype(np.float64)
    knows = summarise_pairs(0.4 * generator.random(400) + 0.5 * (1 - weak), strong, weak)
    guesses = summarise_pairs(generator.random(400), strong, weak)
    inverted = summarise_pairs(0.4 * generator.random(400) + 0.5 * weak, strong, weak)
    figures = [each.apgr for each in (knows, guesses, inverted)]
    assert all(figure is not None and figure.interval is not None for figure in figures)
    bounds = [figure.interval for figure in figures if figure is not None and figure.interval is not None]
    assert bounds[0].low > bounds[1].high and bounds[1].low > bounds[2].high
    assert bounds[1].low < 0.5 < bounds[1].high


ROW = pair("Hi", "x", 1, 0)
LABELLED = {"text": "Hi", "source": "x", "label": "Chatbot"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ROW, LABELLED], "a.jsonl: line 1 has strong or weak, and line 2 has neither"),
        ([LABELLED, LABELLED, ROW], "a.jsonl: line 3 has strong or weak, and line 1 has neither"),
        ([ROW | {"strong": 0.5}], "a.jsonl, line 1: 'strong' should be 0 or 1, whether that model's answer is right"),
        ([ROW, ROW | {"weak": None}], "a.jsonl, line 2: 'weak' should be 0 or 1"),
        ([ROW | {"weak": "1"}], "line 1: 'weak' should be 0 or 1"),
        ([{"text": "Hi", "source": "x", "strong": 1}], "line 1: 'weak' should be 0 or 1"),
        ([ROW | {"text": " "}], "line 1: 'text' should be a text"),
        ([ROW | {"source": 3}], "line 1: 'source' should be a text"),
    ],
)
def test_wrong_data_is_one_line(tmp_path: Path, rows: list[Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken row, or two kinds of rows in one file, is one line, before Triton is asked, with exit code 2."""
    path = write_lines(tmp_path / "task" / "a.jsonl", rows)
    assert main(["--data", str(path), "--triton", "localhost:1", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("evaluate: ") and said in line and not captured.out
    assert not (tmp_path / "out").exists()


def test_kinds_are_not_mixed(data: list[Path], tmp_path: Path) -> None:
    """Files of both kinds are refused together; the fields say which kind a file is, wherever it lies."""
    labelled = write_lines(tmp_path / "task" / "dev.jsonl", [LABELLED])
    assert are_pairs(data) and not are_pairs([labelled])
    with pytest.raises(DataError, match=r"first.jsonl: is strong/weak data, and .*dev.jsonl is not; measure one kind"):
        are_pairs([data[0], labelled])
    with pytest.raises(DataError, match="first.jsonl: given twice"):
        read_pairs([data[0], data[0]])
    with pytest.raises(DataError, match=r"gone.jsonl: can't be read"):
        are_pairs([tmp_path / "gone.jsonl"])
    data[0].write_text(data[0].read_text() + "{\n")
    assert are_pairs(data)
    with pytest.raises(DataError, match=r"first.jsonl, line 71: not JSON"):
        read_pairs(data)


def test_no_triton_is_one_line(data: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no Triton answers, the command says so and writes nothing."""
    target = f"127.0.0.1:{free_port()}"
    assert main(["--data", *map(str, data), "--triton", target, "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"evaluate: no Triton answers at {target} (") and not (tmp_path / "out").exists()
