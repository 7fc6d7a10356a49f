"""Pieces of the documentation that come out of the code: cog calls these, scripts/check sees that they are fresh."""

import argparse
import os
from collections.abc import Callable, Mapping

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

_WIDTH = "100"


def help_text(parser: Callable[[], argparse.ArgumentParser], *command: str) -> str:
    """The help of a command, or of a subcommand, in a code block."""
    os.environ["COLUMNS"] = _WIDTH  # argparse folds its lines by it
    found = parser()
    for name in command:
        (choices,) = (action.choices for action in found._actions if isinstance(action, argparse._SubParsersAction))
        found = choices[name]
    return f"```\n{found.format_help()}```"


def key_table(model: type[BaseModel]) -> str:
    """A configuration object's keys as a Markdown table."""
    rows = ["| key | default | what |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        rows.append(f"| `{name}` | {_default(field.default)} | {field.description} |")
    return "\n".join(rows)


def route_table(paths: Mapping[str, Mapping[str, Mapping[str, object]]]) -> str:
    """The paths of an OpenAPI document as a Markdown table."""
    rows = ["| route | what |", "|---|---|"]
    for path, methods in paths.items():
        rows += [f"| `{method.upper()} {path}` | {operation['summary']} |" for method, operation in methods.items()]
    return "\n".join(rows)


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"  # as YAML has it
    return f"`{value}`" if value not in (None, "", ()) and str(value) else ""
