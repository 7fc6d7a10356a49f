"""Triton's side of `classifiers.decision.decide_complexity`."""

import json
import os

import numpy as np
import triton_python_backend_utils as pb_utils

from classifiers.checkpoint import checkpoint_folder, load_checkpoint
from classifiers.decision import decide_complexity, one_hot


class TritonPythonModel:
    def initialize(self, args):
        self.checkpoint = load_checkpoint(checkpoint_folder(os.environ))
        self.labels = np.array([label.encode() for label in self.checkpoint.complexity_labels], dtype=object)
        parameters = json.loads(args["model_config"])["parameters"]
        self.few_shot_scale = float(parameters["few_shot_scale"]["string_value"])

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, "logits").as_numpy() for request in requests]
        decision = decide_complexity(np.concatenate(rows), self.checkpoint, self.few_shot_scale)
        outputs = {
            "OUTPUT": one_hot(decision.index, len(self.labels)),
            "complexity_label": self.labels[decision.index, np.newaxis],
            "complexity_scores": decision.scores,
            "prompt_complexity_score": decision.prompt_complexity_score[:, np.newaxis],
        }
        responses, start = [], 0
        for request, row in zip(requests, rows, strict=True):
            own = slice(start, start := start + len(row))
            wanted = request.requested_output_names()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name][own]) for name in wanted]))
        return responses
