"""Measures one served model that gives labels, asked as the gateway asks it, and takes its snapshot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gateway.config import ROUTELLM_MODELS
from gateway.prompt import bounded
from scripts.evaluating.ask import HeadAnswers
from scripts.evaluating.decisions import Question, answers_of, decide_all, labels_of
from scripts.evaluating.evaluation import Evaluation
from scripts.evaluating.report import HeadReport, report_head, source_name
from scripts.evaluating.snapshot import require_place, snapshot_of, write_snapshot
from scripts.evaluating.texts import Text, read_texts, require_labels
from scripts.training.data import DataError, file_hashes

_ENSEMBLE = "_router_ensemble"


def evaluate_model(options: argparse.Namespace) -> Evaluation:
    """Of one model, asked as the gateway asks it, and its snapshot where one is wanted.

    Raises DataError before more than a first prompt is asked, TritonError, and OSError.
    """
    model: str = options.model
    rows = read_texts(options.data, labelled=options.snapshot is None)
    judged = model not in ROUTELLM_MODELS and any(row.label is not None for row in rows)
    if options.risk is not None and not judged:
        raise DataError(f"{options.data[0]}: has no labels, which --risk needs")
    if options.snapshot is not None:
        require_place(options.snapshot)
    questions = [Question(options.triton, model, bounded(row.text)) for row in rows]
    (first,) = decide_all(questions[:1]).values()  # tells the labels, and whether the model is there at all
    if judged:
        require_labels(rows, labels_of(first), model)
    if options.out is not None:  # before the long part
        options.out.mkdir(parents=True, exist_ok=True)
    found = decide_all(questions)
    decisions = [found[question] for question in questions]
    heads = {}
    if judged:
        head = model.removesuffix(_ENSEMBLE)
        heads[head] = report_texts(rows, answers_of(head, decisions).heads[head], labels_of(first), options.risk)
    if options.snapshot is not None:
        snapshot = snapshot_of([row.text for row in rows], decisions, options.threshold)
        write_snapshot(snapshot, options.snapshot)
        if snapshot.doubt is not None:
            print(f"evaluate: warning: {options.snapshot}: {snapshot.doubt}", file=sys.stderr)
    files = dict(file_hashes(Path(), map(str, options.data)))
    return Evaluation(decisions[0].checkpoint or model, len(rows), files, heads)


def report_texts(rows: Sequence[Text], answers: HeadAnswers, labels: Sequence[str], risk: float | None) -> HeadReport:
    """Of the rows that have a label, at least one; `answers` are for all of them."""
    chosen = [at for at, row in enumerate(rows) if row.label is not None]
    truth = np.array([labels.index(rows[at].label or "") for at in chosen], dtype=np.int64)
    sources = np.array([source_name(rows[at].source) for at in chosen])
    return report_head(HeadAnswers(answers.index[chosen], answers.scores[chosen]), truth, sources, labels, risk)
