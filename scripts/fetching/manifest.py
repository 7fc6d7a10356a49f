"""What can be fetched. Another model is another row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"


@dataclass(frozen=True)
class Model:
    """`files` are those that the loader reads, each with its SHA-256, or None where nobody has noted it yet."""

    name: str
    repository: str
    revision: str
    files: Mapping[str, str | None]
    licence: str
    variable: str  # the environment variable of scripts/serve that puts a folder into service

    @property
    def default_folder(self) -> Path:
        return MODELS_FOLDER / self.repository


MODELS = {
    model.name: model
    for model in (
        Model(
            name="nvidia",
            repository="nvidia/prompt-task-and-complexity-classifier",
            revision="fea1121511eafabaf7dd6fc66863dcb04f74defb",
            # None: this table was written without a copy at hand. Each file is checked against what the hub says of
            # it when it is fetched and against fetched.json afterwards; a hash noted here is checked always, for
            # copies (--from) too. scripts/fetch_models --json prints them.
            files={"config.json": None, "tokenizer.json": None, "model.safetensors": None},
            licence=(
                "NVIDIA Open Model License, see https://huggingface.co/nvidia/prompt-task-and-complexity-classifier"
            ),
            variable="CLASSIFIER_CHECKPOINT",
        ),
    )
}
