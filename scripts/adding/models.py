"""The Triton models that serve a checkpoint of your own: their names and their files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from classifiers.checkpoint import Head
from scripts.adding.errors import AddError
from scripts.local.triton import ROOT

ADAPTER = Path(__file__).with_name("model.py")
CONFIG = "config.pbtxt"
_CLASSIFIER = "_classifier"
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_OURS = ROOT / "model_repository"
_README = "Triton wants a version folder; an ensemble has no files of its own.\n"
_HEAD_OF_CLASSIFIER = """\
# Prompts to the labels of {heads}: tokens, network and probabilities in one process. On a GPU when there is one.
# Made by scripts/add_policy; scripts/push_models brings a new version of its checkpoint.
name: "{name}"
backend: "python"
max_batch_size: 64
input [
  {{ name: "INPUT" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [
"""
_TAIL_OF_CLASSIFIER = """\
  # Tokens read, tokens in the prompt: they differ when the prompt was cut.
  { name: "tokens" data_type: TYPE_INT32 dims: [ 2 ] },
  # name:version:digest of the checkpoint that answered.
  { name: "checkpoint" data_type: TYPE_STRING dims: [ 1 ] }
]
dynamic_batching {
  # Without a queue policy: any limit of the queue's size or time makes this scheduler forget to wake up.
}
instance_group [ { kind: KIND_AUTO count: 1 } ]
"""
_ENSEMBLE = """\
# Prompt to the probabilities of {head}'s labels, which come with Triton's classification extension.
# Made by scripts/add_policy.
name: "{name}"
platform: "ensemble"
max_batch_size: 64
input [
  {{ name: "INPUT" data_type: TYPE_STRING dims: [ 1 ] }}
]
output {{ name: "OUTPUT" data_type: TYPE_FP32 dims: [ {size} ] }}
output {{ name: "tokens" data_type: TYPE_INT32 dims: [ 2 ] }}
output {{ name: "checkpoint" data_type: TYPE_STRING dims: [ 1 ] }}
ensemble_scheduling {{
  step [
    {{
      model_name: "{classifier}"
      model_version: -1
      input_map {{ key: "INPUT" value: "INPUT" }}
      output_map {{ key: "{head}_scores" value: "OUTPUT" }}
      output_map {{ key: "tokens" value: "tokens" }}
      output_map {{ key: "checkpoint" value: "checkpoint" }}
    }}
  ]
}}
"""


def require_name(name: str) -> None:
    """Raises AddError unless models and policies can be called by it."""
    if not _NAME.fullmatch(name):
        raise AddError(f"NAME should be of a-z, 0-9 and _, at most 64, and is {name!r}")
    if name in _taken():
        raise AddError(f"NAME {name!r} is that of a model of this project; choose another one")


def ours() -> set[str]:
    """The names of this project's models."""
    return {folder.name for folder in _OURS.iterdir() if folder.is_dir()}


def classifier_name(name: str) -> str:
    return f"{name}{_CLASSIFIER}"


def policy_names(name: str, heads: Sequence[Head]) -> dict[str, str]:
    """The policy of each head."""
    if len(heads) == 1:
        return {heads[0].name: f"{name}_router"}
    return {head.name: f"{name}_{head.name}_router" for head in heads}


def ensemble_name(policy: str) -> str:
    """The model that a policy's url names."""
    return f"{policy}_ensemble"


def model_files(name: str, heads: Sequence[Head]) -> dict[str, dict[str, str]]:
    """The files of each model by their path in its folder, but for what is in the classifier's version."""
    classifier = classifier_name(name)
    models = {classifier: classifier_files(classifier, heads)}
    policies = policy_names(name, heads)
    for head in heads:
        ensemble = ensemble_name(policies[head.name])
        config = _ENSEMBLE.format(name=ensemble, head=head.name, size=head.size, classifier=classifier)
        models[ensemble] = {CONFIG: config, "1/README": _README}
    return models


def classifier_files(classifier: str, heads: Sequence[Head]) -> dict[str, str]:
    """What lies beside a classifier's versions: its config, and the labels of each head."""
    labels = {labels_file(head.name): "".join(f"{label}\n" for label in head.labels) for head in heads}
    return {CONFIG: "".join(_classifier_lines(classifier, heads))} | labels


def labels_file(head: str) -> str:
    return f"{head}_labels.txt"


def read_labels(files: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The labels of each head, out of the texts of such files."""
    ending = labels_file("")
    # By line feeds alone: labels may hold other characters at which Python would break lines.
    return {
        name.removesuffix(ending): tuple(text.removesuffix("\n").split("\n"))
        for name, text in files.items()
        if name.endswith(ending)
    }


def _classifier_lines(classifier: str, heads: Sequence[Head]) -> Iterator[str]:
    yield _HEAD_OF_CLASSIFIER.format(heads=", ".join(head.name for head in heads), name=classifier)
    for head in heads:
        scores = f'name: "{head.name}_scores" data_type: TYPE_FP32 dims: [ {head.size} ]'
        yield f'  {{ {scores} label_filename: "{labels_file(head.name)}" }},\n'
        yield f'  {{ name: "{head.name}_label" data_type: TYPE_STRING dims: [ 1 ] }},\n'
    yield _TAIL_OF_CLASSIFIER


def _taken() -> set[str]:
    """This project's models' names, and what they are without the endings that a policy's models get."""
    names = ours()
    for ending in ("_ensemble", _CLASSIFIER, "_router"):
        names |= {name.removesuffix(ending) for name in names}
    return names
