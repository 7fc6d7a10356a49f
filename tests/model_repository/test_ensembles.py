import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from classifiers.checkpoint import checkpoint_folder, load_checkpoint
from scripts.local.triton import ROOT, Triton

_SHAPES: dict[str, tuple[str, int]] = {
    "task_label": ("BYTES", 1),
    "task_scores": ("FP32", 12),
    "complexity_label": ("BYTES", 1),
    "complexity_scores": ("FP32", 7),
    "prompt_complexity_score": ("FP32", 1),
    "tokens": ("INT32", 2),
    "checkpoint": ("BYTES", 1),
    "strong_win_rate": ("FP32", 1),
    "routellm_checkpoint": ("BYTES", 1),
}
_PROMPTS = [
    "Write a Python function to sort a list",
    "hi",
    "Summarise this text in two sentences: " + "The ship left the harbour at dawn. " * 20,
    "What is the capital of France?",
    "",
    "Translate to French: good morning",
    "日本の首都はどこですか",
    "Give me five names for a cat",
    "Ignore the list. " + "item, " * 400 + "How many items were there?",
    "\x00 \n\t",
]
_SCORE_TOLERANCE = 2e-3  # Contract 1

Outputs = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def client(triton: Triton) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(triton.grpc_url) as client:
        yield client


def _ask(client: InferenceServerClient, model: str, prompts: list[str], outputs: list[str]) -> Outputs:
    rows = np.array([[prompt.encode()] for prompt in prompts], dtype=np.object_)
    tensor = InferInput("INPUT", list(rows.shape), "BYTES")
    tensor.set_data_from_numpy(rows)
    result = client.infer(model, [tensor], outputs=[InferRequestedOutput(name) for name in outputs])
    return {name: result.as_numpy(name) for name in outputs}


def _post(triton: Triton, model: str, prompts: list[str]) -> httpx2.Response:
    tensor = {"name": "INPUT", "datatype": "BYTES", "shape": [len(prompts), 1], "data": [[each] for each in prompts]}
    return httpx2.post(f"{triton.http_url}/v2/models/{model}/infer", json={"inputs": [tensor]}, timeout=60)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), f"a key stands twice in {pairs}"
    return dict(pairs)


@pytest.mark.parametrize("count", [1, 64])
def test_grpc_answers_with_every_tensor(client: InferenceServerClient, count: int) -> None:
    """N rows of mixed lengths in, N rows of every output of the contract out, scores finite and labels known."""
    prompts = [_PROMPTS[index % len(_PROMPTS)] for index in range(count)]
    outputs = _ask(client, "router_ensemble", prompts, list(_SHAPES))
    checkpoint = load_checkpoint(checkpoint_folder({}))
    for name, (_, width) in _SHAPES.items():
        assert outputs[name].shape == (count, width), name
    for row in range(count):
        assert outputs["task_label"][row, 0].decode() in checkpoint.task_labels
        assert outputs["complexity_label"][row, 0].decode() in checkpoint.complexity_labels
        read, present = outputs["tokens"][row]
        assert 0 < read <= min(present, checkpoint.max_tokens)
    assert np.isfinite(outputs["task_scores"]).all() and np.isfinite(outputs["complexity_scores"]).all()
    assert ((outputs["prompt_complexity_score"] >= 0) & (outputs["prompt_complexity_score"] <= 1)).all()
    name, version, digest = outputs["checkpoint"][0, 0].decode().split(":")
    assert (name, version, len(digest)) == (checkpoint.name, "1", 12)


@pytest.mark.parametrize("count", [1, 64])
def test_http_answers_with_every_tensor(triton: Triton, count: int) -> None:
    """The same over HTTP, with the contract's datatypes."""
    answer = _post(triton, "router_ensemble", [_PROMPTS[index % len(_PROMPTS)] for index in range(count)])
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    assert {name: (each["datatype"], each["shape"]) for name, each in outputs.items()} == {
        name: (datatype, [count, width]) for name, (datatype, width) in _SHAPES.items()
    }


@pytest.mark.parametrize(("model", "width"), [("task_router_ensemble", 12), ("complexity_router_ensemble", 7)])
def test_blueprint_controller_can_read_the_answer(triton: Triton, model: str, width: int) -> None:
    """The controller's own body gets one output, OUTPUT, one-hot, in JSON that names no key twice."""
    body = b'{"inputs":[{"name":"INPUT","datatype":"BYTES","shape":[1,1],"data":[["Write a poem about rain"]]}]}'
    answer = httpx2.post(f"{triton.http_url}/v2/models/{model}/infer", content=body, timeout=60)
    assert answer.status_code == 200, answer.text
    parsed = json.loads(answer.content, object_pairs_hook=_without_repeats)
    (output,) = parsed["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("OUTPUT", "FP32", [1, width])
    assert sorted(output["data"]) == [0.0] * (width - 1) + [1.0]


@pytest.mark.parametrize("kind", ["task", "complexity"])
def test_one_hot_agrees_with_the_label(client: InferenceServerClient, kind: str) -> None:
    """OUTPUT's index is the label's, in the checkpoint's order, and Triton's classification extension names it."""
    labels = getattr(load_checkpoint(checkpoint_folder({})), f"{kind}_labels")
    expected = [
        label.decode() for label in _ask(client, "router_ensemble", _PROMPTS, [f"{kind}_label"])[f"{kind}_label"][:, 0]
    ]
    one_hot = _ask(client, f"{kind}_router_ensemble", _PROMPTS, ["OUTPUT"])["OUTPUT"]
    assert [labels[index] for index in one_hot.argmax(axis=1)] == expected

    tensor = InferInput("INPUT", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[_PROMPTS[0].encode()]], dtype=np.object_))
    classes = client.infer(
        f"{kind}_router_ensemble", [tensor], outputs=[InferRequestedOutput("OUTPUT", class_count=1)]
    ).as_numpy("OUTPUT")
    assert classes.reshape(-1)[0].decode().split(":")[2] == expected[0]


@pytest.mark.parametrize("kind", ["task", "complexity"])
def test_label_files_follow_the_checkpoint(kind: str) -> None:
    """The label files that Triton reads hold the embedded checkpoint's labels in its order."""
    lines = (ROOT / "model_repository" / "prompt_classifier" / f"{kind}_labels.txt").read_text().splitlines()
    assert tuple(lines) == getattr(load_checkpoint(checkpoint_folder({})), f"{kind}_labels")


_NAMES = ["task_label", "task_scores", "complexity_label", "complexity_scores", "tokens"]


@settings(max_examples=20, deadline=None)
@given(
    prompt=st.sampled_from(_PROMPTS) | st.text(max_size=200),
    neighbours=st.lists(st.sampled_from(_PROMPTS) | st.text(max_size=400), max_size=6),
    place=st.integers(0, 6),
)
def test_answer_does_not_depend_on_neighbours(
    client: InferenceServerClient, prompt: str, neighbours: list[str], place: int
) -> None:
    """A prompt gets the same labels and scores alone and among others, wherever it stands."""
    prompt, *neighbours = (each.encode(errors="replace").decode() for each in (prompt, *neighbours))
    alone = _ask(client, "router_ensemble", [prompt], _NAMES)
    place = min(place, len(neighbours))
    together = _ask(client, "router_ensemble", [*neighbours[:place], prompt, *neighbours[place:]], _NAMES)
    _assert_same({name: alone[name][0] for name in _NAMES}, {name: together[name][place] for name in _NAMES})


def test_answer_does_not_depend_on_other_requests(client: InferenceServerClient) -> None:
    """Requests that Triton batches together get what each gets alone."""
    alone = {prompt: _ask(client, "router_ensemble", [prompt], _NAMES) for prompt in _PROMPTS}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda prompt: _ask(client, "router_ensemble", [prompt], _NAMES), _PROMPTS * 6))
    for prompt, answer in zip(_PROMPTS * 6, answers, strict=True):
        _assert_same({name: alone[prompt][name][0] for name in _NAMES}, {name: answer[name][0] for name in _NAMES})


def _assert_same(one: Outputs, other: Outputs) -> None:
    assert (one["tokens"] == other["tokens"]).all()
    for kind in ("task", "complexity"):
        scores = one[f"{kind}_scores"]
        np.testing.assert_allclose(scores, other[f"{kind}_scores"], atol=_SCORE_TOLERANCE)
        top = np.sort(scores)[-2:]
        if top[1] - top[0] > _SCORE_TOLERANCE:
            assert one[f"{kind}_label"] == other[f"{kind}_label"]


def test_65_rows_are_refused(triton: Triton) -> None:
    """One row more than the batch holds is a clear 400, and the next request works."""
    answer = _post(triton, "router_ensemble", ["x"] * 65)
    assert answer.status_code == 400
    assert "batch-size must be <= 64" in answer.json()["error"]
    assert _post(triton, "router_ensemble", ["x"]).status_code == 200


def test_only_the_steps_that_are_needed_run(client: InferenceServerClient) -> None:
    """The network runs once when everything is asked, and not at all when only the win rate is."""

    def inferences(model: str) -> int:
        (statistics,) = client.get_inference_statistics(model).model_stats
        return int(statistics.inference_count)

    before = inferences("prompt_classifier")
    _ask(client, "router_ensemble", ["once"], list(_SHAPES))
    assert inferences("prompt_classifier") == before + 1
    before_router = inferences("routellm_mf")
    _ask(client, "router_ensemble", ["not at all"], ["task_label"])
    assert inferences("routellm_mf") == before_router
    before = inferences("prompt_classifier")
    _ask(client, "router_ensemble", ["not at all"], ["strong_win_rate"])
    assert inferences("prompt_classifier") == before


def test_long_prompts_are_cut_and_say_so(client: InferenceServerClient) -> None:
    """A prompt that is longer than the network reads reports both numbers, and its tail still counts."""
    filler = "The committee met on Tuesday and discussed the annual budget. " * 100
    prompts = [filler + "Write a poem about it.", filler + "Fix the bug in `def f(x): return x +`."]
    outputs = _ask(client, "router_ensemble", prompts, ["tokens", "task_scores"])
    for read, present in outputs["tokens"]:
        assert read == load_checkpoint(checkpoint_folder({})).max_tokens < present
    assert np.abs(outputs["task_scores"][0] - outputs["task_scores"][1]).max() > _SCORE_TOLERANCE


def test_each_request_gets_what_it_asked_for(client: InferenceServerClient) -> None:
    """Requests that are batched together and want different outputs each get theirs, those without a label too."""
    wanted = [["tokens"], ["task_label"], ["complexity_scores", "checkpoint"], ["task_one_hot", "complexity_one_hot"]]
    alone = [_ask(client, "prompt_classifier", ["Write a poem about rain"], names) for names in wanted]
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda names: _ask(client, "prompt_classifier", ["Write a poem about rain"], names), wanted * 8)
        )
    for expected, answer in zip(alone * 8, answers, strict=True):
        assert answer.keys() == expected.keys()
        for name, values in answer.items():
            if values.dtype == np.float32:
                np.testing.assert_allclose(values, expected[name], atol=_SCORE_TOLERANCE)
            else:
                assert (values == expected[name]).all()
