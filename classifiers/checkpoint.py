"""A checkpoint folder: what its config and the headers of its weights say, checked, before any tensor is read.

Four forms of three kinds. `nvidia` is the published classifier as the hub gives it (config.json, model.safetensors,
tokenizer.json). `softmax` is what this project trains. The embedded checkpoint is config.json and adapters.safetensors
(two heads, and low-rank adapters for a sentence encoder that is installed as a Python package and checked by its
SHA-256); its config is where the order of the task and complexity labels stands. Your own is a folder that holds
everything, encoder included, with heads and labels that its config.json names. `torchscript` is your own, too: a
network that somebody else traced (model.pt), with one head.

Neither torch nor transformers is imported here: steps that only tokenise or decide stay small.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from classifiers import nvidia

EMBEDDED = Path(__file__).parent / "embedded"
SHIPPED = "checkpoint"  # the folder in a model's version that holds the weights which belong to it
UNKNOWN = "Unknown"  # the task label that low confidence gives; the softmax kind has no logit for it

HEAD_NAME = re.compile(r"[a-z0-9_]{1,64}")  # it becomes a part of the names of Triton's models and outputs
LABEL_RULE = "a text of one line, without spaces around it"
FEWEST_TOKENS = 3  # of a prompt that is read: one, and the special tokens around it

_FLOATS = ("F32", "F16", "BF16")
_LONGEST_NAME = 128
_FETCH = "scripts/fetch_models fetches the published checkpoint"
_ENCODER_LINEAR = re.compile(r"encoder\.layer\.\d+\..*\.weight")


class CheckpointError(Exception):
    """One line: which file or key of a checkpoint is missing or wrong, and what was expected."""


@dataclass(frozen=True)
class Head:
    """One linear layer over the pooled prompt; `temperature` divides its logits (softmax kind).

    `labels` are those of a checkpoint of your own; the others' stand in the checkpoint.
    """

    name: str
    size: int
    temperature: float = 1.0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """The sentence encoder under a softmax checkpoint: a folder of an installed package, and its weights' SHA-256."""

    package: str
    folder: Path
    sha256: str

    @property
    def weights_file(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / "tokenizer.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds. `heads` are in the order in which their logits stand, side by side."""

    name: str
    folder: Path
    kind: Literal["nvidia", "softmax", "torchscript"]
    heads: tuple[Head, ...]
    task_labels: tuple[str, ...]
    complexity_labels: tuple[str, ...]
    max_tokens: int  # special tokens included
    tokenizer_file: Path
    weights_file: Path
    encoder: Encoder | None = None  # softmax only, as are the next two
    adapter_rank: int = 0
    unknown_below: float = 0.0
    pad_id: int = 0  # torchscript only: the token that fills up what its network is given
    keeps_tail: bool = True
    """Whether a longer prompt is cut in its middle, and not at its end."""

    @property
    def config_file(self) -> Path:
        return self.folder / "config.json"

    @property
    def is_own(self) -> bool:
        """Whether its heads and labels are its own, in place of task and complexity."""
        return bool(self.heads[0].labels)

    @cached_property
    def head_slices(self) -> dict[str, slice]:
        """Where each head's logits stand among the `logits_size` of a prompt."""
        slices, start = {}, 0
        for head in self.heads:
            slices[head.name] = slice(start, start + head.size)
            start += head.size
        return slices

    @property
    def logits_size(self) -> int:
        return sum(head.size for head in self.heads)


def checkpoint_folder(environ: Mapping[str, str], version: Path | None = None) -> Path:
    """Where the weights lie: in the model's `version` folder, else where CLASSIFIER_CHECKPOINT says, else embedded."""
    return shipped_folder(version) or Path(environ.get("CLASSIFIER_CHECKPOINT") or EMBEDDED)


def shipped_folder(version: Path | None) -> Path | None:
    """The checkpoint that came with a model's version folder, or None.

    It goes before the environment: a version that is put beside an older one brings its own weights.
    """
    return version / SHIPPED if version is not None and (version / SHIPPED).is_dir() else None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads the config and the headers of the weights; no tensor is read.

    Raises CheckpointError: a file is missing or truncated, a key or a tensor is missing, unexpected or wrong.
    """
    config = read_config(folder)
    if "kind" not in config and "target_sizes" in config:
        checkpoint = _nvidia_checkpoint(folder, config)
    elif names_heads(config):
        checkpoint = _own_checkpoint(folder, config)
    elif config.get("kind") == "softmax":
        checkpoint = _softmax_checkpoint(folder, config)
    else:
        raise CheckpointError(
            f'{folder / "config.json"}: expected "kind": "softmax" or "torchscript", or the published classifier\'s '
            "'target_sizes'"
        )
    _expect_file(checkpoint.tokenizer_file, checkpoint)
    _expect_file(checkpoint.weights_file, checkpoint)
    if checkpoint.kind == "torchscript":
        pass  # what its network gives shows when it is asked
    elif checkpoint.is_own:
        _check_heads(checkpoint)
    else:
        check_shapes(checkpoint.weights_file, expected_shapes(checkpoint))
    return checkpoint


def checkpoint_digest(checkpoint: Checkpoint) -> str:
    """The first 12 hex digits of the SHA-256 over config and weights.

    The config of a softmax checkpoint holds the SHA-256 of its encoder, which is thereby covered.
    """
    digest = hashlib.sha256()
    for path in (checkpoint.config_file, checkpoint.weights_file):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def names_heads(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a checkpoint of your own."""
    return config.get("kind") == "torchscript" or (config.get("kind") == "softmax" and "heads" in config)


def one_line(error: Exception) -> str:
    """What a library's exception says, shortened."""
    return shorten(" ".join(str(error).split()) or type(error).__name__)


def shorten(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def require_own(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError when the checkpoint answers task and complexity."""
    if not checkpoint.is_own:
        raise CheckpointError(
            f"{checkpoint.config_file}: answers task and complexity, which prompt_classifier serves; expected 'heads'"
        )


def require_task_and_complexity(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError when the checkpoint answers something else."""
    if checkpoint.is_own:
        names = ", ".join(head.name for head in checkpoint.heads)
        raise CheckpointError(
            f"{checkpoint.config_file}: answers {names}, and this model task and complexity; "
            "scripts/add_policy serves a checkpoint of your own"
        )


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, from its header.

    Raises CheckpointError: the file is missing, truncated or no safetensors file.
    """
    return {name: shape for name, (_, shape) in _read_headers(file).items()}


def check_shapes(file: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError naming every tensor of `file` that is missing, unexpected, mis-shaped or not of floats."""
    found = _read_headers(file)
    both = sorted(expected.keys() & found.keys())
    faults = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "wrong shape": [
            f"{name} is {list(found[name][1])} and should be {list(expected[name])}"
            for name in both
            if found[name][1] != expected[name]
        ],
        "wrong type": [f"{name} is {found[name][0]}" for name in both if not _is_float(found[name][0])],
    }
    text = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
    if text:
        raise CheckpointError(f"{file}: tensors {text}")


def require_floats(file: Path, names: Collection[str]) -> None:
    """Raises CheckpointError naming those of a file's tensors that hold other numbers."""
    wrong = [
        f"{name} is {kind}" for name, (kind, _) in _read_headers(file).items() if name in names and not _is_float(kind)
    ]
    if wrong:
        raise CheckpointError(f"{file}: tensors wrong type: {', '.join(wrong)}")


def expected_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Every tensor that the checkpoint's weights file should hold.

    Raises CheckpointError: the tensors that tell the network's size are missing.
    """
    if checkpoint.encoder is None:
        return nvidia.tensor_shapes(nvidia_sizes(checkpoint))
    encoder = _encoder_shapes(checkpoint.encoder)
    hidden = encoder["embeddings.word_embeddings.weight"][1]
    shapes: dict[str, tuple[int, ...]] = {}
    for head in checkpoint.heads:
        shapes |= {f"heads.{head.name}.weight": (head.size, hidden), f"heads.{head.name}.bias": (head.size,)}
    for layer in adapted_layers(encoder):
        outputs, inputs = encoder[f"{layer}.weight"]
        shapes |= {f"adapters.{layer}.down": (checkpoint.adapter_rank, inputs)}
        shapes |= {f"adapters.{layer}.up": (outputs, checkpoint.adapter_rank)}
    return shapes


def adapted_layers(encoder: nvidia.Shapes) -> list[str]:
    """The encoder's linear layers, each of which has an adapter: weight + up @ down is its merged weight."""
    return [
        name.removesuffix(".weight")
        for name, shape in sorted(encoder.items())
        if len(shape) == 2 and _ENCODER_LINEAR.fullmatch(name)
    ]


def nvidia_sizes(checkpoint: Checkpoint) -> nvidia.Sizes:
    """The encoder's sizes as the tensors of the weights file tell them.

    Raises CheckpointError: the tensors that tell them are missing or not matrices.
    """
    shapes = read_shapes(checkpoint.weights_file)
    wrong = [name for name in nvidia.SIZE_TENSORS if len(shapes.get(name, ())) != 2]
    if wrong:
        raise CheckpointError(f"{checkpoint.weights_file}: tensors missing, or not matrices: {', '.join(wrong)}")
    return nvidia.read_sizes(shapes)


def check_encoder(encoder: Encoder) -> None:
    """Raises CheckpointError unless the encoder's weights are the very file that the adapters were trained for."""
    with encoder.weights_file.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != encoder.sha256:
        raise CheckpointError(
            f"{encoder.weights_file}: SHA-256 is {found} and should be {encoder.sha256}; "
            "run scripts/install to install the pinned package again"
        )


def _read_headers(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        with safe_open(file, framework="numpy") as tensors:
            headers = {name: tensors.get_slice(name) for name in tensors.keys()}
            return {name: (header.get_dtype(), tuple(header.get_shape())) for name, header in headers.items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: truncated, or no safetensors file ({error})") from None


def _is_float(kind: str) -> bool:
    return kind in _FLOATS


def _encoder_shapes(encoder: Encoder) -> dict[str, tuple[int, ...]]:
    try:
        return read_shapes(encoder.weights_file)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; run scripts/install to install the pinned package again") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises CheckpointError: it is missing, or no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(f"{path} is missing; {_FETCH}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return config


def _expect_file(path: Path, checkpoint: Checkpoint) -> None:
    if not path.is_file():
        if checkpoint.is_own:
            fix = "a checkpoint of your own holds it"
        else:
            fix = _FETCH if checkpoint.kind == "nvidia" else "scripts/install installs the encoder, git holds the rest"
        raise CheckpointError(f"{path} is missing; {fix}")


def _nvidia_checkpoint(folder: Path, config: dict[str, Any]) -> Checkpoint:
    path = folder / "config.json"
    # Compared as mappings: the order of the keys is not to be trusted.
    if config["target_sizes"] != dict(nvidia.HEAD_SIZES):
        raise CheckpointError(f"{path}: 'target_sizes' should be {dict(nvidia.HEAD_SIZES)}")
    task_labels, complexity_labels = contract_labels()
    expected = {str(number): label for number, label in enumerate(task_labels)}
    if config.get("task_type_map") != expected:
        raise CheckpointError(f"{path}: 'task_type_map' should be {expected}")
    return Checkpoint(
        name=nvidia.NAME,
        folder=folder,
        kind="nvidia",
        heads=tuple(Head(name, size) for name, size in nvidia.HEAD_SIZES.items()),
        task_labels=task_labels,
        complexity_labels=complexity_labels,
        max_tokens=nvidia.MAX_TOKENS,
        tokenizer_file=folder / "tokenizer.json",
        weights_file=folder / "model.safetensors",
    )


def contract_labels() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The task labels and the complexity labels in the order of every output, as the embedded config has them."""
    config = read_config(EMBEDDED)
    return tuple(config["task_labels"]), tuple(config["complexity_labels"])


def _softmax_checkpoint(folder: Path, config: dict[str, Any]) -> Checkpoint:
    read = Keys(folder / "config.json", config)
    labels = contract_labels()
    for key, expected in zip(("task_labels", "complexity_labels"), labels, strict=True):
        if read.value(key, list) != list(expected):
            raise CheckpointError(f"{read.path}: '{key}' should be {list(expected)}")
    encoder = find_encoder(Keys(read.path, read.value("encoder", dict)))
    temperatures = Keys(read.path, read.value("temperatures", dict))
    return Checkpoint(
        name=read.value("name", str),
        folder=folder,
        kind="softmax",
        heads=(
            Head("task", len(labels[0]) - 1, temperatures.positive("task")),
            Head("complexity", len(labels[1]), temperatures.positive("complexity")),
        ),
        task_labels=labels[0],
        complexity_labels=labels[1],
        max_tokens=read.value("max_tokens", int),
        tokenizer_file=encoder.tokenizer_file,
        weights_file=folder / "adapters.safetensors",
        encoder=encoder,
        adapter_rank=read.value("adapter_rank", int),
        unknown_below=float(read.value("unknown_below", int | float)),
    )


def _own_checkpoint(folder: Path, config: dict[str, Any]) -> Checkpoint:
    read = Keys(folder / "config.json", config)
    heads = tuple(_own_head(read.path, each) for each in read.value("heads", list))
    names = [head.name for head in heads]
    if not heads or len(set(names)) < len(names):
        raise CheckpointError(f"{read.path}: 'heads' should be one or several, each with a name of its own")
    max_tokens = read.value("max_tokens", int)
    if max_tokens < FEWEST_TOKENS:
        raise CheckpointError(f"{read.path}: 'max_tokens' should be {FEWEST_TOKENS} or more, and is {max_tokens}")
    is_traced = config["kind"] == "torchscript"
    if is_traced and len(heads) > 1:
        raise CheckpointError(f"{read.path}: 'heads' should be one: a TorchScript network gives one row of logits")
    return Checkpoint(
        name=_own_name(read),
        folder=folder,
        kind=config["kind"],
        heads=heads,
        task_labels=(),
        complexity_labels=(),
        max_tokens=max_tokens,
        tokenizer_file=folder / "tokenizer.json",
        weights_file=folder / ("model.pt" if is_traced else "model.safetensors"),
        pad_id=read.value("pad_id", int) if is_traced else 0,
        keeps_tail=not (is_traced and _cuts_tail(read)),
    )


def _own_name(read: Keys) -> str:
    """A name that can stand in `name:version:digest`."""
    name: str = read.value("name", str)
    if not 1 <= len(name) <= _LONGEST_NAME or ":" in name or not name.isprintable():
        expected = f"a line of 1 to {_LONGEST_NAME} characters without ':'"
        raise CheckpointError(f"{read.path}: 'name' should be {expected}, and is {name[: 2 * _LONGEST_NAME]!r}")
    return name


def _cuts_tail(read: Keys) -> bool:
    """Whether a traced network reads the head of a long prompt alone, as it was trained to."""
    if "truncation" in read.config and read.config["truncation"] != "head":
        raise CheckpointError(
            f"{read.path}: 'truncation' should be 'head', or left out, and is {read.config['truncation']!r}"
        )
    return "truncation" in read.config


def _own_head(path: Path, value: Any) -> Head:
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: 'heads' should hold objects, and holds {value!r}")
    read = Keys(path, value)
    name, labels = read.value("name", str), read.value("labels", list)
    if not HEAD_NAME.fullmatch(name):
        raise CheckpointError(f"{path}: a head's 'name' should be of a-z, 0-9 and _, and is {name!r}")
    if faults := label_faults(labels):
        raise CheckpointError(f"{path}: head {name!r}: {'; '.join(faults)}")
    return Head(name, len(labels), read.positive("temperature"), tuple(labels))


def label_faults(labels: Sequence[Any]) -> list[str]:
    """What is wrong with a head's labels, one by one."""
    faults = [
        f"label {number} is {label!r}, and should be {LABEL_RULE}"
        for number, label in enumerate(labels, 1)
        if not is_label(label)
    ]
    if faults:
        return faults
    twice = sorted(label for label, count in Counter(labels).items() if count > 1)
    if twice or len(labels) < 2:
        what = f"{twice[0]!r} stands there twice" if twice else f"there are {len(labels)}"
        faults.append(f"expected two or more different labels, and {what}")
    return faults


def is_label(value: Any) -> bool:
    """Whether a label can stand in Triton's label file, a configuration and a header."""
    return isinstance(value, str) and bool(value.strip() == value != "") and value.isprintable()


def _check_heads(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the heads are there; whether the encoder is whole shows when it is filled."""
    found = read_shapes(checkpoint.weights_file)
    width = (found.get(f"heads.{checkpoint.heads[0].name}.weight") or (0,))[-1]
    for head in checkpoint.heads:
        for part, shape in (("weight", (head.size, width)), ("bias", (head.size,))):
            name = f"heads.{head.name}.{part}"
            if found.get(name) != shape:
                is_there = f"is {list(found[name])}" if name in found else "is missing"
                raise CheckpointError(f"{checkpoint.weights_file}: {name} {is_there}, and should be {list(shape)}")
    strange = [name for name in found if name.startswith("heads.") and name.split(".")[1] not in checkpoint.head_slices]
    if strange:
        raise CheckpointError(f"{checkpoint.weights_file}: tensors unexpected: {', '.join(strange)}")
    require_floats(checkpoint.weights_file, [name for name in found if name.startswith("heads.")])


def find_encoder(read: Keys) -> Encoder:
    """The encoder that a config's `encoder` names by package, folder and sha256, which is not compared yet.

    Raises CheckpointError: a key is missing or wrong, or the package or its weights are missing.
    """
    package = read.value("package", str)
    spec = importlib.util.find_spec(package)  # finds the folder without running the package
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"the Python package {package}, which {read.path} needs, is missing; run scripts/install")
    folder = Path(spec.submodule_search_locations[0]) / read.value("folder", str)
    encoder = Encoder(package, folder, read.value("sha256", str))
    if not encoder.weights_file.is_file():
        raise CheckpointError(f"{encoder.weights_file} is missing; run scripts/install")
    return encoder


@dataclass(frozen=True)
class Keys:
    """The keys of a config, read with their types checked."""

    path: Path
    config: Mapping[str, Any]

    def value(self, key: str, kind: Any) -> Any:
        value = self.config.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            expected = getattr(kind, "__name__", str(kind))
            raise CheckpointError(f"{self.path}: '{key}' should be {expected}, and is {value!r}")
        return value

    def positive(self, key: str) -> float:
        value = self.value(key, int | float)
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floating-point numbers
            number = float("inf")
        if not 0 < number < float("inf"):
            raise CheckpointError(f"{self.path}: '{key}' should be above 0, and is {number}")
        return number
