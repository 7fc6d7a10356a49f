"""For measuring only, never to be served: how NVIDIA's LLM Router blueprint v1 decides, frozen as a baseline.

The weights are those that the project serves, but each prompt goes through the library's own encoder alone, padded to
512 tokens, in float32. Nothing of `classifiers.network` is used here: that is what this is compared with.
"""

import json
import os

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, DebertaV2Config

from classifiers.checkpoint import checkpoint_folder, load_checkpoint, nvidia_sizes
from classifiers.decision import decide_complexity, decide_task, one_hot

PADDED_TO = 512  # what the blueprint pads to; also as many positions as the embedded encoder has
_DECIDE = {"task": decide_task, "complexity": decide_complexity}


class BlueprintRouter:
    """Triton's side: one policy's decision, prompt by prompt."""

    def initialize(self, args):
        self.checkpoint = load_checkpoint(checkpoint_folder(os.environ))
        self.decision = json.loads(args["model_config"])["parameters"]["decision"]["string_value"]
        labels = self.checkpoint.task_labels if self.decision == "task" else self.checkpoint.complexity_labels
        self.size = len(labels)
        self.tokenizer = Tokenizer.from_file(str(self.checkpoint.tokenizer_file))
        self.tokenizer.enable_truncation(self.checkpoint.max_tokens)
        self.tokenizer.enable_padding(length=PADDED_TO)
        load = _load_deberta if self.checkpoint.kind == "nvidia" else _load_bert
        self.encoder, self.heads = load(self.checkpoint)
        if args["model_instance_kind"] == "GPU":
            self.device = torch.device("cuda", int(args["model_instance_device_id"]))
        else:
            self.device = torch.device("cpu")
        self.encoder.to(self.device).eval()
        self.heads.to(self.device).eval()

    def execute(self, requests):
        responses = []
        for request in requests:
            prompts = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[:, 0]
            rows = np.concatenate([self._decide(prompt) for prompt in prompts])
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", rows)]))
        return responses

    def _decide(self, prompt):
        encoding = self.tokenizer.encode(prompt.decode("utf-8", errors="replace"))
        ids = torch.tensor([encoding.ids], device=self.device)
        mask = torch.tensor([encoding.attention_mask], device=self.device)
        with torch.no_grad():
            hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).float()
            logits = self.heads((hidden * weights).sum(1) / weights.sum(1)).cpu().numpy()
        return one_hot(_DECIDE[self.decision](logits, self.checkpoint).index, self.size)


def _load_deberta(checkpoint):
    """microsoft/deberta-v3-base's network with the published file's tensors."""
    sizes = nvidia_sizes(checkpoint)
    encoder = AutoModel.from_config(
        DebertaV2Config(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.hidden // 64,
            intermediate_size=sizes.intermediate,
            max_position_embeddings=512,
            relative_attention=True,
            position_buckets=sizes.positions // 2,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            layer_norm_eps=1e-7,
            type_vocab_size=0,
        )
    )
    tensors = load_file(checkpoint.weights_file)
    backbone = {name.removeprefix("backbone."): each for name, each in tensors.items() if name.startswith("backbone.")}
    encoder.load_state_dict(backbone)
    names = [f"head_{number}.fc" for number in range(len(checkpoint.heads))]
    return encoder, _heads(tensors, names)


def _load_bert(checkpoint):
    """The sentence encoder as its package has it, with the adapters added to its layers."""
    folder = checkpoint.encoder.folder
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, config=config, local_files_only=True, add_pooling_layer=False)
    tensors = load_file(checkpoint.weights_file)
    weights = encoder.state_dict()
    for name in tensors:
        if name.startswith("adapters.") and name.endswith(".down"):
            layer = name.removeprefix("adapters.").removesuffix(".down")
            weights[f"{layer}.weight"] += tensors[f"adapters.{layer}.up"].float() @ tensors[name].float()
    return encoder, _heads(tensors, [f"heads.{head.name}" for head in checkpoint.heads])


def _heads(tensors, names):
    """One linear layer with the rows of all heads, in their order."""
    weight = torch.cat([tensors[f"{name}.weight"] for name in names]).float()
    heads = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        heads.weight.copy_(weight)
        heads.bias.copy_(torch.cat([tensors[f"{name}.bias"] for name in names]).float())
    return heads
