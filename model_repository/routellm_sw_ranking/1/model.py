"""Triton's side of `classifiers.routellm.sw_ranking`."""

import os
from pathlib import Path

import triton_python_backend_utils as pb_utils

from classifiers.routellm.embeddings import EmbeddingsEndpoint
from classifiers.routellm.folder import folder_from
from classifiers.routellm.router import score_requests
from classifiers.routellm.sw_ranking import load_sw_ranking

VERSION = Path(__file__).parent


class TritonPythonModel:
    def initialize(self, args):
        folder = folder_from(os.environ, "ROUTELLM_SW_RANKING_CHECKPOINT", VERSION)
        endpoint = EmbeddingsEndpoint.from_environ(os.environ)
        self.router = load_sw_ranking(folder, endpoint.embed, endpoint.dimensions)
        name, digest = self.router.name.split(":")
        self.checkpoint = f"{name}:{args['model_version']}:{digest}".encode()

    def execute(self, requests):
        prompts = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[:, 0] for request in requests]
        wanted = [request.requested_output_names() for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])
            for outputs in score_requests(self.router, self.checkpoint, prompts, wanted)
        ]
