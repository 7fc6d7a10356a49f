"""The new models on a Triton of this machine, asked as the gateway asks, before they are put into place."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from classifiers.checkpoint import Checkpoint
from classifiers.heads import HeadsClassification
from gateway.decision import Decision, TritonClient
from gateway.errors import DecisionFailed
from scripts.adding.errors import PlaceError
from scripts.adding.models import ensemble_name
from scripts.local.process import StartError
from scripts.local.triton import find_server
from scripts.pushing.errors import PushError
from scripts.pushing.replica import Replica
from scripts.pushing.trial import running

_PROMPT = "I was charged twice, what can I do?"
_SECONDS = 60.0
_TOLERANCE = 2e-3  # of scores, in reduced precision


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
                given = {head: _ask(replica, ensemble_name(policy)) for head, policy in policies.items()}
        except (PushError, DecisionFailed) as error:
            raise PlaceError(f"the models are not served: {error}") from None
    faults = _faults(given, checkpoint, classification)
    if faults:
        raise PlaceError(*faults)
    return None


def _ask(replica: Replica, ensemble: str) -> Decision:
    replica.load(ensemble)

    async def decide() -> Decision:
        client = TritonClient(replica.url)
        try:
            return await client.decide(ensemble, _PROMPT, _SECONDS)
        finally:
            await client.close()

    return asyncio.run(decide())


def _faults(given: Mapping[str, Decision], checkpoint: Checkpoint, classification: HeadsClassification) -> list[str]:
    """What Triton's answers say else than the checkpoint's."""
    (outputs,) = classification.answers([[_PROMPT.encode()]], [[f"{head.name}_scores" for head in checkpoint.heads]])
    found = []
    for head in checkpoint.heads:
        decision, scores = given[head.name], outputs[f"{head.name}_scores"][0]
        if decision.labels != head.labels:
            found.append(f"Triton names the labels {', '.join(decision.labels)}, not {', '.join(head.labels)}")
        elif not np.allclose(decision.scores, scores, rtol=0, atol=_TOLERANCE):
            found.append(f"Triton answers {decision.label!r} to {_PROMPT!r} with other scores than the checkpoint")
    return found
