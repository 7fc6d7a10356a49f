"""scripts/evaluate, run as a person runs it, against the real Triton."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from classifiers.checkpoint import UNKNOWN, checkpoint_folder, load_checkpoint
from scripts.evaluating import ask as asking
from scripts.evaluating.ask import Answers, HeadAnswers, TritonError, ask, reach
from scripts.evaluating.calibration import calibration_error, reliability
from scripts.evaluating.evaluate import main, read_files
from scripts.evaluating.evaluation import Evaluation, served_labels, write
from scripts.evaluating.report import format_reports, report_heads
from scripts.local.process import free_port
from scripts.local.triton import ROOT, Triton
from scripts.training.data import NO_LABEL, Row

COMMAND = ROOT / "scripts" / "evaluate"
LABELS = served_labels()

THINGS = ("a bicycle", "the tide", "two brothers", "an old radio", "a village fair", "rye bread", "a lost letter")
TASKS = {
    "Write a Python function that counts the words in a file about {}.": "Code Generation",
    "Give me ten ideas for a birthday party around {}.": "Brainstorming",
    "Write a short story about {}.": "Text Generation",
    "Summarise in one sentence: we went out at dawn, saw {} and came home late, wet and happy.": "Summarization",
    "Is this sentence positive or negative? 'I never liked {}.'": "Classification",
    "Who was the first to write a book on {}?": "Open QA",
    "Say this more politely: 'Take {} away, now.'": "Rewrite",
    "Good evening! I am fond of {}.": "Chatbot",
    "zxq {} zxq": "Other",
}
DEMANDS = {
    "Write a poem about {}.": "Creativity",
    "Write exactly three lines on {}, none with the letter e.": "Constraint",
    "Five people share {}; each pays 3 euros and gets back 1. What did it cost? Explain step by step.": "Reasoning",
}


def row(text: str, source: str, **labels: str) -> dict[str, str]:
    return {"text": text, "source": source} | labels


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    """Three small files, laid out as the large ones: more rows than one request holds, and two sources."""
    tasks = [
        row(text.format(thing), f"{'even' if number % 2 else 'odd'}:{number}", label=label)
        for number, thing in enumerate(THINGS)
        for text, label in TASKS.items()
    ]
    demands = [row(text.format(thing), "even", label=label) for thing in THINGS for text, label in DEMANDS.items()]
    both = [
        row("Hello \ud800there", "mine", task="Chatbot", complexity="No-Label-Reason"),
        row("Which year followed 1899?", "mine", task="Open QA", complexity="No-Label-Reason"),
    ]
    return [
        write_rows(tmp_path / "task" / "dev.jsonl", tasks),
        write_rows(tmp_path / "complexity" / "dev.jsonl", demands),
        write_rows(tmp_path / "labelled" / "dev.jsonl", both),
    ]


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def ask_all(triton: Triton, rows: Sequence[Row]) -> Answers:
    with reach(triton.grpc_url) as client:
        return ask(client, [each.text for each in rows], LABELS)


def gap_by_bin(confidence: Sequence[float], correct: Sequence[bool], bins: int) -> float:
    """The calibration error, bin by bin and answer by answer."""
    total = 0.0
    for number in range(bins):
        inside = [
            at
            for at, sure in enumerate(confidence)
            if (number == 0 or sure > number / bins) and (number == bins - 1 or sure <= (number + 1) / bins)
        ]
        total += abs(sum(confidence[at] for at in inside) - sum(correct[at] for at in inside))
    return total / len(confidence)


def plain_figures(head: str, rows: Sequence[Row], answers: Answers) -> dict[str, Any]:
    """The summary and the labels of a head, one row at a time."""
    names = LABELS[head]
    given = answers.heads[head]
    cases = [
        (names[getattr(each, head)], names[given.index[at]], [float(score) for score in given.scores[at]])
        for at, each in enumerate(rows)
        if getattr(each, head) != NO_LABEL
    ]
    labels: dict[str, Any] = {}
    for name in names:
        true = sum(truth == name for truth, _, _ in cases)
        answered = sum(answer == name for _, answer, _ in cases)
        both = sum(truth == name == answer for truth, answer, _ in cases)
        if true or answered:
            labels[name] = {
                "rows": true,
                "answered": answered,
                "precision": both / answered if answered else None,
                "recall": both / true if true else None,
                "f1": 2 * both / (true + answered) if true else None,
            }
    occurring = [each["f1"] for each in labels.values() if each["rows"]]
    sure = [max(scores) for _, _, scores in cases]
    right = [names[scores.index(max(scores))] == truth for truth, _, scores in cases]
    summary = {
        "rows": len(cases),
        "accuracy": sum(truth == answer for truth, answer, _ in cases) / len(cases),
        "macro_f1": sum(occurring) / len(occurring),
        "calibration_error": gap_by_bin(sure, right, 15),
        "unknown": sum(answer == UNKNOWN for _, answer, _ in cases),
    }
    return {"all": summary, "labels": labels}


def assert_like(found: Any, expected: Any) -> None:
    """Equal, numbers but for rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_like(found[key], value)
    else:
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_report_is_what_triton_answers(triton: Triton, data: list[Path], tmp_path: Path) -> None:
    """Every figure of the report follows, row by row, from what Triton answers; network and files are named."""
    done = run("--data", *data, "--triton", triton.grpc_url, "--out", tmp_path / "out", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report

    rows = read_files(data, LABELS)
    answers = ask_all(triton, rows)
    assert report["checkpoint"] == answers.checkpoint
    assert answers.checkpoint.startswith(load_checkpoint(checkpoint_folder({})).name + ":1:")
    assert report["rows"] == len(rows) == 86
    hashes = [{"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in data]
    assert report["files"] == hashes

    assert list(report["heads"]) == ["task", "complexity"]
    for head, found in report["heads"].items():
        expected = plain_figures(head, rows, answers)
        assert_like(found["all"], expected["all"])
        assert_like(found["labels"], expected["labels"])
        for source, figures in found["sources"].items():
            mine = [at for at, each in enumerate(rows) if each.source.split(":")[0] == source]
            chosen = HeadAnswers(answers.heads[head].index[mine], answers.heads[head].scores[mine])
            part = Answers(answers.checkpoint, {head: chosen})
            assert_like(figures, plain_figures(head, [rows[at] for at in mine], part)["all"])
        counts = np.array(found["confusion"])
        assert counts.sum(axis=1).tolist() == [each["rows"] for each in found["labels"].values()]
        assert counts.sum(axis=0).tolist() == [each["answered"] for each in found["labels"].values()]
        assert counts.trace() == round(found["all"]["accuracy"] * found["all"]["rows"])
        assert sum(each["rows"] for each in found["reliability"]) == found["all"]["rows"]
    assert sorted(report["heads"]["task"]["sources"]) == ["even", "labelled", "odd"]
    assert sorted(report["heads"]["complexity"]["sources"]) == ["even", "labelled"]


def test_answers_stay_with_their_prompts(triton: Triton, data: list[Path]) -> None:
    """Asked in batches of like length, every prompt gets the answer that it gets alone, over HTTP."""
    rows = [each for each in read_files(data, LABELS) if "\ud800" not in each.text][::3]
    answers = ask_all(triton, rows)
    threshold = load_checkpoint(checkpoint_folder({})).unknown_below
    for at, each in enumerate(rows):
        tensor = {"name": "INPUT", "datatype": "BYTES", "shape": [1, 1], "data": [[each.text]]}
        url = f"{triton.http_url}/v2/models/router_ensemble/infer"
        outputs = httpx2.post(url, json={"inputs": [tensor]}, timeout=60).json()["outputs"]
        alone = {output["name"]: output["data"] for output in outputs}
        for head, names in LABELS.items():
            given = answers.heads[head]
            np.testing.assert_allclose(given.scores[at], alone[f"{head}_scores"], atol=2e-3)
            *_, second, likeliest = sorted(given.scores[at])
            if likeliest - second > 0.01 and abs(likeliest - threshold) > 0.01:  # no tie that a rounding decides
                assert [names[given.index[at]]] == alone[f"{head}_label"]


def test_the_tables(triton: Triton, data: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json it prints aligned tables, and without --out it writes nothing; a head without labels is absent."""
    before = sorted(tmp_path.rglob("*"))
    assert main(["--data", str(data[1]), "--triton", triton.grpc_url]) == 0
    first, second, empty, *tables = capsys.readouterr().out.splitlines()
    assert first.endswith(", 21 rows") and second.endswith(f"  {data[1]}") and not empty
    assert tables[0].startswith("| head       | source | rows |")
    assert tables[2].startswith("| complexity | all    |   21 |")
    assert not any(line.startswith("| task ") for line in tables)
    blocks = "\n".join(tables).split("\n\n")
    assert [len({len(line) for line in block.splitlines()}) for block in blocks] == [1, 1, 1]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_figures_are_drawn(triton: Triton, data: list[Path], tmp_path: Path) -> None:
    """Each head gets three pictures with something on them; a later run overwrites the files of an earlier one."""
    out = tmp_path / "deep" / "out"
    for _ in range(2):
        assert main(["--data", *map(str, data), "--triton", triton.grpc_url, "--out", str(out)]) == 0
    pictures = sorted(out.glob("*.png"))
    kinds = ("confusion", "reliability", "risk-coverage")
    names = [f"{kind}-{head}.png" for kind in kinds for head in ("complexity", "task")]
    assert [path.name for path in pictures] == names
    assert sorted(out.iterdir()) == sorted([*pictures, out / "report.json"])
    for path in pictures:
        pixels = np.asarray(imread(path))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50, path.name
        # Not a picture with an empty half.
        for half in np.array_split(pixels, 2):
            assert half.std() > 0.05, path.name


def test_a_text_counts_in_each_file(triton: Triton, data: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A text that stands in two files counts once in each."""
    other = write_rows(
        data[1].with_name("train.jsonl"), [row("Write a poem about rye bread.", "x", label="Creativity")]
    )
    assert main(["--data", str(data[1]), str(other), "--triton", triton.grpc_url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["heads"]["complexity"]["all"]["rows"] == 22


def test_the_folder_may_be_the_current_one(triton: Triton, data: list[Path]) -> None:
    """A file named without its folder is of the kind that the current folder's name says."""
    done = run("--data", "dev.jsonl", "--triton", triton.grpc_url, "--json", cwd=data[0].parent)
    assert (done.returncode, list(json.loads(done.stdout)["heads"])) == (0, ["task"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("task/gone.jsonl", None, "task/gone.jsonl: can't be read"),
        ("task/a.jsonl", "", "task/a.jsonl: holds no rows"),
        ("other/a.jsonl", "", "other/a.jsonl: its folder should be called task, complexity or labelled"),
        ("task/a.jsonl", '{"text": "Hi", "source": "x", "label": "Chatbot"}\n{', "task/a.jsonl, line 2: not JSON"),
        ("task/a.jsonl", '{"text": "", "source": "x"}', "task/a.jsonl, line 1: 'text' should be"),
        ("task/a.jsonl", '{"text": "a", "source": "x", "label": "Poem"}', "line 1: 'label' is 'Poem' and should be"),
        ("task/a.jsonl", '{"text": "a", "source": "x", "label": "Unknown"}', "line 1: 'label' is 'Unknown' and should"),
        ("labelled/a.jsonl", '{"text": "a", "source": "x", "task": "Other"}', "line 1: 'complexity' is None"),
    ],
)
def test_wrong_data_is_one_line(
    tmp_path: Path, name: str, content: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with the data is said in one line, before Triton is asked, with exit code 2."""
    path = tmp_path / name
    path.parent.mkdir()
    if content is not None:
        path.write_text(content)
    assert main(["--data", str(path), "--triton", "localhost:1", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("evaluate: ") and said in line and not captured.out
    assert not (tmp_path / "out").exists()


def test_a_file_given_twice(data: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is given twice would count twice: it is refused."""
    assert main(["--data", str(data[0]), str(data[0]), "--triton", "localhost:1"]) == 2
    assert capsys.readouterr().err == f"evaluate: {data[0]}: given twice\n"


def test_no_triton_is_one_line(data: list[Path]) -> None:
    """Where no Triton answers, the command says so in one line and exits with 1."""
    target = f"127.0.0.1:{free_port()}"
    done = run("--data", *data, "--triton", target)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"evaluate: no Triton answers at {target} (")


def test_what_listens_may_be_something_else(
    data: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that accepts and never answers ends the command after a deadline."""
    monkeypatch.setattr(asking, "_READY_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert main(["--data", str(data[0]), "--triton", f"127.0.0.1:{silent.getsockname()[1]}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate: no Triton answers at 127.0.0.1:")


def test_a_triton_without_the_ensemble(
    triton: Triton, data: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Triton that does not serve the ensemble is named."""
    monkeypatch.setattr(asking, "MODEL", "nothing_of_the_kind")
    assert main(["--data", str(data[0]), "--triton", triton.grpc_url]) == 1
    said = f"evaluate: the Triton at {triton.grpc_url} does not serve nothing_of_the_kind\n"
    assert capsys.readouterr().err == said


def test_a_refused_request_is_one_line(
    triton: Triton, data: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Triton says of a request that it refuses ends the command, in one line."""
    monkeypatch.setattr(asking, "_BATCH", 65)
    assert main(["--data", *map(str, data), "--triton", triton.grpc_url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate: Triton could not classify 65 prompts (") and "64" in line


def test_another_networks_labels(triton: Triton) -> None:
    """An answer that is none of the labels, or has another number of scores, is refused."""
    with reach(triton.grpc_url) as client:
        with pytest.raises(TritonError, match="which is no task label of this project"):
            ask(client, ["Hi"], {"task": ["Poem", "Prose"]})
        with pytest.raises(TritonError, match="answered 7 complexity scores for 8 labels"):
            ask(client, ["Hi"], {"complexity": [*LABELS["complexity"], "Length"]})


def test_a_network_that_changes_meanwhile(triton: Triton, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of two networks are never mixed."""
    infer = asking.infer
    names = iter(["old", "new"])

    def infer_with_names(*arguments: Any) -> dict[str, Any]:
        outputs = infer(*arguments)
        return outputs | {"checkpoint": np.full_like(outputs["checkpoint"], next(names).encode())}

    monkeypatch.setattr(asking, "infer", infer_with_names)
    monkeypatch.setattr(asking, "_BATCH", 1)
    with reach(triton.grpc_url) as client, pytest.raises(TritonError, match="while it was asked: new, old"):
        ask(client, ["Hi", "Bye"], LABELS)


def test_out_that_is_a_file(triton: Triton, data: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """An --out that can't be a folder is one line, with exit code 1."""
    assert main(["--data", str(data[0]), "--triton", triton.grpc_url, "--out", str(data[0])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(data[0]) in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda given: given[:-2], "the following arguments are required: --triton"),
        (lambda given: given[-2:], "the following arguments are required: --data"),
        (lambda given: [*given[:-1], "localhost"], "expected HOST:PORT, as localhost:8001, and got 'localhost'"),
        (lambda given: [*given[:-1], "http://localhost:8001"], "expected HOST:PORT"),
        (lambda given: [*given[:-1], "localhost:65536"], "expected HOST:PORT"),
        (lambda given: [*given, "--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_wrong_arguments(
    change: Callable[[list[str]], list[str]], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument ends with the usage and one line, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(change(["--data", "task/dev.jsonl", "--triton", "localhost:8001"]))
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("usage: scripts/evaluate ") and said in error.splitlines()[-1]


def test_scores_that_are_no_probabilities(tmp_path: Path) -> None:
    """Where scores are not probabilities, as the published network's dimensions, nothing is said of calibration, and
    what an earlier run drew of it is gone."""
    (tmp_path / "reliability-complexity.png").touch()
    (tmp_path / "risk-coverage-intent.png").touch()
    (tmp_path / "report.json").write_text('{"heads": {"intent": {}}}')
    scores = np.zeros((3, len(LABELS["complexity"])))
    scores[:, LABELS["complexity"].index("Few-Shot")] = (0.9, 2.5, 0.0)
    answers = HeadAnswers(scores.argmax(axis=1), scores)
    rows = [Row(f"prompt {number}", "mine", complexity=3) for number in range(3)]
    reports = report_heads(rows, {"complexity": answers, "task": answers}, LABELS)
    report = reports["complexity"]
    assert list(reports) == ["complexity"]
    assert (report.all.calibration_error, report.reliability, report.risk) == (None, [], None)
    assert report.all.accuracy == pytest.approx(2 / 3)
    assert "|   - |" in format_reports(reports)
    write(Evaluation("some:1:network", 3, {}, reports), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion-complexity.png", "report.json"]


_ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(_ANSWERS, st.integers(1, 20))
def test_calibration_error(answers: list[tuple[float, bool]], bins: int) -> None:
    """The calibration error lies between 0 and 1 and is what a loop over bins and answers gives."""
    confidence, correct = np.array([sure for sure, _ in answers]), np.array([right for _, right in answers])
    error = calibration_error(confidence, correct, bins)
    assert 0 <= error <= 1
    assert error == pytest.approx(gap_by_bin(confidence.tolist(), correct.tolist(), bins), abs=1e-9)
    found = reliability(confidence, correct, bins)
    assert sum(each.rows for each in found) == len(answers)
    assert [each.confidence for each in found] == sorted(each.confidence for each in found)
    # One bin's error is that of the averages alone, which more bins can only show to be larger.
    assert error >= abs(confidence.mean() - correct.mean()) - 1e-9


@given(st.integers(0, 15), st.integers(1, 15))
def test_bins_end_where_the_next_begins(edge: int, bins: int) -> None:
    """A confidence on the border of two bins belongs to the lower one."""
    edge = min(edge, bins)
    above = min(1.0, np.nextafter(edge / bins, 2))
    together = len(reliability(np.array([edge / bins, above]), np.array([True, False]), bins)) == 1
    assert together == (edge in (0, bins))


@pytest.mark.parametrize("confidence", [[], [1.1], [-0.1], [float("nan")]])
def test_no_confidence(confidence: list[float]) -> None:
    """What is not a confidence is refused."""
    with pytest.raises(ValueError, match="expected confidences from 0 to 1"):
        calibration_error(np.array(confidence, dtype=np.float64), np.ones(len(confidence), dtype=np.bool_))
