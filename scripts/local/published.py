"""A folder laid out like the published `nvidia/prompt-task-and-complexity-classifier`, with random weights.

The tensor names, their shapes and the config's keys are the published ones; only the numbers are made up. Tests
thereby run the real loading code on a machine that can't reach the hub.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.decoders import Metaspace
from tokenizers.models import Unigram
from tokenizers.trainers import UnigramTrainer

# The order of the heads: head_0 is task_type. A file with sorted keys does not keep it.
TARGET_SIZES = {
    "task_type": 12,
    "creativity_scope": 3,
    "reasoning": 2,
    "contextual_knowledge": 2,
    "number_of_few_shots": 6,
    "domain_knowledge": 4,
    "no_label_reason": 1,
    "constraint_ct": 2,
}
TASK_TYPES = (
    "Brainstorming",
    "Chatbot",
    "Classification",
    "Closed QA",
    "Code Generation",
    "Extraction",
    "Open QA",
    "Other",
    "Rewrite",
    "Summarization",
    "Text Generation",
    "Unknown",
)
WEIGHTS_MAP = {
    "creativity_scope": [2, 1, 0],
    "reasoning": [0, 1],
    "contextual_knowledge": [0, 1],
    "number_of_few_shots": [0, 1, 2, 3, 4, 5],
    "domain_knowledge": [3, 1, 2, 0],
    "no_label_reason": [0],
    "constraint_ct": [1, 0],
}
DIVISOR_MAP = {
    "creativity_scope": 2,
    "reasoning": 1,
    "contextual_knowledge": 1,
    "number_of_few_shots": 1,
    "domain_knowledge": 3,
    "no_label_reason": 1,
    "constraint_ct": 1,
}
# DeBERTa-v3's first four; [MASK] stands behind the pieces, as a token added later.
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
ROLES = {
    "bos": "[CLS]",
    "cls": "[CLS]",
    "eos": "[SEP]",
    "mask": "[MASK]",
    "pad": "[PAD]",
    "sep": "[SEP]",
    "unk": "[UNK]",
}

PAGE = """\
Write a Python script that uses a for loop. Write a short story about a lighthouse keeper who finds a letter.
Summarize the following paragraph in two sentences: Antibiotics are a type of medication used to treat bacterial
infections. They work by either killing the bacteria or preventing them from reproducing, allowing the immune system
to fight off the infection. They are not effective against viral infections, and misuse leads to resistance.
Based on the text above, who signed the contract, and on which date? Extract every name and e-mail address as JSON.
What is the capital of Australia? Explain, step by step, why the sky is blue to a child of ten years.
Classify each review as positive, negative or neutral. Review: the battery lasts two days. Label: positive. Review: it
broke after a week. Label: negative. Review: it came in a box. Label:
Rewrite this e-mail so that it sounds friendlier, keep it under 100 words, and don't use the word "unfortunately".
Give me five ideas for a birthday party in the garden with a budget of 200 euros. Hi, how are you today?
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)  # what is the complexity of this?
SELECT name, COUNT(*) FROM orders WHERE created_at > '2024-01-01' GROUP BY name HAVING COUNT(*) > 3;
A train leaves at 9:15 and travels 180 km at 72 km/h; when does it arrive? Show your reasoning, then the answer.
"""


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    intermediate: int
    vocabulary: int | None  # None: as many rows as the tokenizer needs, rounded up
    positions: int = 512  # rel_embeddings: 2 x 256 position buckets


TINY = Size(hidden=64, layers=2, intermediate=128, vocabulary=None)
FULL = Size(hidden=768, layers=12, intermediate=3072, vocabulary=128100)


def write_published_checkpoint(folder: Path, *, tiny: bool = True, seed: int = 0, sorted_keys: bool = False) -> Path:
    """Writes the folder and returns it; full size (`tiny=False`) is 735 MB on disk and twice that in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    write_tokenizer(folder, tokenizer)
    size = TINY if tiny else FULL
    # The published embedding, too, has more rows (128,100) than the tokenizer has tokens (128,001).
    rows = size.vocabulary or math.ceil((tokenizer.get_vocab_size() + 1) / 64) * 64
    weights = random_weights(size, rows, np.random.default_rng(seed))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(published_config(), indent=2, sort_keys=sorted_keys) + "\n")
    return folder


def published_config() -> dict[str, Any]:
    """The published keys; the last four describe another network than this one and mislead AutoConfig."""
    return {
        "base_model": "microsoft/DeBERTa-v3-base",
        "model_type": "deberta-v2",
        "target_sizes": TARGET_SIZES,
        "task_type_map": {str(number): name for number, name in enumerate(TASK_TYPES)},
        "weights_map": WEIGHTS_MAP,
        "divisor_map": DIVISOR_MAP,
        "d_model": 2048,
        "n_layers": 24,
        "vocab_size": 50368,
        "max_seq_len": 2048,
    }


def tensor_shapes(size: Size, rows: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the file by its published name."""
    hidden = size.hidden
    yield "backbone.embeddings.word_embeddings.weight", (rows, hidden)
    yield from layer_norm("backbone.embeddings.LayerNorm", hidden)
    yield "backbone.encoder.rel_embeddings.weight", (size.positions, hidden)
    yield from layer_norm("backbone.encoder.LayerNorm", hidden)
    for number in range(size.layers):
        layer = f"backbone.encoder.layer.{number}"
        for projection in ("query_proj", "key_proj", "value_proj"):
            yield from linear(f"{layer}.attention.self.{projection}", hidden, hidden)
        yield from linear(f"{layer}.attention.output.dense", hidden, hidden)
        yield from layer_norm(f"{layer}.attention.output.LayerNorm", hidden)
        yield from linear(f"{layer}.intermediate.dense", size.intermediate, hidden)
        yield from linear(f"{layer}.output.dense", hidden, size.intermediate)
        yield from layer_norm(f"{layer}.output.LayerNorm", hidden)
    for number, outputs in enumerate(TARGET_SIZES.values()):
        yield from linear(f"head_{number}.fc", outputs, hidden)


def linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def layer_norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def random_weights(size: Size, rows: int, generator: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    return {name: random_tensor(name, shape, generator) for name, shape in tensor_shapes(size, rows)}


def random_tensor(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    """Heads so wide that prompts differ clearly (logits within about 5); the rest small, layer norms near identity."""
    scale = 4 * shape[-1] ** -0.5 if name.startswith("head_") else 0.02
    tensor = generator.standard_normal(shape, dtype=np.float32)
    tensor *= np.float32(scale)
    if name.endswith("LayerNorm.weight"):
        tensor += np.float32(1)
    return tensor


def train_tokenizer() -> Tokenizer:
    """A small tokenizer of DeBERTa-v3's kind: Unigram over metaspaces, [CLS] and [SEP] around the text."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = Metaspace()
    trainer = UnigramTrainer(
        vocab_size=400, special_tokens=list(SPECIAL_TOKENS), unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(PAGE.splitlines(), trainer)
    tokenizer.model = in_fixed_order(tokenizer)
    tokenizer.add_special_tokens([AddedToken("[MASK]", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    return tokenizer


def in_fixed_order(tokenizer: Tokenizer) -> Unigram:
    """The trained pieces, likeliest first: the trainer orders pieces of equal score differently in each process."""
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    special, pieces = vocabulary[: len(SPECIAL_TOKENS)], vocabulary[len(SPECIAL_TOKENS) :]
    pieces = sorted(((piece, round(score, 3)) for piece, score in pieces), key=lambda pair: (-pair[1], pair[0]))
    return Unigram([tuple(pair) for pair in special] + pieces, unk_id=SPECIAL_TOKENS.index("[UNK]"))


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {f"{role}_token": token for role, token in ROLES.items()}
    write_json(folder / "special_tokens_map.json", roles)
    write_json(folder / "added_tokens.json", {"[MASK]": tokenizer.token_to_id("[MASK]")})
    write_json(
        folder / "tokenizer_config.json",
        roles
        | {
            "clean_up_tokenization_spaces": False,
            "do_lower_case": False,
            "model_max_length": 1000000000000000019884624838656,
            "sp_model_kwargs": {},
            "split_by_punct": False,
            "tokenizer_class": "DebertaV2Tokenizer",
            "vocab_type": "spm",
        },
    )


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
