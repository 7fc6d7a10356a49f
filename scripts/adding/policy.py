"""A policy as it stands in a configuration: its text, and where it goes in a file that has others. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from scripts.adding.errors import AddError
from scripts.adding.models import ensemble_name

_VARIABLE = re.compile(r"\$\{[A-Za-z_]")  # the configuration would put something else there
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_TOP = (
    "# Written by scripts/add_policy. DYNAMO_API_BASE is Dynamo's frontend; DYNAMO_API_KEY may be empty or missing.\n"
)


@dataclass(frozen=True)
class Stanza:
    """A policy that asks the ensemble of its name, with an llm for each label, all of the same `model`."""

    name: str
    labels: Sequence[str]
    model: str
    snapshot: str | None = None
    """The file of its calibration snapshot, beside the configuration."""

    def lines(self) -> list[str]:
        """Its text as an item of a list, a line each."""
        first = _scalar(self.labels[0])
        lines = [
            f"- name: {self.name}",
            f"  url: http://localhost:8000/v2/models/{ensemble_name(self.name)}/infer",
            f"  fallback: {first}  # who answers when there is no decision",
            "  # min_confidence: 0.5  # below it on_abstain answers, and x-router-reason is low_confidence",
            f"  # on_abstain: {first}",
        ]
        if self.snapshot is not None:
            lines.append(f"  snapshot: {self.snapshot}")
        lines.append("  llms:")
        for label in self.labels:
            lines += [
                f"    - name: {_scalar(label)}",
                "      api_base: ${DYNAMO_API_BASE}",
                "      api_key: ${DYNAMO_API_KEY:-}",
                f"      model: {_scalar(self.model)}",
            ]
        return lines

    def tree(self) -> dict[str, Any]:
        """What its text means."""
        (tree,) = yaml.safe_load("\n".join(self.lines()))
        return dict(tree)


def check_labels(labels: Sequence[str]) -> list[str]:
    """A fault for each label that a configuration can't hold as it is."""
    wrong = [label for label in labels if _VARIABLE.search(label)]
    return [f"label {label!r} can't stand in a configuration: ${{...}} is a variable there" for label in wrong]


def with_policies(text: str | None, stanzas: Sequence[Stanza]) -> str:
    """`text` with the policies added behind its own, all else as it is; None for a file that is not there yet.

    Raises AddError: it is no configuration, has such a policy, or has its policies where none can be added alone.
    """
    if text is None:
        return _TOP + "policies:\n" + "".join(f"  {line}\n" for stanza in stanzas for line in stanza.lines())
    before = _read(text)
    names = [policy.get("name") for policy in before["policies"]]
    if taken := [stanza.name for stanza in stanzas if stanza.name in names]:
        raise AddError(*(f"policy {name!r} is there already" for name in taken))
    node = _policies_node(text)
    if node.flow_style:
        raise AddError("its policies stand in brackets: put a line of its own to each first")
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = " " * node.start_mark.column
    added = "".join(f"{indent}{line}{newline}" for stanza in stanzas for line in stanza.lines())
    place = _end(text, node)
    gap = "" if text[:place].endswith("\n") else newline
    changed = f"{text[:place]}{gap}{added}{text[place:]}"
    wanted = before | {"policies": [*before["policies"], *(stanza.tree() for stanza in stanzas)]}
    try:
        alone = yaml.safe_load(changed) == wanted
    except (yaml.YAMLError, RecursionError):
        alone = False
    if not alone:
        raise AddError("no policy can be added to it without changing something else: add it by hand")
    return changed


def _scalar(value: str) -> str:
    """As YAML writes a text of one line, quoted where it would be read as something else."""
    written: str = yaml.safe_dump({"k": value}, allow_unicode=True, width=float("inf"))
    return written.removeprefix("k: ").removesuffix("\n")


def _read(text: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:  # its own text quotes the line, which may hold a key
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise AddError(f"not valid YAML{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise AddError(f"not valid YAML: {type(error).__name__}") from None
    policies = tree.get("policies") if isinstance(tree, dict) else None
    if not isinstance(policies, list) or not policies or not all(isinstance(policy, dict) for policy in policies):
        raise AddError("holds no list of policies")
    return dict(tree)


def _policies_node(text: str) -> yaml.SequenceNode:
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    nodes = [value for key, value in root.value if key.value == "policies"]
    if len(nodes) != 1 or not isinstance(nodes[0], yaml.SequenceNode):
        raise AddError("the key 'policies' should stand there once")
    return nodes[0]


def _end(text: str, node: yaml.SequenceNode) -> int:
    """Where the last item's lines end: comments that are indented deeper than the items are still its own."""
    lines = _LINE.findall(text[: node.end_mark.index])
    while lines:
        line = lines[-1].strip()
        is_outside = len(lines[-1]) - len(lines[-1].lstrip()) <= node.start_mark.column
        if line and not (line.startswith("#") and is_outside):
            break
        lines.pop()
    return sum(map(len, lines))
