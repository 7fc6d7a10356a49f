"""What is pushed: read from its folder and checked, before anything is asked of a volume or a replica."""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tqdm import tqdm
from tritonclient.grpc.model_config_pb2 import TYPE_STRING, ModelConfig

from classifiers.checkpoint import (
    SHIPPED,
    CheckpointError,
    checkpoint_digest,
    load_checkpoint,
    names_heads,
    read_config,
    read_shapes,
)
from scripts.adding.models import ADAPTER, classifier_files, read_labels
from scripts.fetching import loading
from scripts.fetching.record import RECORD, Expected, Held, fault, measure, read_record
from scripts.local.triton import ROOT
from scripts.pushing.agent import AgentError, model_name, path_in_model, version_number
from scripts.pushing.errors import PushError
from scripts.pushing.volume import Served

CONFIG = "config.pbtxt"
CLASSIFIER = "prompt_classifier"
SUMS = "SHA256SUMS"

# What reads a checkpoint as the model of this name will.
_READERS: Mapping[str, Callable[[Path], None]] = {
    CLASSIFIER: loading.load_nvidia,
    "routellm_mf": loading.load_mf,
    "routellm_bert": loading.load_bert,
    "routellm_causal_llm": loading.load_causal_llm,
    "routellm_sw_ranking": loading.load_battles,
}


@dataclass(frozen=True)
class Source:
    """One version of a model. `version_files` by their path in the version's folder, `model_files` beside it (config
    and labels); `number` is None where the folder does not say which version it is."""

    model: str
    config: ModelConfig
    config_is_ours: bool  # a checkpoint brings no config of its own
    model_files: Mapping[str, Path]
    version_files: Mapping[str, Path]
    checkpoint: Path | None
    number: int | None

    @property
    def prompts(self) -> bool:
        """Whether it takes prompts, as every model of this project does."""
        return any(each.name == "INPUT" and each.data_type == TYPE_STRING for each in self.config.input)

    @property
    def outputs(self) -> dict[str, int]:
        """How many values each has for a prompt; 0 where that is not said."""
        return {each.name: max(0, math.prod(each.dims)) for each in self.config.output}

    def next_number(self, served: Served | None) -> int:
        """The version's number on the volume: above all there, and its own one when that is higher still."""
        highest = max(served.versions, default=0) if served else 0
        return max(highest + 1, self.number or 1)

    def expected_checkpoint(self, number: int) -> str | None:
        """The `checkpoint` that it should answer with, where that can be told without loading it."""
        if self.checkpoint is None or not (self.model == CLASSIFIER or is_own(self.checkpoint)):
            return None
        checkpoint = load_checkpoint(self.checkpoint)
        return f"{checkpoint.name}:{number}:{checkpoint_digest(checkpoint)}"

    def upload(self, whole: bool, number: int) -> dict[str, Path]:
        """The files by their path in what is put in place: the version's folder, or the whole model's."""
        if not whole:
            return dict(self.version_files)
        return dict(self.model_files) | {f"{number}/{path}": file for path, file in self.version_files.items()}


def read_source(folder: Path, model: str | None) -> Source:
    """A Triton model's folder, or a checkpoint's for the adapter of `model`.

    Raises PushError: something is missing, damaged or does not fit together.
    """
    if not folder.is_dir():
        raise PushError(f"{folder} is no folder")
    source = (
        _read_model(folder, model) if (folder / CONFIG).is_file() else _read_checkpoint(folder, model or CLASSIFIER)
    )
    try:  # what the agent will refuse, before anything is uploaded
        model_name(source.model)
        for path in source.upload(True, int(version_number(str(source.number or 1)))):
            path_in_model(path)
    except AgentError as error:
        raise PushError(str(error)) from None
    return source


def measure_all(files: Mapping[str, Path]) -> dict[str, Held]:
    """Size and SHA-256 of each file."""
    held = {}
    with tqdm(
        total=sum(file.stat().st_size for file in files.values()), unit="B", unit_scale=True, disable=None
    ) as bar:
        bar.set_description("reading")
        for path, file in files.items():
            held[path] = measure(file)
            bar.update(held[path].size)
    return held


def content_key(model: str, held: Mapping[str, Held]) -> str:
    """Names an upload by what it holds."""
    digest = hashlib.sha256(model.encode())
    for path, each in sorted(held.items()):
        digest.update(f"\n{each.sha256} {path}".encode())
    return digest.hexdigest()


def fitted(source: Source, served: Served) -> Source:
    """The source as the volume will serve it. Raises PushError unless it can stand beside the versions there."""
    if served.config is None:
        raise PushError(f"{source.model} on the volume has no {CONFIG}: repair it, or push under another name")
    there = parse_config(served.config, f"{CONFIG} of {source.model} on the volume")
    if not source.config_is_ours:
        if source.checkpoint is not None and is_own(source.checkpoint):
            _require_same_labels(source, read_labels(served.labels))
        if _tensors(there) != _tensors(source.config):
            raise PushError(
                f"the adapter of {source.model} has other tensors than {CONFIG} on the volume: a version can't change "
                "them; push a model folder under another name"
            )
        return replace(source, config=_plain(there, source.model))
    if _plain(there, source.model) != _plain(source.config, source.model):
        raise PushError(
            f"{CONFIG} of {source.model} differs from the one on the volume, which a version can't change: make them "
            "the same, or push under another name"
        )
    for name, file in source.model_files.items():
        if name != CONFIG and measure(file).sha256 != served.files.get(name):
            raise PushError(f"{name} of {source.model} differs from the one on the volume: push under another name")
    return source


def is_own(checkpoint: Path) -> bool:
    """Whether a folder is a checkpoint of your own, with heads that its config names."""
    try:
        return names_heads(read_config(checkpoint))
    except CheckpointError:
        return False  # whoever reads it says why


def parse_config(text: str, where: str) -> ModelConfig:
    try:
        config: ModelConfig = text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise PushError(f"{where}: {_one_line(str(error))}") from None
    return config


def _read_model(folder: Path, model: str | None) -> Source:
    name = folder.absolute().name
    if model is not None and model != name:
        raise PushError(f"{folder} is the model {name}: a model folder is pushed under its own name")
    config = parse_config(_read_text(folder / CONFIG), str(folder / CONFIG))
    if config.name not in ("", name):
        raise PushError(f"{folder / CONFIG}: name is {config.name!r}, and the folder's name is {name!r}")
    if config.version_policy.HasField("specific"):
        raise PushError(f"{folder / CONFIG}: its version_policy names versions, so that a new one is not served")
    versions = [int(each.name) for each in folder.iterdir() if each.is_dir() and re.fullmatch(r"[1-9]\d*", each.name)]
    if not versions:
        raise PushError(f"{folder} holds no version: a folder called 1, 2 or so")
    number = max(versions)
    version = folder / str(number)
    files = _files(version)
    if not files:
        raise PushError(f"{version} is empty")
    program = config.default_model_filename or "model.py"
    if config.backend == "python" and program not in files:
        raise PushError(f"{version / program} is missing")
    beside = {each.name: each for each in sorted(folder.iterdir()) if each.is_file() and not each.name.startswith(".")}
    for output in config.output:
        if output.label_filename and output.label_filename not in beside:
            raise PushError(f"{folder / output.label_filename} is missing: {CONFIG} names it")
    checkpoint = version / SHIPPED if (version / SHIPPED).is_dir() else None
    _check_files(version, files)
    if checkpoint is not None:
        _check_files(checkpoint, _files(checkpoint))
        if name in _READERS or is_own(checkpoint):
            _check_checkpoint(checkpoint, name)
    return Source(name, config, True, beside, files, checkpoint, number)


def _read_checkpoint(folder: Path, model: str) -> Source:
    if model not in _READERS and is_own(folder):
        return _read_own(folder, model)
    adapter = ROOT / "model_repository" / model
    if model not in _READERS:
        raise PushError(f"{folder} holds no {CONFIG}, and {model!r} is none of {', '.join(_READERS)}")
    files = _files(folder)
    if not any(path.endswith((".safetensors", ".parquet")) for path in files):
        raise PushError(f"{folder} is neither a model's folder ({CONFIG}) nor a checkpoint's (config.json, weights)")
    _check_files(folder, files)
    _check_checkpoint(folder, model)
    config = parse_config(_read_text(adapter / CONFIG), str(adapter / CONFIG))
    beside = {each.name: each for each in sorted(adapter.iterdir()) if each.is_file()}
    shipped = {f"{SHIPPED}/{path}": file for path, file in files.items()}
    return Source(model, config, False, beside, {"model.py": adapter / "1" / "model.py"} | shipped, folder, None)


def _read_own(folder: Path, model: str) -> Source:
    """Beside what scripts/add_policy made of another one: the same adapter, config and labels are made again."""
    files = _files(folder)
    _check_files(folder, files)
    _check_checkpoint(folder, model)
    beside = _written(classifier_files(model, load_checkpoint(folder).heads))
    config = parse_config(_read_text(beside[CONFIG]), CONFIG)
    shipped = {f"{SHIPPED}/{path}": file for path, file in files.items()}
    return Source(model, config, False, beside, {"model.py": ADAPTER} | shipped, folder, None)


def _written(files: Mapping[str, str]) -> dict[str, Path]:
    """In a folder that is gone with this process."""
    folder = Path(tempfile.mkdtemp(prefix="push_models."))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return {name: folder / name for name in files}


def _require_same_labels(source: Source, there: Mapping[str, tuple[str, ...]]) -> None:
    """Raises PushError naming the heads and labels that differ: clients know them by their places."""
    here = read_labels({name: _read_text(file) for name, file in source.model_files.items()})
    faults = []
    if set(here) != set(there):
        faults.append(
            f"its heads are {', '.join(sorted(here))}, and on the volume {', '.join(sorted(there)) or 'none'}"
        )
    differing = [head for head in sorted(here.keys() & there.keys()) if here[head] != there[head]]
    faults += [f"{head}: {_difference(here[head], there[head])}" for head in differing]
    if faults:
        raise PushError(
            f"{source.model}: the checkpoint has other labels than the volume ({'; '.join(faults)}), which a version "
            "can't change: scripts/add_policy adds it under another name"
        )


def _difference(here: tuple[str, ...], there: tuple[str, ...]) -> str:
    parts = []
    if new := [label for label in here if label not in there]:
        parts.append(f"new {', '.join(map(repr, new))}")
    if missing := [label for label in there if label not in here]:
        parts.append(f"missing {', '.join(map(repr, missing))}")
    return ", ".join(parts) or "the same ones in another order"


def _check_files(folder: Path, files: Mapping[str, Path]) -> None:
    """Raises PushError unless all files are as the records beside them say, and the weights' headers readable."""
    for path, expected in _recorded(folder).items():
        if wrong := fault(folder / path, expected):
            raise PushError(f"{folder / path} {wrong}")
    for path, file in files.items():
        if path.endswith(".safetensors"):
            try:
                read_shapes(file)
            except CheckpointError as error:
                raise PushError(str(error)) from None


def _recorded(folder: Path) -> dict[str, Expected]:
    """What scripts/fetch_models noted, or `sha256sum` wrote."""
    expected = {}
    if (folder / RECORD).is_file():
        if (record := read_record(folder)) is None:
            raise PushError(f"{folder / RECORD} is damaged: remove it, or fetch the folder again")
        expected = {path: Expected(held.size, held.sha256) for path, held in record.files.items()}
    if (folder / SUMS).is_file():
        for number, line in enumerate(_read_text(folder / SUMS).splitlines(), 1):
            if not (match := re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line)):
                raise PushError(f"{folder / SUMS}, line {number}: expected a SHA-256 and a name")
            expected[match[2]] = Expected(digest=match[1])
    return expected


def _check_checkpoint(folder: Path, model: str) -> None:
    try:
        _READERS.get(model, _load_own)(folder)
    except CheckpointError as error:
        raise PushError(_one_line(str(error))) from None


def _load_own(folder: Path) -> None:
    from classifiers.heads import load_heads  # torch takes seconds

    load_heads(load_checkpoint(folder))


def _files(folder: Path) -> dict[str, Path]:
    """The files below a folder, by their path in it. Hidden ones, and what Python compiled, stay behind."""
    found = {}
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(here, name)
            if not file.is_file():
                raise PushError(f"{file} is no file, or a link to nothing")
            found[str(file.relative_to(folder))] = file
        for name in folders:
            if Path(here, name).is_symlink():
                raise PushError(f"{Path(here, name)} is a link to a folder: put the folder itself there")
    return found


def _tensors(config: ModelConfig) -> tuple[object, ...]:
    """What a request sees of a config."""
    shapes = [
        sorted((each.name, each.data_type, tuple(each.dims)) for each in tensors)
        for tensors in (config.input, config.output)
    ]
    return (config.max_batch_size, *shapes)


def _plain(config: ModelConfig, name: str) -> ModelConfig:
    """With its name, which may be left out."""
    plain = ModelConfig()
    plain.CopyFrom(config)
    plain.name = name
    return plain


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PushError(f"{path}: can't be read ({_one_line(str(error))})") from None


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
