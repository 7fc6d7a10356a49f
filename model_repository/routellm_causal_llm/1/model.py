"""Triton's side of `classifiers.routellm.causal_llm`."""

from classifiers.threads import limit_threads

THREADS = limit_threads()  # first of all: torch reads the environment when it is imported

import os
from pathlib import Path

import triton_python_backend_utils as pb_utils

from classifiers.routellm.causal_llm import load_causal_llm
from classifiers.routellm.folder import folder_from
from classifiers.routellm.router import score_requests

VERSION = Path(__file__).parent


class TritonPythonModel:
    def initialize(self, args):
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        # The published checkpoint has no tokenizer of its own.
        tokenizer = os.environ.get("ROUTELLM_CAUSAL_LLM_TOKENIZER")
        folder = folder_from(os.environ, "ROUTELLM_CAUSAL_LLM_CHECKPOINT", VERSION)
        self.router = load_causal_llm(folder, device, Path(tokenizer) if tokenizer else None)
        name, digest = self.router.name.split(":")
        self.checkpoint = f"{name}:{args['model_version']}:{digest}".encode()

    def execute(self, requests):
        prompts = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[:, 0] for request in requests]
        wanted = [request.requested_output_names() for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])
            for outputs in score_requests(self.router, self.checkpoint, prompts, wanted)
        ]
