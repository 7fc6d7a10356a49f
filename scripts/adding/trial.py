"""The new models on a Triton of this machine, asked as the gateway asks, before they are put into place."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from classifiers.checkpoint import Checkpoint
from classifiers.heads import HeadsClassification
from scripts.adding.errors import PlaceError
from scripts.adding.models import ensemble_name
from scripts.local.process import StartError
from scripts.local.triton import find_server
from scripts.pushing.errors import PushError
from scripts.pushing.replica import shorten
from scripts.pushing.trial import running

_PROMPT = "I was charged twice, what can I do?"
_SECONDS = 60.0
_TOLERANCE = 2e-3  # of scores, in reduced precision
_MOST_LABELS = 4096  # Triton answers with as many as it has

Classes = list[tuple[str, float]]
"""Labels with their scores, in the order of the outputs."""


def try_models(
    repository: Path, checkpoint: Checkpoint, classification: HeadsClassification, policies: Mapping[str, str]
) -> str | None:
    """None when the ensemble of each head's policy answers as the checkpoint does in this process; else why it could
    not be tried.

    Raises PlaceError: a model does not load, or answers something else.
    """
    with tempfile.TemporaryDirectory(prefix="add_policy.") as folder:
        try:
            find_server(Path(folder, "triton"))
        except StartError as error:
            return str(error)
        try:
            with running(repository, Path(folder, "triton")) as replica:
                given = {}
                for head, policy in policies.items():
                    replica.load(ensemble_name(policy))
                    given[head] = _ask(replica.url, ensemble_name(policy))
        except PushError as error:
            raise PlaceError(f"the models are not served: {error}") from None
        except InferenceServerException as error:
            raise PlaceError(f"the models do not answer: {shorten(error.message())}") from None
    faults = _faults(given, checkpoint, classification)
    if faults:
        raise PlaceError(*faults)
    return None


def _ask(url: str, ensemble: str) -> Classes:
    """As the gateway asks: by Triton's classification extension, which answers `score:index:label`, best first."""
    prompt = InferInput("INPUT", [1, 1], "BYTES")
    prompt.set_data_from_numpy(np.array([[_PROMPT.encode()]], dtype=np.object_))
    output = InferRequestedOutput("OUTPUT", class_count=_MOST_LABELS)
    with InferenceServerClient(url) as client:
        answer = client.infer(ensemble, [prompt], outputs=[output], client_timeout=_SECONDS)
    classes = [row.decode().split(":", 2) for row in answer.as_numpy("OUTPUT").ravel()]
    return [(label, float(score)) for score, _, label in sorted(classes, key=lambda each: int(each[1]))]


def _faults(given: Mapping[str, Classes], checkpoint: Checkpoint, classification: HeadsClassification) -> list[str]:
    """What Triton's answers say else than the checkpoint's."""
    (outputs,) = classification.answers([[_PROMPT.encode()]], [[f"{head.name}_scores" for head in checkpoint.heads]])
    found = []
    for head in checkpoint.heads:
        labels, scores = zip(*given[head.name], strict=True)
        if labels != head.labels:
            found.append(f"Triton names the labels {', '.join(labels)}, not {', '.join(head.labels)}")
        elif not np.allclose(scores, outputs[f"{head.name}_scores"][0], rtol=0, atol=_TOLERANCE):
            found.append(f"Triton answers {_PROMPT!r} with other scores of {head.name} than the checkpoint")
    return found
