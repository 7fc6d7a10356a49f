"""Prompts made from sentences with gaps, for tasks of which few real ones are at hand.

The sentences, in templates.json, are this project's own, worded as people word such requests; the label follows from
the sentence. Texts to rewrite or to summarise are passages of the training rows. None of these is ever measured on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter

from scripts.training.data import Labels, Row

SOURCE = "template"

_SHORTEST_PASSAGE, _LONGEST_PASSAGE = 40, 1500  # characters


@dataclass(frozen=True)
class _Templates:
    """`counts`: prompts to make of each task; `sentences` of each task; `gaps`: what may fill each {gap};
    `openings`: what people put before a prompt without meaning anything by it."""

    counts: Mapping[str, int]
    sentences: Mapping[str, Sequence[str]]
    gaps: Mapping[str, Sequence[str]]
    openings: Sequence[str]


def _read_templates() -> _Templates:
    return _Templates(**json.loads(Path(__file__).with_name("templates.json").read_text(encoding="utf-8")))


def template_rows(rows: Sequence[Row], labels: Labels, seed: int) -> list[Row]:
    """Made-up prompts with their task, each text once; passages are taken from `rows`. The same for the same seed."""
    templates = _read_templates()
    generator = random.Random(seed)
    passages = [passage for row in rows if (passage := _passage(row.text))]
    texts: dict[str, str] = {}
    for task, count in templates.counts.items():
        sentences = [each for each in templates.sentences[task] if passages or "{passage}" not in each]
        if not sentences:
            continue  # nothing to rewrite or to summarise
        count = min(count, len(rows))  # never more of a kind than there are real prompts
        made: set[str] = set()
        for _ in range(50 * count):  # short sentences run out of new texts
            if len(made) == count:
                break
            made.add(_fill(generator.choice(sentences), templates, passages, generator))
        texts |= dict.fromkeys(sorted(made), task)
    return [Row(text, SOURCE, task=labels.task.index(task)) for text, task in texts.items()]


def with_openings(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """The rows in their order, that share of them with an opening such as "Prompt: " before the text."""
    openings = _read_templates().openings
    generator = random.Random(seed)
    return [
        replace(row, text=generator.choice(openings) + row.text) if generator.random() < share else row for row in rows
    ]


def _passage(text: str) -> str | None:
    """What follows a prompt's first line, when it is a text and no list of choices."""
    _, _, rest = text.partition("\n")
    rest = rest.strip()
    is_text = (
        _SHORTEST_PASSAGE <= len(rest) <= _LONGEST_PASSAGE and ". " in rest and "?" not in rest and ":" not in rest
    )
    return rest if is_text else None


def _fill(sentence: str, templates: _Templates, passages: Sequence[str], generator: random.Random) -> str:
    parts = []
    for literal, gap, _, _ in Formatter().parse(sentence):
        parts.append(literal)
        if gap == "passage":
            parts.append(_piece(generator.choice(passages), generator))
        elif gap is not None:
            parts.append(_fill(generator.choice(templates.gaps[gap]), templates, passages, generator))
    return "".join(parts)


def _piece(passage: str, generator: random.Random) -> str:
    """One to all of a passage's sentences, from its start."""
    sentences = passage.split(". ")
    return ". ".join(sentences[: generator.randint(1, len(sentences))])
