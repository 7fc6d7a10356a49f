"""A fetched folder, read as the models in Triton will read it, as far as shows that they can.

Each function raises CheckpointError. A router's module is imported when it is fetched: torch alone takes seconds.
"""

from __future__ import annotations

from pathlib import Path

from classifiers.checkpoint import load_checkpoint, require_task_and_complexity
from classifiers.tokenizer import PromptTokenizer


def load_nvidia(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    require_task_and_complexity(checkpoint)
    PromptTokenizer(checkpoint)


def load_mf(folder: Path) -> None:
    """All but the embeddings endpoint."""
    from classifiers.routellm.mf import read_head

    read_head(folder / "model.safetensors")


def load_bert(folder: Path) -> None:
    from classifiers.routellm import bert

    bert.load_bert(folder)


def load_causal_llm(folder: Path) -> None:
    """All but the 16 GB of weights, of which the headers are read, and the tokenizer, which lies elsewhere."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from classifiers.routellm.causal_prompt import read_template
    from classifiers.routellm.transformer import check_weights, read_config

    config = read_config(folder, LlamaConfig)
    read_template(folder)
    with torch.device("meta"):
        tensors = LlamaForCausalLM(config).state_dict()
    check_weights(folder, {name: tuple(tensor.shape) for name, tensor in tensors.items()})


def load_battles(folder: Path) -> None:
    """The battles, and how many embeddings there are."""
    from classifiers.routellm.battles import find_sets, read_battles

    read_battles(find_sets(folder))
