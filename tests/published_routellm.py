"""Folders laid out like RouteLLM's published checkpoints `bert` and `causal_llm`, tiny and with random weights.

File names, tensor names and the configs' keys are the published ones, in the older form that they were written in; only
sizes and numbers are made up, so that both our routers and RouteLLM's own classes load them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer

from scripts.local.published import PAGE, layer_norm, linear, write_json

Shapes = Iterator[tuple[str, tuple[int, ...]]]

HIDDEN, LAYERS, INTERMEDIATE, HEADS = 64, 2, 128, 4
LABELS = 5
# What people ask, and what else arrives: nothing, spaces, other scripts, marks of the tokenizers, braces, bytes.
PROMPTS = (
    "",
    " ",
    "Hi",
    "hello, who are you?\n",
    "What is the capital of Australia?",
    "Write a Python script that uses a for loop.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Solve for x: 3x + 7 = 22. Show every step.",
    "A train leaves at 9:15 and travels 180 km at 72 km/h; when does it arrive?",
    "  def f(x):\n      return {'a': x, **{}}\n\n  # what does {question} do here?",
    "SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 3;",
    "Prove that there are infinitely many primes, then prove it in another way.",
    "Translate into French: the meeting has been moved to Thursday.",
    "Übersetze bitte: „Ich hätte gern ein Stück Käsekuchen“ – auf Englisch.",
    "日本語で自己紹介を書いてください。",
    "Расскажи мне о Байкале в трёх предложениях.",
    "اكتب قصيدة قصيرة عن البحر",
    "🙂🙃 make this funnier 👩‍👩‍👧‍👦",
    "e\u0301 and é, \u200bzero\u200bwidth, \ufeffbom, \x00nul",
    "List five ideas for a birthday party.\t\tBudget: 200 euros.\r\nPlace: the garden.",
    "Rate it: [[5]] or [[1]]? <s></s><pad> <|eot_id|> <|end_of_text|>",
    "Extract every name and e-mail address as JSON: Ann <ann@example.org>, Bob <bob@example.org>.",
    "Classify each review as positive or negative. Review: it broke after a week. Label:",
    "Why?" * 40,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Explain, step by step, why the sky is blue to a child of ten years.",
    "1, 1, 2, 3, 5, 8, 13, ... what comes next, and why?",
    PAGE,
    "Summarize the following.\n\n" + PAGE + "\nOne sentence, please.",
    PAGE * 3,
)
SYSTEM = """\
You are asked to judge how well a smaller model would answer the question below, on a scale from 1 to 5.
1 means that its answer would be wrong or useless, 5 that it would be as good as an expert's.
"""
CLASSIFIER = "[Question]\n{question}\n\nPrediction:\n"

XLM_R_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
LLAMA_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# How Llama 3 cuts a text into words, before it cuts words into tokens.
LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_bert(folder: Path, *, seed: int = 0) -> Path:
    """Writes the folder of `bert`, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _xlm_r_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": True,
            "cls_token": "<s>",
            "eos_token": "</s>",
            "mask_token": "<mask>",
            "model_max_length": 512,
            "pad_token": "<pad>",
            "sep_token": "</s>",
            "tokenizer_class": "XLMRobertaTokenizer",
            "unk_token": "<unk>",
        },
    )
    rows = tokenizer.get_vocab_size()
    write_json(
        folder / "config.json",
        {
            "_name_or_path": "xlm-roberta-base",
            "architectures": ["XLMRobertaForSequenceClassification"],
            "attention_probs_dropout_prob": 0.1,
            "bos_token_id": 0,
            "classifier_dropout": None,
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": HIDDEN,
            "id2label": {str(number): f"LABEL_{number}" for number in range(3)},
            "initializer_range": 0.02,
            "intermediate_size": INTERMEDIATE,
            "label2id": {f"LABEL_{number}": number for number in range(3)},
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 514,
            "model_type": "xlm-roberta",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "output_past": True,
            "pad_token_id": 1,
            "position_embedding_type": "absolute",
            "problem_type": "single_label_classification",
            "torch_dtype": "float32",
            "transformers_version": "4.41.2",
            "type_vocab_size": 1,
            "use_cache": True,
            "vocab_size": rows,
        },
    )
    weights = random_weights(_bert_shapes(rows), seed)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_causal_llm(
    folder: Path,
    *,
    seed: int = 0,
    label_scale: float = 3.0,
    positions: int = 8192,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes the folder of `causal_llm`, and returns it. It has no tokenizer: `write_llama_tokenizer` writes that.

    The more `label_scale`, the oftener an answer begins with a label. Every value is one that bfloat16 has too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = llama_tokenizer().get_vocab_size() + LABELS
    write_json(
        folder / "config.json",
        {
            "_name_or_path": "meta-llama/Meta-Llama-3-8B",
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": rows - LABELS - 5,
            "eos_token_id": rows - LABELS - 4,
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "initializer_range": 0.02,
            "intermediate_size": INTERMEDIATE,
            "max_position_embeddings": positions,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": HEADS // 2,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": str(dtype).removeprefix("torch."),
            "transformers_version": "4.41.2",
            "use_cache": False,
            "vocab_size": rows,
        },
    )
    write_json(
        folder / "generation_config.json",
        {
            "_from_model_config": True,
            "bos_token_id": rows - LABELS - 5,
            "do_sample": True,
            "eos_token_id": rows - LABELS - 4,
            "max_length": 4096,
            "temperature": 0.6,
            "top_p": 0.9,
            "transformers_version": "4.41.2",
        },
    )
    (folder / "system_ft_v5.txt").write_text(SYSTEM)
    (folder / "classifier_ft_v5.txt").write_text(CLASSIFIER)
    weights = random_weights(_llama_shapes(rows), seed)
    weights["lm_head.weight"][-LABELS:] *= label_scale
    write_shards(folder, {name: tensor.bfloat16().to(dtype) for name, tensor in weights.items()})
    return folder


def write_shards(folder: Path, weights: Mapping[str, torch.Tensor], count: int = 3) -> None:
    """The weights in `count` files, and the index that says which tensor is where."""
    names = list(weights)
    parts = [names[number * len(names) // count : (number + 1) * len(names) // count] for number in range(count)]
    places: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{count:05}.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def write_llama_tokenizer(folder: Path) -> Path:
    """Writes the files of a tokenizer of Llama 3's kind, without the labels, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    llama_tokenizer().save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": "<|begin_of_text|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|end_of_text|>",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 1000000000000000019884624838656,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    return folder


def llama_tokenizer() -> Tokenizer:
    """Byte-level BPE, as small as it can be; <|begin_of_text|> before each text."""
    tokenizer = Tokenizer(BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = BpeTrainer(vocab_size=360, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(PAGE.splitlines(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in LLAMA_SPECIAL])
    tokenizer.decoder = decoders.ByteLevel()
    begin = LLAMA_SPECIAL[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{begin}:0 $A:0",
                pair=f"{begin}:0 $A:0 {begin}:1 $B:1",
                special_tokens=[(begin, tokenizer.token_to_id(begin))],
            ),
        ]
    )
    return tokenizer


def random_weights(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Matrices so wide that every layer changes what it reads, and prompts differ clearly; norms near identity."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes:
        tensor = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            tensor *= shape[-1] ** -0.5
        elif name.endswith("bias"):
            tensor *= 0.1
        else:
            tensor = 1 + 0.1 * tensor
        weights[name] = tensor
    return weights


def _xlm_r_tokenizer() -> Tokenizer:
    """A Unigram of the page's words and of single characters, with XLM-R's special tokens where XLM-R has them.

    Without XLM-R's table of normalised characters, which can't be made up.
    """
    counts = Counter(PAGE.split())
    pieces = [(f"▁{word}", math.log(count / counts.total())) for word, count in sorted(counts.items())]
    pieces += [(character, -10.0) for character in sorted({"▁", *PAGE} - {" ", "\n"})]
    special = [(token, 0.0) for token in XLM_R_SPECIAL]
    tokenizer = Tokenizer(Unigram([*special, *pieces], unk_id=XLM_R_SPECIAL.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in XLM_R_SPECIAL])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def _bert_shapes(rows: int) -> Shapes:
    embeddings = "roberta.embeddings"
    yield f"{embeddings}.word_embeddings.weight", (rows, HIDDEN)
    yield f"{embeddings}.position_embeddings.weight", (514, HIDDEN)
    yield f"{embeddings}.token_type_embeddings.weight", (1, HIDDEN)
    yield from layer_norm(f"{embeddings}.LayerNorm", HIDDEN)
    for number in range(LAYERS):
        layer = f"roberta.encoder.layer.{number}"
        for projection in ("query", "key", "value"):
            yield from linear(f"{layer}.attention.self.{projection}", HIDDEN, HIDDEN)
        yield from linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN)
        yield from layer_norm(f"{layer}.attention.output.LayerNorm", HIDDEN)
        yield from linear(f"{layer}.intermediate.dense", INTERMEDIATE, HIDDEN)
        yield from linear(f"{layer}.output.dense", HIDDEN, INTERMEDIATE)
        yield from layer_norm(f"{layer}.output.LayerNorm", HIDDEN)
    yield from linear("classifier.dense", HIDDEN, HIDDEN)
    yield from linear("classifier.out_proj", 3, HIDDEN)


def _llama_shapes(rows: int) -> Shapes:
    yield "model.embed_tokens.weight", (rows, HIDDEN)
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        for projection, outputs in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2), ("o", HIDDEN)):
            yield f"{layer}.self_attn.{projection}_proj.weight", (outputs, HIDDEN)
        yield f"{layer}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{layer}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{layer}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
        yield f"{layer}.input_layernorm.weight", (HIDDEN,)
        yield f"{layer}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (rows, HIDDEN)
