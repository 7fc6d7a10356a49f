"""Triton's side of `classifiers.heads`; scripts/add_policy wrote this folder."""
# ruff: noqa: E402

from classifiers.threads import limit_threads

THREADS = limit_threads()  # first of all: torch reads the environment when it is imported

import os
from pathlib import Path

import triton_python_backend_utils as pb_utils

from classifiers.checkpoint import SHIPPED, load_checkpoint
from classifiers.heads import HeadsClassification
from classifiers.precision import choose_precision

VERSION = Path(__file__).parent


class TritonPythonModel:
    def initialize(self, args):
        checkpoint = load_checkpoint(VERSION / SHIPPED)
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        precision = choose_precision(checkpoint.folder, device, os.environ)
        self.classification = HeadsClassification(checkpoint, args["model_version"], device, precision)
        pb_utils.Logger.log_info(f"{checkpoint.name} ({checkpoint.kind}) on {device}, {THREADS} threads")

    def execute(self, requests):
        prompts = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[:, 0] for request in requests]
        wanted = [request.requested_output_names() for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])
            for outputs in self.classification.answers(prompts, wanted)
        ]
