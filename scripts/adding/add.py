"""scripts/add_policy: a checkpoint becomes Triton models in a repository and a configured policy, or nothing."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from classifiers.checkpoint import FEWEST_TOKENS, Checkpoint, CheckpointError, load_checkpoint
from classifiers.heads import HeadsClassification, load_heads
from gateway.config import ConfigError, load_config
from scripts.adding import models, place, policy
from scripts.adding.errors import AddError, PlaceError
from scripts.adding.policy import Stanza
from scripts.adding.traced import write_traced
from scripts.adding.trial import try_models
from scripts.calibrating import files
from scripts.calibrating.edit import EditError

_EPILOG = """\
What happens, in this order: the checkpoint is loaded; the models are written to a hidden folder of the repository; a
Triton of this machine, where there is one, serves them and is asked as the gateway asks; the configuration with the
new policies is checked; all of it is put into place. If any of that fails, nothing has changed.

A TorchScript file is a program: loading it runs what is in it. Add none that you would not run.

Exit code: 0; 1 it can't be served or written; 2 wrong arguments, checkpoint or configuration."""
_CHANGE_ME = "change-me"
_SNAPSHOT = "snapshot-{}.json"  # of a head, in a checkpoint that scripts/train_classifier wrote


@dataclass(frozen=True)
class Added:
    """What was done, for the person who asked."""

    repository: Path
    models: Sequence[str]
    stanzas: Sequence[Stanza]
    config: Path | None
    not_tried: str | None

    def __str__(self) -> str:
        tried = "answer on this machine" if self.not_tried is None else f"not tried on this machine: {self.not_tried}"
        lines = [f"{self.repository}: {', '.join(self.models)} ({tried})"]
        if self.config is None:
            lines += ["", "for the configuration's policies:", ""]
            lines += [f"  {line}" for stanza in self.stanzas for line in stanza.lines()]
        else:
            lines.append(f"{self.config}: {', '.join(stanza.name for stanza in self.stanzas)}")
        return "\n".join([*lines, "", "next:", *(f"  {line}" for line in self._next())])

    def _next(self) -> list[str]:
        config = self.config or "FILE"
        lines = []
        if any(stanza.model == _CHANGE_ME for stanza in self.stanzas):
            lines.append(f"{config}: put the model that answers each label in the place of {_CHANGE_ME}")
        return [
            *lines,
            f"scripts/serve --config {config} --models {self.repository}",
            f"scripts/push_models {self.repository / self.models[0]} (then the ensembles) brings them to a volume",
            f"scripts/push_models DIR --model {self.models[0]} brings a checkpoint that was trained anew",
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = read_options(arguments)
    try:
        print(add(options))
    except (AddError, ConfigError) as error:
        print("\n".join(f"add_policy: {fault}" for fault in error.faults), file=sys.stderr)
        return 1 if isinstance(error, PlaceError) else 2
    except KeyboardInterrupt:
        print("add_policy: interrupted, nothing has changed", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/add_policy",
        description="Adds a policy of your own: writes the Triton models that serve a checkpoint into a model "
        "repository, and the policy, with an llm for each label, into a configuration.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = root.add_argument
    add("name", metavar="NAME", help="of a-z, 0-9 and _: the policy is NAME_router, its model NAME_router_ensemble")
    what = root.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, metavar="DIR", help="what scripts/train_classifier wrote")
    what.add_argument(
        "--torchscript", type=Path, metavar="FILE", help="or a traced network of input_ids and attention_mask to logits"
    )
    add(
        "--repository",
        type=Path,
        required=True,
        metavar="DIR",
        help="the model repository; it is made if it is missing",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration that the policy is added to, or a new one (default: the policy is printed)",
    )
    add(
        "--model",
        default=_CHANGE_ME,
        metavar="MODEL",
        help="who answers all labels until you change that, as Dynamo serves it (default: %(default)s)",
    )
    traced = root.add_argument_group("with --torchscript")
    add = traced.add_argument
    add("--tokenizer", type=Path, metavar="DIR", help="the folder of its tokenizer")
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help="its labels in the order of the logits: one a line, a JSON list, or a config.json with id2label",
    )
    add(
        "--max-tokens",
        type=read_tokens,
        default=512,
        metavar="N",
        help="how many tokens it was traced with (default: %(default)s, as in the blueprint's notebooks)",
    )
    return root


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Exits with a usage line unless they belong together."""
    root = parser()
    options = root.parse_args(arguments)
    has_parts = options.tokenizer is not None and options.labels is not None
    if options.torchscript is not None and not has_parts:
        root.error("--torchscript needs --tokenizer and --labels")
    if options.torchscript is None and (options.tokenizer is not None or options.labels is not None):
        root.error("--tokenizer and --labels go with --torchscript")
    if not options.model.strip():
        root.error("--model should name a model")
    return options


def read_tokens(value: str) -> int:
    """Raises ArgumentTypeError: no whole number, or too few tokens to read a prompt by."""
    if not value.isascii() or not value.isdigit() or int(value) < FEWEST_TOKENS:
        raise argparse.ArgumentTypeError(f"expected a whole number from {FEWEST_TOKENS} on, and got {value!r}")
    return int(value)


def add(options: argparse.Namespace) -> Added:
    """Raises AddError, PlaceError and ConfigError: nothing has changed then."""
    models.require_name(options.name)
    with ExitStack() as stack:
        folder = options.checkpoint or write_traced(
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="add_policy."))) / "checkpoint",
            options.name,
            options.torchscript,
            options.tokenizer,
            options.labels,
            options.max_tokens,
        )
        checkpoint, classification = _load(folder)
        policies = models.policy_names(options.name, checkpoint.heads)
        made = models.model_files(options.name, checkpoint.heads)
        place.require_free(options.repository, options.name, made)
        snapshots = _snapshots(folder, options.config, policies)
        stanzas = [
            Stanza(policies[head.name], head.labels, options.model, snapshots.get(head.name))
            for head in checkpoint.heads
        ]
        if options.config is not None:
            copies = {options.config.parent / name: folder / _SNAPSHOT.format(head) for head, name in snapshots.items()}
            stack.enter_context(place.copied(copies))
        text = _checked_config(options.config, stanzas)
        stage = stack.enter_context(place.staging(options.repository))
        place.write_models(stage, options.name, made, folder)
        not_tried = try_models(stage, checkpoint, classification, policies)
        place.put(stage, options.repository, made, lambda: _write_config(options.config, text))
        return Added(options.repository, list(made), stanzas, options.config, not_tried)


def _load(folder: Path) -> tuple[Checkpoint, HeadsClassification]:
    """Raises AddError: the checkpoint does not load whole, or a label can't stand in a configuration."""
    if not folder.is_dir():
        raise AddError(f"{folder} is no folder")
    try:
        checkpoint = load_checkpoint(folder)
        classification = load_heads(checkpoint)
    except CheckpointError as error:
        raise AddError(str(error)) from None
    faults = policy.check_labels([label for head in checkpoint.heads for label in head.labels])
    if faults:
        raise AddError(*faults)
    return checkpoint, classification


def _snapshots(checkpoint: Path, config: Path | None, policies: Mapping[str, str]) -> dict[str, str]:
    """What the calibration snapshot of each head that has one is called beside the configuration, if there is one."""
    if config is None:
        return {}
    heads = [head for head in policies if (checkpoint / _SNAPSHOT.format(head)).is_file()]
    return {head: f"{policies[head]}-snapshot.json" for head in heads}


def _checked_config(file: Path | None, stanzas: Sequence[Stanza]) -> str:
    """The configuration's text with the policies, as the gateway takes it.

    Raises AddError and ConfigError: it can't be added to, or is wrong.
    """
    is_there = file is not None and os.path.lexists(file)
    try:
        if file is not None and is_there:
            files.require_writable(file)
            text = policy.with_policies(files.read_text(file), stanzas)
        else:
            text = policy.with_policies(None, stanzas)
    except (AddError, EditError) as error:
        raise AddError(*(f"{file}: {fault}" for fault in str(error).splitlines())) from None
    with tempfile.TemporaryDirectory(prefix="add_policy.") as folder:
        # A file's own folder, so that what it names by relative paths is found.
        _check(Path(folder) if file is None else file.parent, file, text)
    return text


def _check(folder: Path, file: Path | None, text: str) -> None:
    """Raises ConfigError, under the file's name, and PlaceError: the folder can't be written."""
    environ = dict(os.environ)
    environ["DYNAMO_API_BASE"] = environ.get("DYNAMO_API_BASE") or "http://localhost:8000"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".add_policy-", suffix=".yaml") as draft:
            draft.write(text.encode())
            draft.flush()
            try:
                load_config(Path(draft.name), environ)
            except ConfigError as error:
                shown = str(file or "the policy")
                raise ConfigError([fault.replace(draft.name, shown) for fault in error.faults]) from None
    except OSError as error:
        raise PlaceError(f"{folder}: can't be written ({error.strerror})") from None


def _write_config(file: Path | None, text: str) -> None:
    if file is None:
        return
    if os.path.lexists(file):
        try:
            files.write_atomically(file, text)
        except (EditError, files.WriteError) as error:
            raise PlaceError(str(error)) from None
    else:
        file.write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    sys.exit(main())
