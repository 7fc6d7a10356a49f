"""A TorchScript file, its tokenizer and its labels, made into a checkpoint folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from classifiers.checkpoint import label_faults, one_line
from scripts.adding.errors import AddError


def write_traced(folder: Path, name: str, network: Path, tokenizer: Path, labels: Path, max_tokens: int) -> Path:
    """The checkpoint in `folder`, whose one head is called `name`.

    Raises AddError: a file can't be read, or is not what it should be.
    """
    found = read_labels(labels)
    if not network.is_file():
        raise AddError(f"{network} is no file")
    folder.mkdir(parents=True)
    shutil.copyfile(network, folder / "model.pt")
    config = {
        "kind": "torchscript",
        "name": name,
        "max_tokens": max_tokens,
        "truncation": "head",  # as transformers cuts, and so the blueprint
        "pad_id": _write_tokenizer(tokenizer, folder),
        "heads": [{"name": name, "labels": found, "temperature": 1.0}],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def read_labels(file: Path) -> list[str]:
    """The labels in the order of the logits: a config.json with id2label, a JSON list, or one a line.

    Raises AddError, with a fault for each wrong one.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AddError(f"{file}: can't be read ({error})") from None
    labels = _from_json(file, text) if text.lstrip().startswith(("[", "{")) else text.splitlines()
    if faults := label_faults(labels):
        raise AddError(*(f"{file}: {fault}" for fault in faults))
    return labels


def _from_json(file: Path, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AddError(f"{file}: not JSON ({error})") from None
    if isinstance(value, dict) and isinstance(named := value.get("id2label"), dict):
        if set(named) != set(map(str, range(len(named)))):
            raise AddError(f"{file}: 'id2label' should number the labels from 0 on")
        value = [named[str(number)] for number in range(len(named))]
    if not isinstance(value, list):
        raise AddError(f"{file}: expected one label a line, a JSON list, or an object with 'id2label'")
    return value


def _write_tokenizer(source: Path, folder: Path) -> int:
    """As tokenizer.json, which the library also makes of a vocabulary alone; the id that pads.

    Raises AddError: there is no tokenizer, or no fast one, or it does not pad.
    """
    from transformers import AutoTokenizer  # takes seconds

    if not source.is_dir():
        raise AddError(f"{source} is no folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever its files make the library raise
        raise AddError(f"{source}: no tokenizer ({one_line(error)})") from None
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise AddError(f"{source}: expected a tokenizer that has a tokenizer.json and a token to pad with")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    settings = source / "tokenizer_config.json"
    if settings.is_file():
        shutil.copyfile(settings, folder / settings.name)
    return int(tokenizer.pad_token_id)
