"""`causal_llm`, held against RouteLLM's own class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from classifiers.checkpoint import CheckpointError
from classifiers.routellm.causal_llm import _TOKENS_AT_ONCE, CausalLLMRouter, _groups, load_causal_llm
from classifiers.routellm.causal_prompt import LABELS, CausalPrompts, load_label_tokenizer, read_template
from tests import oracle
from tests.classifiers.routellm.damage import Damage, cut, edit_json, remove, set_tensor, write
from tests.published_routellm import CLASSIFIER, PROMPTS, SYSTEM, write_causal_llm, write_llama_tokenizer

NEAR = 1e-5
# With it some prompts are answered with a label at once, some after one to five other tokens, and some not at all.
SEED = 3
BYTES = [prompt.encode() for prompt in PROMPTS]


@dataclass(frozen=True)
class Pair:
    """Our router and RouteLLM's, on the same files."""

    ours: CausalLLMRouter
    theirs: oracle.CausalLLM

    def expected(self, prompts: Sequence[str]) -> list[float]:
        return [self.theirs.calculate_strong_win_rate(prompt) for prompt in prompts]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def load_pair(folder: Path, tokenizer: Path, float32: bool = True) -> Pair:
    return Pair(
        load_causal_llm(folder, tokenizer_folder=tokenizer), oracle.CausalLLM(folder, tokenizer, float32=float32)
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Pair:
    return load_pair(write_causal_llm(tmp_path_factory.mktemp("causal_llm"), seed=SEED), tokenizer)


def first_label(tokenizer: Path) -> int:
    return int(Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size())


@pytest.fixture(scope="module")
def answers(pair: Pair) -> list[list[int] | None]:
    """RouteLLM's answer to each prompt."""
    return [pair.theirs.answer(prompt) for prompt in PROMPTS]


def test_parity(pair: Pair, tokenizer: Path, answers: list[list[int] | None]) -> None:
    """A batch gives each prompt the win rate that RouteLLM gives it alone, whichever token of its answer is the first
    label, and 1 where none is."""
    scores = pair.ours.score(BYTES)
    assert scores.strong_win_rate.dtype == np.float32 and scores.tokens.dtype == np.int32
    np.testing.assert_allclose(scores.strong_win_rate, pair.expected(PROMPTS), rtol=0, atol=NEAR)
    assert np.ptp(scores.strong_win_rate) > 0.5  # prompts differ, so that mixing them up would show
    assert (scores.tokens[:, 0] == scores.tokens[:, 1]).all()
    label = first_label(tokenizer)
    positions = [answer and next(place for place, token in enumerate(answer) if token >= label) for answer in answers]
    assert set(positions) == {0, 1, 2, 3, 4, 5, None}
    assert all(scores.strong_win_rate[index] == 1 for index, position in enumerate(positions) if position is None)


@pytest.mark.parametrize("several", [False, True])
def test_an_answer_can_end(
    pair: Pair, answers: list[list[int] | None], tmp_path: Path, tokenizer: Path, several: bool
) -> None:
    """An answer that ends before its label would have come has none: the rate is 1, here and in RouteLLM."""
    label = first_label(tokenizer)
    index, end = next((index, answer[0]) for index, answer in enumerate(answers) if answer and answer[0] < label)
    write_causal_llm(tmp_path, seed=SEED)
    edit_json("generation_config.json", eos_token_id=[0, end] if several else end)(tmp_path)
    ended = load_pair(tmp_path, tokenizer)
    assert pair.ours.score([BYTES[index]]).strong_win_rate[0] < 1
    assert ended.ours.score([BYTES[index]]).strong_win_rate[0] == 1
    assert ended.theirs.calculate_strong_win_rate(PROMPTS[index]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        write("system_ft_v5.txt", ""),
        write("classifier_ft_v5.txt", "{question}"),
        write("classifier_ft_v5.txt", " \n Rate {{this}}: {question} {{}}\n\n"),
        remove("generation_config.json"),
    ],
)
def test_parity_of_other_texts(tmp_path: Path, tokenizer: Path, damage: Damage) -> None:
    """The two texts are used as RouteLLM uses them, whatever white space and braces they have."""
    damage(write_causal_llm(tmp_path))
    other = load_pair(tmp_path, tokenizer)
    np.testing.assert_allclose(
        other.ours.score(BYTES[:10]).strong_win_rate, other.expected(PROMPTS[:10]), rtol=0, atol=NEAR
    )


def test_bfloat16(tmp_path: Path, tokenizer: Path) -> None:
    """A checkpoint in bfloat16, as published, is computed in it, and comes as near to RouteLLM as bfloat16 allows."""
    narrow = load_pair(write_causal_llm(tmp_path, label_scale=6, dtype=torch.bfloat16), tokenizer, float32=False)
    assert narrow.ours._network.dtype == torch.bfloat16
    # Of an answer that does not begin with a label, the first tokens may be as good as equal, and the rest another.
    label = first_label(tokenizer)
    chosen = [prompt for prompt in PROMPTS[:24] if (narrow.theirs.answer(prompt) or [0])[0] >= label]
    assert len(chosen) > 15
    found = narrow.ours.score([prompt.encode() for prompt in chosen]).strong_win_rate
    np.testing.assert_allclose(found, narrow.expected(chosen), rtol=0, atol=0.05)


@settings(deadline=None, max_examples=12)
@given(chosen=st.lists(st.sampled_from(range(len(PROMPTS))), min_size=1, max_size=8))
def test_neighbours_change_nothing(pair: Pair, chosen: list[int]) -> None:
    """A prompt's score is the same alone and beside any others, longer ones and undecided ones among them."""
    together = pair.ours.score([BYTES[index] for index in chosen])
    for index, rate, tokens in zip(chosen, together.strong_win_rate, together.tokens, strict=True):
        alone = pair.ours.score([BYTES[index]])
        assert alone.strong_win_rate[0] == pytest.approx(rate, abs=NEAR)
        assert alone.tokens[0].tolist() == tokens.tolist()


@given(lengths=st.lists(st.integers(1, 9000), max_size=64))
def test_groups(lengths: list[int]) -> None:
    """Each row is in one group, which is bounded, and no row is padded to more than twice its length."""
    groups = list(_groups(lengths))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert longest <= 2 * min(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= _TOKENS_AT_ONCE


def test_a_long_prompt_loses_its_middle(tmp_path: Path, tokenizer: Path) -> None:
    """A prompt beyond the network's positions keeps its head, its tail and the text around it; `tokens` says so."""
    write_causal_llm(tmp_path, positions=512)
    router = load_causal_llm(tmp_path, tokenizer_folder=tokenizer)
    head, tail = "head " * 300, " tail" * 300
    scores = router.score([f"{head}{middle}{tail}".encode() for middle in "xy"])
    # Five tokens of the answer have to fit behind it.
    assert scores.tokens[:, 0].tolist() == [507, 507] and (scores.tokens[:, 1] > 1500).all()
    assert scores.strong_win_rate[0] == scores.strong_win_rate[1]
    changed = router.score([f"X{head}{tail}".encode(), f"{head}{tail}X".encode()]).strong_win_rate
    assert (changed != scores.strong_win_rate[0]).all()


def test_what_is_read_of_a_long_prompt(tmp_path: Path, tokenizer: Path) -> None:
    """The template is whole, and the prompt's first and last tokens share the room it leaves."""
    write_causal_llm(tmp_path)
    labelled = load_label_tokenizer(tokenizer, first_label(tokenizer) + len(LABELS))
    prompts = CausalPrompts(read_template(tmp_path), labelled, max_tokens=400)
    (row,), ((read, whole),) = prompts.encode([b"a b c d " * 500])
    assert (read, len(row)) == (400, 400) and whole > 2000
    text = labelled.decode(row, skip_special_tokens=False)
    before, after = CLASSIFIER.split("{question}")
    assert text.startswith(
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM.strip()}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{before}a b c d "
    )
    assert text.endswith(f"a b c d {after.rstrip()}<|eot_id|>")


def test_any_bytes(pair: Pair) -> None:
    """Bytes that are not UTF-8 are read as U+FFFD; nothing raises. No prompts give no scores."""
    bad, good = pair.ours.score([b"caf\xe9 \xff\xfe", "caf\ufffd \ufffd\ufffd".encode()]).strong_win_rate
    assert bad == good
    nothing = pair.ours.score([])
    assert nothing.strong_win_rate.shape == (0,) and nothing.tokens.shape == (0, 2)


def test_the_checkpoints_own_tokenizer(pair: Pair, tmp_path: Path) -> None:
    """Without another folder the tokenizer is the checkpoint's own; it may have the labels already."""
    write_llama_tokenizer(write_causal_llm(tmp_path, seed=SEED))
    expected = pair.ours.score(BYTES[:5]).strong_win_rate
    assert np.array_equal(load_causal_llm(tmp_path).score(BYTES[:5]).strong_win_rate, expected)
    own = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    own.add_special_tokens(list(LABELS))
    own.save(str(tmp_path / "tokenizer.json"))
    assert np.array_equal(load_causal_llm(tmp_path).score(BYTES[:5]).strong_win_rate, expected)


def test_name(pair: Pair, tokenizer: Path, tmp_path: Path) -> None:
    """The name tells checkpoints apart: by their weights, and by the texts around a prompt."""
    write_causal_llm(tmp_path, seed=SEED)
    assert load_causal_llm(tmp_path, tokenizer_folder=tokenizer).name == pair.ours.name
    assert pair.ours.name.startswith("causal_llm:") and len(pair.ours.name) == len("causal_llm:") + 12
    write("system_ft_v5.txt", "Another text.")(tmp_path)
    retold = load_causal_llm(tmp_path, tokenizer_folder=tokenizer).name
    other = load_causal_llm(write_causal_llm(tmp_path / "other", seed=1), tokenizer_folder=tokenizer).name
    assert len({pair.ours.name, retold, other}) == 3


SHARD = "model-00002-of-00003.safetensors"
LAST_SHARD = "model-00003-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("config.json"), "config.json is missing; scripts/fetch_models"),
        (remove("tokenizer.json"), "tokenizer.json is missing, .* ROUTELLM_CAUSAL_LLM_TOKENIZER"),
        (remove("system_ft_v5.txt"), "system_ft_v5.txt is missing; scripts/fetch_models"),
        (remove("classifier_ft_v5.txt"), "classifier_ft_v5.txt is missing; scripts/fetch_models"),
        (remove(INDEX), "model.safetensors is missing; scripts/fetch_models"),
        (remove(SHARD), f"{SHARD} is missing; scripts/fetch_models"),
        (cut(SHARD, 5), f"{SHARD}: truncated, or no safetensors file"),
        (cut(SHARD, -4), f"{SHARD}: truncated, or no safetensors file"),
        (cut(INDEX, 100), f"{INDEX}: not JSON"),
        (write(INDEX, "[]"), f"{INDEX}: expected a JSON object"),
        (write(INDEX, "{}"), f"{INDEX}: 'weight_map' should name the file of each tensor"),
        (edit_json(INDEX, weight_map={"lm_head.weight": LAST_SHARD}), f"{INDEX}: tensors missing: model.embed_tokens"),
        (set_tensor(LAST_SHARD, "lm_head.weight", None), f"{LAST_SHARD}: tensors missing: lm_head.weight"),
        (
            set_tensor(LAST_SHARD, "lm_head.weight", torch.zeros(3, 64)),
            rf"{LAST_SHARD}: tensors wrong shape: lm_head.weight is \[3, 64\] and should be",
        ),
        (
            set_tensor(LAST_SHARD, "model.norm.weight", torch.full((64,), torch.inf)),
            f"{LAST_SHARD}: tensor model.norm.weight holds values that are not finite",
        ),
        (edit_json("config.json", model_type="mistral"), "'model_type' should be 'llama', and is 'mistral'"),
        (edit_json("config.json", num_hidden_layers=3), f"{INDEX}: tensors missing: model.layers.2."),
        (edit_json("config.json", max_position_embeddings=100), "no room for a prompt in the 95 tokens"),
        (edit_json("config.json", vocab_size=1000), "tokenizer.json: the labels get the ids"),
        (edit_json("config.json", vocab_size=100), "tokenizer.json: has token ids up to"),
        (write("tokenizer.json", "{}"), "tokenizer.json: not a tokenizer.json"),
        (write("classifier_ft_v5.txt", "no field"), "classifier_ft_v5.txt: should have the field {question}, once"),
        (write("classifier_ft_v5.txt", "{question} {answer}"), "classifier_ft_v5.txt: should have the field"),
        (write("classifier_ft_v5.txt", "{question!r}"), "classifier_ft_v5.txt: should have the field"),
        (write("classifier_ft_v5.txt", "{question"), "classifier_ft_v5.txt: expected '}'"),
    ],
)
def test_broken_checkpoints_are_refused(tmp_path: Path, damage: Damage, said: str) -> None:
    """A file that is missing, cut or wrong is refused at load, in one line that names it and what is wrong."""
    damage(write_llama_tokenizer(write_causal_llm(tmp_path)))
    with pytest.raises(CheckpointError, match=said) as error:
        load_causal_llm(tmp_path)
    assert "\n" not in str(error.value)


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    """A tokenizer as large as Llama 3's without its marks of a turn is refused."""
    write_llama_tokenizer(write_causal_llm(tmp_path))
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace("<|eot_id|>", "<|im_end|>"))
    with pytest.raises(CheckpointError, match="tokenizer.json: should have the token <|eot_id|>"):
        load_causal_llm(tmp_path)
