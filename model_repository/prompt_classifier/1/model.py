"""Triton's side of `classifiers.prompt`."""

import json
import os

import triton_python_backend_utils as pb_utils

from classifiers.checkpoint import checkpoint_folder, load_checkpoint
from classifiers.precision import choose_precision
from classifiers.prompt import PromptClassification
from classifiers.threads import limit_threads


class TritonPythonModel:
    def initialize(self, args):
        threads = limit_threads()
        checkpoint = load_checkpoint(checkpoint_folder(os.environ))
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        precision = choose_precision(checkpoint.folder, device, os.environ)
        few_shot_scale = float(json.loads(args["model_config"])["parameters"]["few_shot_scale"]["string_value"])
        self.classification = PromptClassification(checkpoint, args["model_version"], device, precision, few_shot_scale)
        pb_utils.Logger.log_info(f"{checkpoint.name} on {device} in {precision}, {threads} threads")

    def execute(self, requests):
        prompts = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[:, 0] for request in requests]
        wanted = [request.requested_output_names() for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])
            for outputs in self.classification.answers(prompts, wanted)
        ]
