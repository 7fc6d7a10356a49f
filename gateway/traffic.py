"""What traffic looks like: shares of labels, confidences, lengths and languages. Pure, but for reading a snapshot."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

_LENGTH_BOUNDS = (0, 16, 32, 64, 128, 256, 512, 1024, 2048)
_READ_CHARACTERS = 512  # enough to tell a language by, and bounded
_ROUNDING = 0.01  # what people's rounding may take away
_ROWS_FOR_A_LABEL = 10  # with fewer, the shares of what is drawn by chance alone are too far from those it is drawn of

CONFIDENCE = tuple(f"{tenth / 10:.1f}-{(tenth + 1) / 10:.1f}" for tenth in range(10))
"""Buckets of confidence: tenths, the upper end belonging to the next one, 1.0 to the last."""

LENGTH = (*(f"{low + 1}-{high}" for low, high in pairwise(_LENGTH_BOUNDS)), f"{_LENGTH_BOUNDS[-1] + 1}+")
"""Buckets of a prompt's length in tokens: powers of two, both ends included."""

OTHER = "other"
"""A value that has no name of its own."""

LANGUAGES = tuple(
    "ar bg bn ca cs da de el en es et fa fi fr he hi hr hu id it ja ko lt lv mr "
    "ms nb nl no pl pt ro ru sk sl sr sv sw ta te th tl tr uk ur vi zh".split()
)
"""ISO 639-1 codes of the languages that are told apart."""

FEATURES = ("label", "confidence", "length", "language")
"""What shares are of."""


class SnapshotError(Exception):
    """The file holds no snapshot; `faults` has one line for each thing wrong with it."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Seen:
    """One prompt as traffic counts it: a value for each feature; None where the model does not say."""

    label: str
    confidence: str | None
    length: str | None
    language: str

    def values(self) -> dict[str, str]:
        """The value of each feature that has one."""
        found = {feature: getattr(self, feature) for feature in FEATURES}
        return {feature: value for feature, value in found.items() if value is not None}


def seen(label: str, confidence: float | None, tokens_in_prompt: int | None, language: str) -> Seen:
    """A prompt's values: its confidence between 0 and 1 and its length as their buckets."""
    return Seen(
        label,
        None if confidence is None else confidence_bucket(confidence),
        None if tokens_in_prompt is None else length_bucket(tokens_in_prompt),
        language,
    )


def confidence_bucket(confidence: float) -> str:
    """The tenth in which a confidence between 0 and 1 lies."""
    return CONFIDENCE[min(max(int(confidence * 10), 0), 9)]


def length_bucket(tokens_in_prompt: int) -> str:
    """The bucket of a prompt of so many tokens; none at all count as the shortest."""
    return LENGTH[sum(tokens_in_prompt > bound for bound in _LENGTH_BOUNDS[1:])]


def language_of(text: str) -> str:
    """The language of `text` by its beginning: one of LANGUAGES, or OTHER. Half a millisecond.

    By py3langid (Lui & Baldwin, "langid.py: An Off-the-shelf Language Identification Tool", ACL 2012), which knows 97
    and takes 30 MB, once it is asked.
    """
    import py3langid

    language, _ = py3langid.classify(text[:_READ_CHARACTERS])
    return language if language in LANGUAGES else OTHER


def _shares(shares: Mapping[str, float]) -> Mapping[str, float]:
    if shares and abs(sum(shares.values()) - 1) > _ROUNDING:
        raise ValueError(f"expected shares that add to 1, and these add to {sum(shares.values()):.4g}")
    return shares


def _only(names: Iterable[str]) -> AfterValidator:
    known = frozenset(names)

    def check(shares: Mapping[str, float]) -> Mapping[str, float]:
        if strangers := sorted(shares.keys() - known):
            raise ValueError(f"{strangers[0]!r} is none of its values")
        return shares

    return AfterValidator(check)


_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Shares = Annotated[Mapping[str, _Share], AfterValidator(_shares)]


class Snapshot(BaseModel):
    """What traffic looked like when a policy was made: for each feature the shares of its values, which add to 1.

    Confidence and length have none when the model does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    checkpoint: str | None
    """`name:version:digest` of the network that answered, or None when it does not say."""
    rows: int = Field(ge=1)
    """How many prompts these are shares of."""
    label: Annotated[_Shares, Field(min_length=1)]
    confidence: Annotated[_Shares, _only(CONFIDENCE)]
    length: Annotated[_Shares, _only(LENGTH)]
    language: Annotated[_Shares, _only((*LANGUAGES, OTHER)), Field(min_length=1)]

    def shares(self, feature: str) -> Mapping[str, float]:
        """Of one of FEATURES: the share of each value."""
        found: Mapping[str, float] = getattr(self, feature)
        return found

    @property
    def doubt(self) -> str | None:
        """Why its labels say little, if they do."""
        needed = _ROWS_FOR_A_LABEL * len(self.label)
        if self.rows >= needed:
            return None
        counts = f"{self.rows:,} rows, {len(self.label):,} labels; {_ROWS_FOR_A_LABEL} for each at least"
        return f"too few rows to tell drift by label: {counts}"


def beside(snapshot: Snapshot, names: Collection[str], row: Seen) -> Seen:
    """`row` as it is counted beside a snapshot: only features that this has, and labels only of this or of `names`."""
    known = row.label in snapshot.label or row.label in names
    return Seen(
        row.label if known else OTHER,
        row.confidence if snapshot.confidence else None,
        row.length if snapshot.length else None,
        row.language,
    )


def take_snapshot(rows: Iterable[Seen], checkpoint: str | None) -> Snapshot:
    """The snapshot of these prompts. Raises ValueError without any."""
    rows = list(rows)
    if not rows:
        raise ValueError("a snapshot needs at least one prompt")
    return Snapshot(
        checkpoint=checkpoint,
        rows=len(rows),
        label=_counted(row.label for row in rows),
        confidence=_counted((row.confidence for row in rows), CONFIDENCE),
        length=_counted((row.length for row in rows), LENGTH),
        language=_counted(row.language for row in rows),
    )


def _counted(values: Iterable[str | None], buckets: Iterable[str] = ()) -> dict[str, float]:
    """Each value's share, in the order of the `buckets`, else the most frequent first; nothing of nothing."""
    counts = Counter(value for value in values if value is not None)
    if not counts:
        return {}
    names = tuple(buckets) or tuple(value for value, _ in counts.most_common())
    return {name: counts[name] / counts.total() for name in names}


def load_snapshot(path: Path) -> Snapshot:
    """A snapshot file: JSON. Raises SnapshotError with every fault."""
    try:
        return Snapshot.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SnapshotError([f"{path}: cannot be read: {error.strerror}"]) from None
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)
        raise SnapshotError([f"{path}: {_fault(detail)}" for detail in details]) from None
    except ValueError:
        raise SnapshotError([f"{str(path)!r}: is no file's name"]) from None


def _fault(detail: Any) -> str:
    place = ".".join(map(str, detail["loc"]))
    message = {"extra_forbidden": "unknown key", "missing": "missing"}.get(detail["type"], detail["msg"])
    message = message.removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
