"""Triton's side of `classifiers.tokenizer`."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils

from classifiers.checkpoint import checkpoint_folder, load_checkpoint
from classifiers.tokenizer import PromptTokenizer


class TritonPythonModel:
    def initialize(self, args):
        self.tokenizer = PromptTokenizer(load_checkpoint(checkpoint_folder(os.environ)))

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[:, 0] for request in requests]
        input_ids, tokens = self.tokenizer.encode(np.concatenate(rows))
        responses, start = [], 0
        for row in rows:
            own = slice(start, start := start + len(row))
            longest = tokens[own, 0].max()  # of this request alone: its neighbours must not lengthen it
            responses.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor("input_ids", np.ascontiguousarray(input_ids[own, :longest])),
                        pb_utils.Tensor("tokens", tokens[own]),
                    ]
                )
            )
        return responses
