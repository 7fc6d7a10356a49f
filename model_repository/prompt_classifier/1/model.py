"""Triton's side of `classifiers.network`."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils

from classifiers.checkpoint import checkpoint_digest, checkpoint_folder, load_checkpoint
from classifiers.network import load_network


class TritonPythonModel:
    def initialize(self, args):
        checkpoint = load_checkpoint(checkpoint_folder(os.environ))
        on_gpu = args["model_instance_kind"] == "GPU"
        self.network = load_network(checkpoint, f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")
        self.checkpoint = f"{checkpoint.name}:{args['model_version']}:{checkpoint_digest(checkpoint)}".encode()

    def execute(self, requests):
        responses = [None] * len(requests)
        batches = {}
        for index, request in enumerate(requests):
            input_ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()
            try:
                self.network.check_ids(input_ids)
                batches[index] = input_ids
            except ValueError as error:  # this request fails alone; the others share one forward pass
                responses[index] = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        for (index, input_ids), logits in zip(
            batches.items(), self.network.classify(list(batches.values())), strict=True
        ):
            names = np.full((len(input_ids), 1), self.checkpoint, dtype=object)
            responses[index] = pb_utils.InferenceResponse(
                [pb_utils.Tensor("logits", logits), pb_utils.Tensor("checkpoint", names)]
            )
        return responses
