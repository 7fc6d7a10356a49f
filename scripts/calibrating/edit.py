"""Changes one RouteLLM policy's `threshold` in the text of a configuration file, and not another byte of it.

The text is edited where PyYAML says that the value stands; dumping the tree anew would lose comments and layout.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from gateway.config import Router
from gateway.prompt import Rule

_KEY = "threshold"
_VARIABLE = re.compile(r"\$\{\w+(:-)?\}")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class EditError(Exception):
    """One line: why a policy's threshold can't be changed; whoever knows the file adds its name."""


@dataclass(frozen=True)
class PolicySettings:
    """What calibrating a RouteLLM policy needs to know of it."""

    router: str
    input: Rule


def settings(text: str, name: str) -> PolicySettings:
    """Raises EditError: no YAML, no policy `name`, or not of the type routellm."""
    policy = _policies(text)[_number(text, name)]
    router, rule = policy.get("router", "mf"), policy.get("input", "last_user")
    for key, value, known in (("router", router, get_args(Router)), ("input", rule, get_args(Rule))):
        if value not in known:
            raise EditError(f"policy {name!r}: its {key} should be one of {', '.join(known)}, and is {value!r}")
    return PolicySettings(router, rule)


def with_threshold(text: str, name: str, threshold: float) -> str:
    """`text` with the threshold of the policy `name` changed, or added below its router when it has none.

    Raises EditError: as `settings`, or the value stands where it can't be changed alone (in a variable, an anchor).
    """
    number = _number(text, name)
    node = _policy_node(text, number)
    values = [value for key, value in node.value if key.value == _KEY]
    match values:
        case []:
            changed = _inserted(text, node, name, threshold)
        case [value]:
            changed = _replaced(text, value, name, threshold)
        case _:
            raise EditError(f"policy {name!r}: has {len(values)} thresholds")
    wanted = yaml.safe_load(text)
    wanted["policies"][number] = wanted["policies"][number] | {_KEY: threshold}
    try:
        alone = yaml.safe_load(changed) == wanted
    except (yaml.YAMLError, RecursionError):
        alone = False
    if not alone:
        raise EditError(_by_hand(name, threshold))
    return changed


def diff(path: Path, before: str, after: str) -> str:
    """A unified diff without context: the lines around may hold keys, and one on the same line is left out."""
    old, new = (_LINE.findall(_redacted(text)) for text in (before, after))
    lines = difflib.unified_diff(old, new, str(path), str(path), n=0)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _policies(text: str) -> list[dict[str, Any]]:
    try:
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:  # its own text quotes the line, which may hold a key
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise EditError(f"not valid YAML{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise EditError(f"not valid YAML: {type(error).__name__}") from None
    policies = tree.get("policies") if isinstance(tree, dict) else None
    if not isinstance(policies, list) or not all(isinstance(policy, dict) for policy in policies):
        raise EditError("holds no list of policies")
    return policies


def _number(text: str, name: str) -> int:
    """The place of the RouteLLM policy `name` among the policies."""
    policies = _policies(text)
    numbers = [number for number, policy in enumerate(policies) if policy.get("name") == name]
    if not numbers:
        known = ", ".join(str(policy.get("name")) for policy in policies)
        raise EditError(f"there is no policy {name!r}; there are: {known}")
    if len(numbers) > 1:
        raise EditError(f"policy {name!r} is defined {len(numbers)} times")
    kind = policies[numbers[0]].get("type", "classification")
    if kind != "routellm":
        raise EditError(f"policy {name!r}: its type should be routellm, and is {kind}")
    return numbers[0]


def _policy_node(text: str, number: int) -> yaml.MappingNode:
    root = yaml.compose(text, yaml.SafeLoader)
    assert root is not None
    lists = [value for key, value in root.value if key.value == "policies"]
    if len(lists) != 1:
        raise EditError(f"the key 'policies' should stand there once, and stands {len(lists)} times")
    node = lists[0].value[number]
    assert isinstance(node, yaml.MappingNode)
    return node


def _replaced(text: str, value: yaml.Node, name: str, threshold: float) -> str:
    start, end = value.start_mark.index, value.end_mark.index
    plain = isinstance(value, yaml.ScalarNode) and value.style in (None, "'", '"')
    if not plain or text[start : start + 1] in ("&", "!"):  # an anchor or a tag would be lost
        raise EditError(_by_hand(name, threshold))
    if "${" in value.value:
        raise EditError(
            f"policy {name!r}: its {_KEY} is {value.value}; set that variable to {_written(threshold)} instead"
        )
    gap = " " if start == end else ""  # a key without a value
    return f"{text[:start]}{gap}{_written(threshold)}{text[end:]}"


def _inserted(text: str, node: yaml.MappingNode, name: str, threshold: float) -> str:
    """Behind the policy's router, else its type, else its name: on a line of its own, or within braces."""
    pairs = {key.value: (key, value) for key, value in node.value if isinstance(value, yaml.ScalarNode)}
    found = next((pairs[key] for key in ("router", "type", "name") if key in pairs), None)
    if found is None:
        raise EditError(_by_hand(name, threshold))
    key, value = found
    end = value.end_mark.index
    if node.flow_style:
        return f"{text[:end]}, {_KEY}: {_written(threshold)}{text[end:]}"
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    line_end -= text[:line_end].endswith("\r")
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = " " * key.start_mark.column
    return f"{text[:line_end]}{newline}{indent}{_KEY}: {_written(threshold)}{text[line_end:]}"


def _by_hand(name: str, threshold: float) -> str:
    return f"policy {name!r}: its {_KEY} can't be changed alone; set it to {_written(threshold)} by hand"


def _written(threshold: float) -> str:
    """As YAML 1.1 reads a number: never with an exponent."""
    return f"{threshold:.5f}".rstrip("0").ljust(3, "0")


def _redacted(text: str) -> str:
    """`text` without the api_keys that stand in it, variables aside."""
    root = yaml.compose(text, yaml.SafeLoader)
    assert root is not None
    secrets = {node.start_mark.index: node.end_mark.index for node in _secrets(root)}
    for start, end in sorted(secrets.items(), reverse=True):
        text = f"{text[:start]}[REDACTED]{text[end:]}"
    return text


def _secrets(root: yaml.Node) -> Iterator[yaml.Node]:
    """The values of all keys `api_key`."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias is its anchor's node
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == "api_key" and value.value and not _VARIABLE.fullmatch(str(value.value)):
                    yield value
                else:
                    waiting.append(value)
