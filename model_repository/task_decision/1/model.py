"""Triton's side of `classifiers.decision.decide_task`."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils

from classifiers.checkpoint import checkpoint_folder, load_checkpoint
from classifiers.decision import decide_task, one_hot


class TritonPythonModel:
    def initialize(self, args):
        self.checkpoint = load_checkpoint(checkpoint_folder(os.environ))
        self.labels = np.array([label.encode() for label in self.checkpoint.task_labels], dtype=object)

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, "logits").as_numpy() for request in requests]
        decision = decide_task(np.concatenate(rows), self.checkpoint)
        outputs = {
            "OUTPUT": one_hot(decision.index, len(self.labels)),
            "task_label": self.labels[decision.index, np.newaxis],
            "task_scores": decision.scores,
        }
        responses, start = [], 0
        for request, row in zip(requests, rows, strict=True):
            own = slice(start, start := start + len(row))
            wanted = request.requested_output_names()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name][own]) for name in wanted]))
        return responses
