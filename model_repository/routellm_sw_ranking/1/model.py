"""Triton's side of `classifiers.routellm.sw_ranking`."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils

from classifiers.routellm.embeddings import EmbeddingsEndpoint
from classifiers.routellm.folder import folder_from
from classifiers.routellm.sw_ranking import load_sw_ranking


class TritonPythonModel:
    def initialize(self, args):
        folder = folder_from(os.environ, "ROUTELLM_SW_RANKING_CHECKPOINT")
        endpoint = EmbeddingsEndpoint.from_environ(os.environ)
        self.router = load_sw_ranking(folder, endpoint.embed, endpoint.dimensions)
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
