import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traffic import (
    CONFIDENCE,
    LENGTH,
    Seen,
    SnapshotError,
    confidence_bucket,
    language_of,
    length_bucket,
    load_snapshot,
    seen,
    take_snapshot,
)

GOOD: dict[str, Any] = {
    "checkpoint": "intents:abc",
    "rows": 4,
    "label": {"a": 0.75, "b": 0.25},
    "confidence": {"0.9-1.0": 1.0},
    "length": {"1-16": 1.0},
    "language": {"en": 0.5, "other": 0.5},
}


def test_buckets_have_these_names() -> None:
    """The names of the buckets, which snapshots and metrics spell, stay as they are."""
    assert CONFIDENCE[0] == "0.0-0.1"
    assert CONFIDENCE[-1] == "0.9-1.0"
    assert LENGTH[:2] == ("1-16", "17-32")
    assert LENGTH[-2:] == ("1025-2048", "2049+")


@pytest.mark.parametrize(
    ("confidence", "bucket"),
    [(0.0, "0.0-0.1"), (0.0999, "0.0-0.1"), (0.1, "0.1-0.2"), (0.55, "0.5-0.6"), (1.0, "0.9-1.0"), (1.0004, "0.9-1.0")],
)
def test_confidence_bucket(confidence: float, bucket: str) -> None:
    """A confidence is in the tenth that begins at or below it; what rounding lifts above 1 is in the last."""
    assert confidence_bucket(confidence) == bucket


@pytest.mark.parametrize(
    ("tokens", "bucket"),
    [(0, "1-16"), (1, "1-16"), (16, "1-16"), (17, "17-32"), (2048, "1025-2048"), (2049, "2049+"), (10**6, "2049+")],
)
def test_length_bucket(tokens: int, bucket: str) -> None:
    """A length is in the bucket whose ends include it."""
    assert length_bucket(tokens) == bucket


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France, and since when?", "en"),
        ("Was ist die Hauptstadt von Frankreich, und seit wann?", "de"),
        ("Переведи это предложение на английский язык", "ru"),
        ("これは何ですか、教えてください", "ja"),
        ("Ո՞րն է Ֆրանսիայի մայրաքաղաքը", "other"),
    ],
)
def test_language_of(text: str, language: str) -> None:
    """A sentence's language is told; one that has no name of its own is other."""
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["", "\ud800", "\x00", "123", "a" * 100_000])
def test_language_of_anything(text: str) -> None:
    """Any text has some language, lone surrogates and nothing at all among them."""
    assert language_of(text)


def test_language_library_is_not_loaded_until_asked() -> None:
    """Importing the module costs no memory for languages: py3langid and its model come with the first question."""
    code = "import sys, gateway.traffic; print('py3langid' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_snapshot_of_rows() -> None:
    """Shares are of the rows that have a value; buckets are all there, labels and languages the most frequent first."""
    rows = [seen("b", 0.95, 3, "en"), seen("a", 0.5, 20, "en"), seen("b", None, None, "de"), seen("b", 0.91, 9, "en")]
    snapshot = take_snapshot(rows, "intents:abc")
    assert list(snapshot.label.items()) == [("b", 0.75), ("a", 0.25)]
    assert tuple(snapshot.confidence) == CONFIDENCE
    assert snapshot.confidence["0.9-1.0"] == pytest.approx(2 / 3)
    assert snapshot.length["17-32"] == pytest.approx(1 / 3)
    assert snapshot.language == {"en": 0.75, "de": 0.25}
    assert (snapshot.rows, snapshot.checkpoint) == (4, "intents:abc")


def test_snapshot_without_a_feature() -> None:
    """A model that says nothing of confidence or length leaves these features empty; no rows at all are refused."""
    snapshot = take_snapshot([seen("strong", None, None, "en")], None)
    assert (snapshot.confidence, snapshot.length) == ({}, {})
    with pytest.raises(ValueError, match="at least one prompt"):
        take_snapshot([], None)


rows = st.builds(
    Seen,
    st.text(max_size=5),
    st.none() | st.sampled_from(CONFIDENCE),
    st.none() | st.sampled_from(LENGTH),
    st.sampled_from(("en", "de", "other")),
)


@given(st.lists(rows, min_size=1, max_size=50))
def test_snapshots_survive_their_file(tmp_path_factory: pytest.TempPathFactory, given_rows: list[Seen]) -> None:
    """What is taken is what is read back."""
    path = tmp_path_factory.getbasetemp() / "snapshot.json"
    snapshot = take_snapshot(given_rows, None)
    path.write_text(snapshot.model_dump_json())
    assert load_snapshot(path) == snapshot


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rows": 0}, "rows: Input should be greater than or equal to 1"),
        ({"label": {}}, "label: "),
        ({"label": {"a": 0.5}}, "label: expected shares that add to 1, and these add to 0.5"),
        ({"label": {"a": 1.5, "b": -0.5}}, "label.a: Input should be less than or equal to 1"),
        ({"confidence": {"high": 1.0}}, "confidence: 'high' is none of its values"),
        ({"length": {"1-16": "1"}}, "length.1-16: Input should be a valid number"),
        ({"language": {"xx": 1.0}}, "language: 'xx' is none of its values"),
        ({"labels": {}}, "labels: unknown key"),
    ],
)
def test_wrong_snapshots(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    """A file that is no snapshot is refused, with the file and the key in the line."""
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(SnapshotError) as refused:
        load_snapshot(path)
    assert refused.value.faults[0].startswith(f"{path}: {fault}")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"rows": NaN}'])
def test_no_snapshots(tmp_path: Path, content: bytes) -> None:
    """Neither is anything that is no JSON object, nor a file that is not there."""
    path = tmp_path / "snapshot.json"
    path.write_bytes(content)
    with pytest.raises(SnapshotError):
        load_snapshot(path)
    with pytest.raises(SnapshotError, match="cannot be read: No such file"):
        load_snapshot(tmp_path / "missing.json")
