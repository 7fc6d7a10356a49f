"""What can be fetched. Another model is another row.

A revision is a commit, or the name of a branch where nobody has noted its commit yet: the first fetch then asks for the
branch's commit, takes every file from that one, and prints it, to be written here in place of the branch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scripts.fetching.loading import load_battles, load_bert, load_causal_llm, load_mf, load_nvidia

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"

# The hub's own conversion of a data set to parquet.
_CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class Repository:
    """Files of a repository on the hub, by their path there: those that the loader reads, each with its SHA-256, or
    None where nobody has noted it yet.
    """

    name: str
    revision: str
    files: Mapping[str, str | None]
    kind: Literal["model", "dataset"] = "model"
    into: str = ""  # the sub-folder that they are put in

    @property
    def is_pinned(self) -> bool:
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


@dataclass(frozen=True)
class File:
    repository: Repository
    path: str
    sha256: str | None


@dataclass(frozen=True)
class Model:
    """`check` reads a folder as the model in Triton will, and raises CheckpointError."""

    name: str
    folder: str  # below MODELS_FOLDER
    repositories: tuple[Repository, ...]
    licence: str
    variable: str  # the environment variable of scripts/serve that puts a folder into service
    check: Callable[[Path], None]
    needs: str = ""  # what else a person must see to

    @property
    def default_folder(self) -> Path:
        return MODELS_FOLDER / self.folder

    @property
    def files(self) -> dict[str, File]:
        """Each file by its path in the model's folder. Nothing loads a folder that lacks the first."""
        return {
            str(Path(repository.into, path)): File(repository, path, sha256)
            for repository in self.repositories
            for path, sha256 in repository.files.items()
        }


# No hash stands here: this table was written without a copy at hand. Each file is checked against what the hub says of
# it when it is fetched and against fetched.json afterwards; a hash noted here is checked always, for copies (--from)
# too. scripts/fetch_models --json prints them.
MODELS = {
    model.name: model
    for model in (
        Model(
            name="nvidia",
            folder="nvidia/prompt-task-and-complexity-classifier",
            repositories=(
                Repository(
                    "nvidia/prompt-task-and-complexity-classifier",
                    "fea1121511eafabaf7dd6fc66863dcb04f74defb",
                    dict.fromkeys(("config.json", "tokenizer.json", "model.safetensors")),
                ),
            ),
            licence=(
                "NVIDIA Open Model License, see https://huggingface.co/nvidia/prompt-task-and-complexity-classifier"
            ),
            variable="CLASSIFIER_CHECKPOINT",
            check=load_nvidia,
        ),
        Model(
            name="routellm_mf",
            folder="routellm/mf_gpt4_augmented",
            repositories=(
                Repository(
                    "routellm/mf_gpt4_augmented",
                    "5eb3dc745cbe7cb16ca342ceb83b7f6ecf8c77c5",
                    dict.fromkeys(("model.safetensors",)),
                ),
            ),
            licence="Apache License 2.0, see https://huggingface.co/routellm/mf_gpt4_augmented",
            variable="ROUTELLM_MF_CHECKPOINT",
            check=load_mf,
            needs="OPENAI_API_KEY (and OPENAI_BASE_URL): it reads embeddings by text-embedding-3-small",
        ),
        Model(
            name="routellm_bert",
            folder="routellm/bert_gpt4_augmented",
            repositories=(
                Repository(
                    "routellm/bert_gpt4_augmented",
                    "main",  # of its commit only the first digits were known: eb6ef18
                    # The state of its training lies beside them, and twice as large.
                    dict.fromkeys(("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")),
                ),
            ),
            licence="Apache License 2.0, see https://huggingface.co/routellm/bert_gpt4_augmented",
            variable="ROUTELLM_BERT_CHECKPOINT",
            check=load_bert,
        ),
        Model(
            name="routellm_causal_llm",
            folder="routellm/causal_llm_gpt4_augmented",
            repositories=(
                Repository(
                    "routellm/causal_llm_gpt4_augmented",
                    "89f85b0d084a56a7d41ccd6b2fedc80b6e48db91",
                    dict.fromkeys(
                        (
                            "config.json",
                            "generation_config.json",
                            "system_ft_v5.txt",
                            "classifier_ft_v5.txt",
                            "model.safetensors.index.json",
                            *(f"model-{shard:05}-of-00004.safetensors" for shard in range(1, 5)),
                        )
                    ),
                ),
            ),
            licence=(
                "Apache License 2.0, see https://huggingface.co/routellm/causal_llm_gpt4_augmented; and, as a "
                "fine-tuned Meta-Llama-3-8B, the Meta Llama 3 Community License"
            ),
            variable="ROUTELLM_CAUSAL_LLM_CHECKPOINT",
            check=load_causal_llm,
            needs=(
                "ROUTELLM_CAUSAL_LLM_TOKENIZER: the folder of the tokenizer.json of meta-llama/Meta-Llama-3-8B, "
                "which Meta gives to those who ask"
            ),
        ),
        Model(
            name="routellm_sw_ranking",
            folder="routellm/sw_ranking",
            repositories=(
                Repository(
                    "lmarena-ai/arena-human-preference-55k",  # once lmsys/lmsys-arena-human-preference-55k
                    "ee36bd17be854b075fa62954aa6fbc4b3810d380",  # of the conversion: the repository itself has a CSV
                    dict.fromkeys(("default/train/0000.parquet",)),
                    "dataset",
                    "arena/battles",
                ),
                Repository(
                    "routellm/arena_battles_embeddings",
                    "main",  # of its commit only the first digits were known: 6dfa46d
                    dict.fromkeys(("data/train-00000-of-00001.parquet",)),
                    "dataset",
                    "arena/embeddings",
                ),
                Repository(
                    "routellm/gpt4_judge_battles",
                    "5c261ccad670b9e94d19c7a440a9f8cbfd0c5c2f",
                    dict.fromkeys(("data/train-00000-of-00001.parquet",)),
                    "dataset",
                    "gpt4_judge/battles",
                ),
                Repository(
                    "routellm/gpt4_judge_battles_embeddings",
                    _CONVERTED,  # of its commit only the first digits were known: ec94856
                    dict.fromkeys(("default/train/0000.parquet", "default/train/0001.parquet")),
                    "dataset",
                    "gpt4_judge/embeddings",
                ),
            ),
            licence=(
                "Apache License 2.0, see https://huggingface.co/datasets/lmarena-ai/arena-human-preference-55k and "
                "https://huggingface.co/datasets/routellm/gpt4_judge_battles"
            ),
            variable="ROUTELLM_SW_RANKING_CHECKPOINT",
            check=load_battles,
            needs="OPENAI_API_KEY (and OPENAI_BASE_URL): it reads embeddings by text-embedding-3-small",
        ),
    )
}
