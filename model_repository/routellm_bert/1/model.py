"""Triton's side of `classifiers.routellm.bert`."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils

from classifiers.routellm.bert import load_bert
from classifiers.routellm.folder import folder_from


class TritonPythonModel:
    def initialize(self, args):
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        self.router = load_bert(folder_from(os.environ, "ROUTELLM_BERT_CHECKPOINT"), device)
        name, digest = self.router.name.split(":")
        self.checkpoint = f"{name}:{args['model_version']}:{digest}".encode()

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[:, 0] for request in requests]
        scores = self.router.score(np.concatenate(rows))
        outputs = {
            "strong_win_rate": scores.strong_win_rate[:, np.newaxis],
            "tokens": scores.tokens,
            "checkpoint": np.full((len(scores.tokens), 1), self.checkpoint, dtype=object),
        }
        responses, start = [], 0
        for request, row in zip(requests, rows, strict=True):
            own = slice(start, start := start + len(row))
            wanted = request.requested_output_names()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name][own]) for name in wanted]))
        return responses
