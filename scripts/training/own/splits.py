"""Examples to rows to learn from, rows to stop by, and rows to measure on; pure, but for the faults that it notes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.training.data import text_key
from scripts.training.own.data import Column, Example, read_examples
from scripts.training.records import Faults, Place

# Of each label's training rows these shares are held out where no dev rows are given: as few as tell epochs apart and
# bear a temperature, since what is held out teaches nothing.
LEAST_HELD_OUT, MOST_HELD_OUT = 0.05, 0.25
ENOUGH_HELD_OUT = 60  # rows

MOST_ROWS = 1_000_000
MOST_LABELS = 1_000  # of a head


@dataclass(frozen=True)
class Splits:
    """Each text once in all of them. `labels` of each head are in the order of its logits; every one is taught."""

    labels: Mapping[str, tuple[str, ...]]
    train: Sequence[Example]
    dev: Sequence[Example]
    test: Sequence[Example]
    dev_is_given: bool
    merged: int
    """Rows that stood in their split already, with no other label."""

    @property
    def measured(self) -> Sequence[Example]:
        """The rows of which figures are told."""
        return self.test or self.dev


def read_splits(
    train: Sequence[Path], dev: Sequence[Path], test: Sequence[Path], columns: Sequence[Column], seed: int
) -> Splits:
    """The files' rows, checked against each other. Without `dev` files some of the training rows are held out.

    Raises DataFaults: everything that is wrong with any of them.
    """
    faults = Faults()
    read = {name: read_examples(files, columns, faults) for name, files in _named(train, dev, test)}
    heads = [column.head for column in columns]
    labels = _check_labels(read["train"], heads, train, faults)
    for name, files in _named(train, dev, test)[1:]:
        _check_known(read[name], labels, name, heads if files else [], faults)
    merged = {name: _merge(examples, faults) for name, examples in read.items()}
    _check_apart(merged, faults)
    if sum(map(len, read.values())) > MOST_ROWS:
        faults.add("the files", f"hold more than {MOST_ROWS:,} rows together")
    faults.raise_any()
    kept, held = (merged["train"], merged["dev"]) if dev else hold_out(merged["train"], seed)
    for head in [head for head in heads if not any(head in example.labels for example in held)]:
        faults.add("the data", f"no row that is held out has a label for {head!r}: give --dev, or more rows")
    faults.raise_any()
    repeated = sum(map(len, read.values())) - sum(map(len, merged.values()))
    return Splits(labels, kept, held, merged["test"], bool(dev), repeated)


def hold_out(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """The examples that stay, and `held_share` of each label's, at least one of each; both in their order.

    The rarest labels come first, since of them it is hardest to find some. None loses its last example to stay.
    """
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    pairs = [set(example.labels.items()) for example in examples]
    staying = Counter(pair for each in pairs for pair in each)
    held: set[int] = set()
    share = held_share(len(examples))
    for pair, count in sorted(staying.items(), key=lambda item: (item[1], item[0])):
        missing = max(1, round(count * share)) - (count - staying[pair])
        for number in order:
            if missing <= 0:
                break
            if pair in pairs[number] and number not in held and all(staying[each] > 1 for each in pairs[number]):
                held.add(number)
                staying.subtract(pairs[number])
                missing -= 1
    stay = [example for number, example in enumerate(examples) if number not in held]
    return stay, [examples[number] for number in sorted(held)]


def held_share(rows: int) -> float:
    """The share of so many training rows that is held out."""
    return min(max(ENOUGH_HELD_OUT / max(rows, 1), LEAST_HELD_OUT), MOST_HELD_OUT)


def _named(*files: Sequence[Path]) -> list[tuple[str, Sequence[Path]]]:
    return list(zip(("train", "dev", "test"), files, strict=True))


def _check_labels(
    examples: Sequence[Example], heads: Sequence[str], files: Sequence[Path], faults: Faults
) -> dict[str, tuple[str, ...]]:
    """The labels that training has, sorted. Of rows that are one text only one counts."""
    first = {
        (text_key(each.text) or str(each.place), head, label): each.place
        for each in examples
        for head, label in each.labels.items()
    }
    where: dict[tuple[str, str], list[Place]] = {}
    for (_, head, label), place in first.items():
        where.setdefault((head, label), []).append(place)
    labels = {head: tuple(sorted(label for each, label in where if each == head)) for head in heads}
    for head, known in labels.items():
        if len(known) < 2:
            has = f"has the one label {known[0]!r}" if known else "has no label"
            faults.add(", ".join(map(str, files)), f"{head!r} {has}, and needs two")
        elif len(known) > MOST_LABELS:
            faults.add(", ".join(map(str, files)), f"{head!r} has {len(known)} labels, and {MOST_LABELS} are allowed")
    for (head, label), places in where.items():
        if len(places) == 1:
            faults.add(places[0], f"the only text with {head!r} {label!r}: one can't be learnt from and tried on too")
    return labels


def _check_known(
    examples: Sequence[Example], labels: Mapping[str, Sequence[str]], name: str, heads: Sequence[str], faults: Faults
) -> None:
    for example in examples:
        for head, label in example.labels.items():
            if label not in labels[head]:
                faults.add(example.place, f"no training row has {head!r} {label!r}")
    for head in heads:
        if not any(head in example.labels for example in examples):
            faults.add(f"--{name}", f"no row has a label for {head!r}")


def _merge(examples: Sequence[Example], faults: Faults) -> list[Example]:
    """Each text once, with the labels of all its rows."""
    found: dict[str, Example] = {}
    for example in examples:
        key = text_key(example.text) or str(example.place)
        before = found.setdefault(key, example)
        for head, label in example.labels.items():
            if before.labels.get(head, label) != label:
                faults.add(
                    example.place,
                    f"the text of {before.place} again, with {head!r} {label!r}; there it is {before.labels[head]!r}",
                )
        found[key] = replace(before, labels={**example.labels, **before.labels})
    return list(found.values())


def _check_apart(splits: Mapping[str, Sequence[Example]], faults: Faults) -> None:
    first: dict[str, tuple[str, Place]] = {}
    for name, examples in splits.items():
        for example in examples:
            if not (key := text_key(example.text)):
                continue  # at fault already
            split, place = first.setdefault(key, (name, example.place))
            if split != name:
                faults.add(example.place, f"the text of {place} again: a row of {name} should be none of {split}")
