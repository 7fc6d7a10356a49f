"""Triton's side of `classifiers.routellm.mf`."""

from classifiers.threads import limit_threads

THREADS = limit_threads()  # first of all: torch reads the environment when it is imported

import os
from pathlib import Path

import triton_python_backend_utils as pb_utils

from classifiers.routellm.mf import load_mf, mf_folder
from classifiers.routellm.router import score_requests

VERSION = Path(__file__).parent


class TritonPythonModel:
    def initialize(self, args):
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        self.router = load_mf(mf_folder(os.environ, VERSION), device)
        name, _, digest = self.router.name.rpartition(":")
        self.checkpoint = f"{name}:{args['model_version']}:{digest}".encode()

    def execute(self, requests):
        prompts = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[:, 0] for request in requests]
        wanted = [request.requested_output_names() for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])
            for outputs in score_requests(self.router, self.checkpoint, prompts, wanted)
        ]
