"""RouteLLM's own router classes: what the tests hold ours against.

Importing RouteLLM asks for an OpenAI key and makes a client with it, so it happens here, with a key that is none and
an address that nobody answers. Only the routers are imported: RouteLLM's controller fetches a price list when it is
imported, and its server reads the command line.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import PydanticDeprecatedSince20
from torch.overrides import TorchFunctionMode

# Before huggingface_hub is imported, which reads it then: no router may ask the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

with pytest.MonkeyPatch.context() as environ, warnings.catch_warnings():
    environ.setenv("OPENAI_API_KEY", "no-key")
    environ.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    # RouteLLM declares a prompt's format with the decorators of pydantic 1.
    warnings.simplefilter("ignore", PydanticDeprecatedSince20)
    from routellm.routers import routers as routellm
    from routellm.routers.causal_llm import llm_utils as causal_llm_utils
    from routellm.routers.matrix_factorization.model import MODEL_IDS
    from routellm.routers.similarity_weighted import utils as similarity_weighted
    from transformers.utils import logging

# transformers has something to say about each prompt that RouteLLM has it answer, which would hide a failed test's own.
logging.set_verbosity_error()

__all__ = ["MODEL_IDS", "OLD_PENALTY", "CausalLLM", "embed_at", "routellm", "similarity_weighted"]

# For `pytestmark = pytest.mark.filterwarnings(OLD_PENALTY)`: RouteLLM's `sw_ranking` asks scikit-learn for a regression
# without penalty in the words that 1.10 no longer takes.
OLD_PENALTY = "ignore:'penalty' was deprecated:FutureWarning"


def embed_at(base_url: str) -> None:
    """Makes RouteLLM ask `base_url` ("http://127.0.0.1:PORT/v1") for embeddings from now on, in all its routers.

    They share one client. It sends one prompt per request, and asks for base64.
    """
    client: Any = similarity_weighted.OPENAI_CLIENT
    client.base_url = base_url


class CausalLLM:
    """RouteLLM's `causal_llm` router of a local folder, on this machine's CPU.

    Its own code loads and scores. Three things that it has fixed are put right around it: the device "cuda", the hub
    as the place of the two text files, and one name under which both the tokenizer and the prompt's format are known.
    A fourth, its type, is bfloat16; `float32` has the network compute in float32 with the values that bfloat16 kept,
    since two sums in bfloat16 that differ just in their order are 1e-2 apart, and would hide a fault.
    """

    def __init__(self, folder: Path, tokenizer_folder: Path, float32: bool = True) -> None:
        format_of = causal_llm_utils.PROMPT_FORMAT_CONFIGS
        with pytest.MonkeyPatch.context() as patch, _CpuForCuda(), warnings.catch_warnings():
            patch.setattr(routellm, "hf_hub_download", lambda repo_id, filename: str(Path(repo_id) / filename))
            patch.setitem(format_of, str(tokenizer_folder), format_of["meta-llama/Meta-Llama-3-8B"])
            self._router = routellm.CausalLLMRouter(str(folder), model_id=str(tokenizer_folder))
        if float32:
            self._router.router_model.model.float()

    def calculate_strong_win_rate(self, prompt: str) -> float:
        with _CpuForCuda():
            return float(self._router.calculate_strong_win_rate(prompt))

    def answer(self, prompt: str) -> list[int] | None:
        """The tokens that are generated for the prompt, if a label is among them."""
        with _CpuForCuda():
            output = self._router.router_model({"messages": self._router.to_openai_messages([prompt])})
        return None if output is None else output["output_ids"].tolist()


class _CpuForCuda(TorchFunctionMode):
    """Tensors that are sent to the device "cuda" go to the CPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = ["cpu" if isinstance(arg, str | torch.device) and str(arg) == "cuda" else arg for arg in args]
        return function(*args, **(kwargs or {}))
