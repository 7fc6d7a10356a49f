"""scripts/add_policy, and what it makes on a real Triton: asked, routed by, pushed anew."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from classifiers.checkpoint import Head, checkpoint_digest, is_label, load_checkpoint
from classifiers.heads import HeadsClassification
from gateway.config import load_config
from scripts.adding import place
from scripts.adding.add import main
from scripts.adding.errors import AddError, PlaceError
from scripts.adding.models import classifier_files, model_files, read_labels, require_name
from scripts.adding.policy import Stanza, check_labels, with_policies
from scripts.adding.traced import read_labels as read_label_file
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import StartError, free_ports, wait_until
from scripts.local.triton import ROOT, Triton, own_models
from scripts.pushing.compare import compare, read_prompts
from scripts.pushing.golden import faults, read_golden
from scripts.pushing.push import main as push
from scripts.pushing.replica import Replica
from tests.conftest import DEFAULT_CONFIG, MODELS, running_gateway
from tests.own_checkpoint import THREE, edit_config, write_own
from tests.repository import copy_repository
from tests.toys import snapshot
from tests.traced import LABELS, blueprint_labels, classifier, trace, write_tokenizer

HEADS = {"intent": ("card lost", "yes", "größe: #7"), "urgent": ("no", "yes")}
PROMPTS = [
    "I lost my card",
    "hi",
    "What is the exchange rate for euros today, and when does it change?",
    "",
    "Top up failed! " * 30,
    "日本の首都はどこですか",
    "Why was I charged a fee?",
]


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a Triton, which would take its seconds."""
    monkeypatch.setitem(sys.modules, "pytriton", None)


@dataclass(frozen=True)
class Added:
    """Two policies that were added, and the Triton that serves them."""

    folder: Path
    triton: Triton
    replica: Replica

    @property
    def repository(self) -> Path:
        return self.folder / "models"

    @property
    def where(self) -> list[str]:
        return ["--local", str(self.repository), "--url", self.triton.grpc_url]


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Added]:
    """`own`, with two heads, and `moved`, a network of the blueprint's notebooks."""
    folder = tmp_path_factory.mktemp("added")
    shutil.copy(DEFAULT_CONFIG, folder / "config.yaml")
    rest = ["--repository", str(folder / "models"), "--config", str(folder / "config.yaml"), "--model", MODELS[0]]
    assert main(["own", "--checkpoint", str(write_own(folder / "own", HEADS)), *rest]) == 0
    write_tokenizer(folder / "tokenizer")
    trace(classifier(), folder / "model.pt")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    files = ["--torchscript", str(folder / "model.pt"), "--tokenizer", str(folder / "tokenizer")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pytriton", None)
        assert main(["moved", *files, "--labels", str(folder / "labels.txt"), *rest]) == 0
    names = [path.name for path in (folder / "models").glob("*_ensemble")]
    triton = Triton(free_ports(3), folder / "triton", folder / "models", names)
    replica = Replica("Triton", triton.grpc_url)
    try:
        triton.start()
        assert triton.process is not None
        wait_until(lambda: replica.is_live() and all(map(replica.served, names)), triton.process, 60)
        yield Added(folder, triton, replica)
    finally:
        replica.close()
        triton.stop()


def _ask(added: Added, model: str, prompts: Sequence[str], output: str) -> list[Any]:
    return [answer[output] for answer in added.replica.ask(model, prompts, 64)]


def test_answers_as_the_blueprint_s_pipeline(added: Added) -> None:
    """A TorchScript network of the notebooks' shape is served with the labels that the blueprint's three models give,
    one prompt at a time or in a mixed batch; prompts longer than it reads included."""
    prompts = [
        *PROMPTS,
        *(f"{number} cards were lost. " * 200 + "What is the exchange rate?" * 100 for number in range(4)),
    ]
    expected = blueprint_labels(classifier(), added.folder / "tokenizer", prompts, LABELS)
    together = _ask(added, "moved_classifier", prompts, "moved_label")
    alone = [_ask(added, "moved_classifier", [prompt], "moved_label")[0] for prompt in prompts]
    assert [label.item().decode() for label in together] == [label.item().decode() for label in alone] == expected
    scores = _ask(added, "moved_router_ensemble", prompts, "OUTPUT")
    assert [LABELS[row.argmax()] for row in scores] == expected
    np.testing.assert_allclose([row.sum() for row in scores], 1, atol=1e-5)


def test_one_output_for_the_blueprint_s_controller(added: Added) -> None:
    """The lines of tokens and checkpoint can be taken out of an ensemble's config, which then gives `OUTPUT` alone."""
    model = "alone_router_ensemble"
    folder = shutil.copytree(added.repository / "moved_router_ensemble", added.repository / model)
    lines = (folder / "config.pbtxt").read_text().replace("moved_router_ensemble", model).splitlines()
    kept = [line for line in lines if '"tokens"' not in line and '"checkpoint"' not in line]
    assert len(lines) - len(kept) == 4
    (folder / "config.pbtxt").write_text("\n".join(kept))
    added.replica.load(model)
    (answer,) = added.replica.ask(model, ["hi"], 64)
    assert list(answer) == ["OUTPUT"]
    np.testing.assert_allclose(answer["OUTPUT"], _ask(added, "moved_router_ensemble", ["hi"], "OUTPUT")[0], atol=1e-6)


def test_answers_as_the_checkpoint(added: Added) -> None:
    """Each head has an ensemble with its probabilities, and `tokens` says what was read of a long prompt."""
    classification = HeadsClassification(load_checkpoint(added.folder / "own"), "1")
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(64)]
    requests = [[prompt.encode() for prompt in prompts]]
    (outputs,) = classification.answers(requests, [["intent_scores", "urgent_scores", "tokens", "checkpoint"]])
    for head in HEADS:
        answers = added.replica.ask(f"own_{head}_router_ensemble", prompts, 64)
        np.testing.assert_allclose([row["OUTPUT"] for row in answers], outputs[f"{head}_scores"], atol=2e-3)
        assert [row["tokens"].tolist() for row in answers] == outputs["tokens"].tolist()
        assert {row["checkpoint"].item() for row in answers} == {outputs["checkpoint"][0, 0]}
    assert outputs["tokens"].max(axis=0).tolist() == [64, 92 + 30]


def test_too_many_rows(added: Added) -> None:
    """A request of 65 rows is a clear 400."""
    tensor = {"name": "INPUT", "datatype": "BYTES", "shape": [65, 1], "data": [["hi"]] * 65}
    url = f"{added.triton.http_url}/v2/models/own_intent_router_ensemble/infer"
    answer = httpx2.post(url, json={"inputs": [tensor]}, timeout=60)
    assert answer.status_code == 400 and "must be <= 64" in answer.json()["error"]


def test_gateway_routes_by_it(added: Added, dynamo: DemoDynamo, tmp_path: Path) -> None:
    """The configuration as it was written: a request that names the policy goes to the llm of its label."""
    config = tmp_path / "config.yaml"
    text = (added.folder / "config.yaml").read_text()
    config.write_text(text.replace("default_policy: task_router", "default_policy: moved_router"))
    expected = blueprint_labels(classifier(), added.folder / "tokenizer", PROMPTS[:3], LABELS)
    urls = {"DYNAMO_API_BASE": dynamo.url, "TRITON_GRPC_URL": added.triton.grpc_url}
    with running_gateway(config, tmp_path, True, (), None, **urls) as gateway:
        routed = [httpx2.post(f"{gateway.url}/v1/route", json={"model": "moved_router", "prompt": prompt}, timeout=60)
                  for prompt in PROMPTS[:3]]  # fmt: skip
        assert [answer.json()["label"] for answer in routed] == expected
        assert {answer.json()["checkpoint"].rsplit(":", 1)[0] for answer in routed} == {"moved:1"}
        body = {"model": "own_intent_router", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200 and answer.json()["model"] == MODELS[0]
    assert answer.headers["x-router-reason"] == "decided"
    assert answer.headers["x-router-policy"] == "own_intent_router"


def test_push_of_a_checkpoint_trained_anew(
    added: Added, tmp_path: Path, without_triton: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It becomes the next version beside what add_policy made, once golden prompts are answered; the ensemble is pushed
    like any model."""
    anew = write_own(tmp_path / "anew", HEADS, seed=1)
    (outputs,) = HeadsClassification(load_checkpoint(anew), "2").answers([[b"hi"]], [["intent_label", "intent_scores"]])
    expect = {
        "intent_label": outputs["intent_label"].item().decode(),
        "intent_scores": outputs["intent_scores"][0].tolist(),
    }
    golden = tmp_path / "golden.jsonl"
    golden.write_text(json.dumps({"prompt": "hi", "expect": expect}))
    arguments = [str(anew), "--model", "own_classifier", *added.where, "--json"]
    assert push([*arguments, "--golden", str(golden)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == 2 and report["golden"] == 1
    (checkpoint,) = _ask(added, "own_urgent_router_ensemble", ["hi"], "checkpoint")
    assert checkpoint.item().decode() == f"toy-intents:2:{checkpoint_digest(load_checkpoint(anew))}"

    ensemble = shutil.copytree(added.repository / "own_urgent_router_ensemble", tmp_path / "own_urgent_router_ensemble")
    assert push([str(ensemble), *added.where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 2


@pytest.mark.parametrize(
    ("heads", "complaint"),
    [
        (HEADS | {"urgent": ("yes", "no")}, "urgent: the same ones in another order"),
        (HEADS | {"urgent": ("no", "maybe")}, "urgent: new 'maybe', missing 'yes'"),
        ({"intent": HEADS["intent"]}, "its heads are intent, and on the volume intent, urgent"),
    ],
)
def test_push_of_other_labels(
    added: Added, tmp_path: Path, capsys: pytest.CaptureFixture[str], heads: dict[str, Any], complaint: str
) -> None:
    """A checkpoint whose heads or labels are not those on the volume is refused, with what differs."""
    before = snapshot(added.repository)
    assert push([str(write_own(tmp_path / "other", heads)), "--model", "own_classifier", *added.where]) == 1
    assert complaint in capsys.readouterr().err
    assert snapshot(added.repository) == before


def test_push_of_what_was_never_added(added: Added, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint alone makes no policy: its models come first."""
    assert push([str(write_own(tmp_path / "new", HEADS)), "--model", "new_classifier", *added.where]) == 1
    assert (
        "new_classifier is not on the volume: push the folders that scripts/add_policy makes" in capsys.readouterr().err
    )


# Labels in files.

_labels = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(is_label)


@settings(max_examples=30)
@given(st.lists(_labels, min_size=2, max_size=6, unique=True).filter(lambda labels: not check_labels(labels)))
@example(
    ["yes", "no", "1", "null", "~", "1e3", "0x1F", "2024-01-01", "- a", "? b", "a: b", "a #b", "#", "'", '"', "{", "&a"]
)
@example(
    [
        "a" * 200,
        "größe",
        "日本語",
        "\U0001f600",
        "{}",
        "a\\nb",
        "<<",
        "=",
        "!x",
        "%a",
        "@b",
        "`c",
        "|",
        ">",
        "---",
        "...",
    ]
)
def test_any_label_survives(labels: list[str]) -> None:
    """Every label that a checkpoint may have is read from the policy, and from Triton's label file, as it is."""
    stanza = Stanza("x_router", labels, "change-me")
    for before in (None, "policies:\n- {name: a}  # kept\n", "policies:\n    - name: a\nother: 1"):
        policy = yaml.safe_load(with_policies(before, [stanza]))["policies"][-1]
        assert [llm["name"] for llm in policy["llms"]] == labels and policy["fallback"] == labels[0]
    files = classifier_files("x_classifier", [Head("intent", len(labels), 1.0, tuple(labels))])
    assert read_labels(files) == {"intent": tuple(labels)}


_BASE = """\
# a head comment
policies:
  - name: a
    llms:
      - name: x
        model: m  # the last line's own
        # deeper: still a's

  # of what follows
gateway: {cache_entries: 0}  # a tail
"""


@pytest.mark.parametrize(
    "text",
    [
        _BASE,
        _BASE.replace("\n", "\r\n"),
        _BASE.split("\n\n")[0],
        "policies:\n- name: a\n- name: b",
        "policies:\n  - {name: a}\n",
    ],
)
def test_added_text_alone(text: str) -> None:
    """The file keeps every byte; the policy stands behind the others, on lines that end as theirs."""
    after = with_policies(text, [Stanza("b_router", ["yes", "no"], "m")])
    added = after
    for line in text.splitlines(keepends=True):
        assert line.rstrip("\r\n") in after
        added = added.replace(line, "", 1)
    assert len(after) - len(text) >= len(added.strip())
    assert yaml.safe_load(after)["policies"][-1]["name"] == "b_router"
    if "gateway" in text:
        assert after.index("still a's") < after.index("b_router") < after.index("# of what follows")
    assert ("\r\n" in after) == ("\r\n" in text) and after.count("\r\n") in (0, after.count("\n"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("policies: [{name: a}]\n", "stand in brackets"),
        ("policies: []\n", "holds no list of policies"),
        ("", "holds no list of policies"),
        ("policies:\n  - name: b_router\n", "policy 'b_router' is there already"),
        ("policies:\n  - name: [\n", "not valid YAML, line 3"),
        ("a: &p\n  - {name: a}\npolicies: *p\n", "add it by hand"),
    ],
)
def test_text_that_can_t_be_added_to(text: str, complaint: str) -> None:
    """It is refused, with a line that says why."""
    with pytest.raises(AddError, match=complaint):
        with_policies(text, [Stanza("b_router", ["yes", "no"], "m")])


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a\nb c\n", ["a", "b c"]),
        ('["a", "b"]', ["a", "b"]),
        ('{"model_type": "bert", "id2label": {"1": "b", "0": "a"}}', ["a", "b"]),
    ],
)
def test_forms_of_label_files(tmp_path: Path, text: str, labels: list[str]) -> None:
    """Labels are read in the order of the logits."""
    (tmp_path / "labels").write_text(text)
    assert read_label_file(tmp_path / "labels") == labels


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("a\n\nb \n", ["label 2 is ''", "label 3 is 'b '"]),
        ("a\na\n", ["'a' stands there twice"]),
        ("a\n", ["there are 1"]),
        ("[" * 100_000, ["not JSON"]),
        ("[1, 2]", ["label 1 is 1,", "label 2 is 2,"]),
        ("[", ["not JSON"]),
        ('{"label2id": {}}', ["expected one label a line"]),
        ('{"id2label": {"1": "a", "2": "b"}}', ["should number the labels from 0 on"]),
    ],
)
def test_wrong_label_files(tmp_path: Path, text: str, complaints: list[str]) -> None:
    """Every fault has a line."""
    (tmp_path / "labels").write_text(text)
    with pytest.raises(AddError) as caught:
        read_label_file(tmp_path / "labels")
    assert len(caught.value.faults) == len(complaints)
    assert all(complaint in fault for complaint, fault in zip(complaints, caught.value.faults, strict=True))


def test_labels_of_a_comparison(tmp_path: Path) -> None:
    """A file names the true labels by their heads, or by `label` where the model has one head."""
    (tmp_path / "prompts.jsonl").write_text('{"text": "a", "label": "x"}\n{"prompt": "b", "urgent": "no"}\n')
    rows = read_prompts(tmp_path / "prompts.jsonl")
    one = [{"intent_label": np.array([b"x"]), "intent_scores": np.array([0.5, 0.5])}] * 2
    two = [{"urgent_label": np.array([b"no"])} | each for each in one]
    assert compare(rows, one, one).heads["intent"].labelled == 1
    assert {head: shift.labelled for head, shift in compare(rows, two, two).heads.items()} == {"urgent": 1, "intent": 0}


@pytest.mark.parametrize(
    ("expected", "complaint"),
    [
        ([0.3, 0.7], None),
        ([0.7, 0.3], "x_scores[0] is 0.3 and should be 0.7"),
        ([0.3, 0.7, 0], "x_scores has 2 values, and the golden prompt 3"),
        (0.3, "x_scores has 2 values, and the golden prompt 1"),
    ],
)
def test_golden_scores(tmp_path: Path, expected: object, complaint: str | None) -> None:
    """A golden prompt says of scores what each of them should be."""
    (tmp_path / "golden.jsonl").write_text(json.dumps({"prompt": "a", "expect": {"x_scores": expected}}))
    golden = read_golden(tmp_path / "golden.jsonl", {"x_scores": 0})
    found = faults(golden, [{"x_scores": np.array([0.3, 0.7])}])
    assert [fault.removesuffix(" for 'a'") for fault in found][:1] == ([complaint] if complaint else [])


# Nothing, or all of it.


def _wrong_name(folder: Path) -> list[str]:
    return ["Intent", "--checkpoint", str(write_own(folder / "own"))]


def _our_name(folder: Path) -> list[str]:
    return ["task_router", "--checkpoint", str(write_own(folder / "own"))]


def _our_repository(folder: Path) -> list[str]:
    copy_repository(folder / "ours")
    return ["intent", "--checkpoint", str(write_own(folder / "own")), "--repository", str(folder / "ours")]


def _no_folder(folder: Path) -> list[str]:
    return ["intent", "--checkpoint", str(folder / "nothing")]


def _variable(folder: Path) -> list[str]:
    return ["intent", "--checkpoint", str(write_own(folder / "own", {"intent": ("${HOME}", "b")}))]


def _damaged(folder: Path) -> list[str]:
    edit_config(write_own(folder / "own"), max_tokens=4096)
    return ["intent", "--checkpoint", str(folder / "own")]


def _state_dict(folder: Path) -> list[str]:
    (folder / "model.pt").write_bytes(b"no program")
    (folder / "labels").write_text("a\nb\n")
    tokenizer = write_tokenizer(folder / "tokenizer")
    return [
        "intent",
        "--torchscript",
        str(folder / "model.pt"),
        "--tokenizer",
        str(tokenizer),
        "--labels",
        str(folder / "labels"),
    ]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (_wrong_name, "NAME should be of a-z, 0-9 and _"),
        (_our_name, "NAME 'task_router' is that of a model of this project"),
        (
            _our_repository,
            "ours holds complexity_router_ensemble, which is this project's own: name a folder for yours",
        ),
        (_no_folder, "nothing is no folder"),
        (_variable, "label '${HOME}' can't stand in a configuration"),
        (_damaged, "'max_tokens' is 4096, and the network reads 128"),
        (_state_dict, "model.pt: not a TorchScript file"),
    ],
)
def test_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], list[str]], complaint: str
) -> None:
    """What is wrong has a line, and neither repository nor configuration is written."""
    arguments = make(tmp_path)
    before = snapshot(tmp_path)
    where = ["--repository", str(tmp_path / "deep" / "models"), "--config", str(tmp_path / "config.yaml")]
    assert main([*where, *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_refused_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str], without_triton: None) -> None:
    """A configuration or snapshot that the gateway would refuse is named with its faults, and nothing is written."""
    own = write_own(tmp_path / "own")
    (own / "snapshot-intent.json").write_text("{}")
    text = "policies:\n  - name: a\n    url: http://here/v2/models/a/infer\n    llms: []\nsurprise: 1\n"
    (tmp_path / "config.yaml").write_text(text)
    before = snapshot(tmp_path)
    arguments = ["intent", "--checkpoint", str(tmp_path / "own"), "--repository", str(tmp_path / "models")]
    assert main([*arguments, "--config", str(tmp_path / "config.yaml")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(str(tmp_path / "config.yaml") in line for line in errors)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("tokens", ["2", "-5", "many"])
def test_too_few_tokens(tokens: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer than a token and the two special ones around it are refused before anything is read."""
    with pytest.raises(SystemExit):
        main(["intent", "--torchscript", "a", "--repository", "b", "--max-tokens", tokens])
    assert "expected a whole number from 3 on" in capsys.readouterr().err


def test_added_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], without_triton: None) -> None:
    """A new configuration passes the gateway's check, its calibration snapshot beside it; the same name again is
    refused, and push_models named."""
    own = write_own(tmp_path / "own")
    labels = {label: 1 / len(THREE["intent"]) for label in THREE["intent"]}
    shares = {"checkpoint": None, "rows": 30, "label": labels, "confidence": {}, "length": {}, "language": {"en": 1.0}}
    (own / "snapshot-intent.json").write_text(json.dumps(shares))
    arguments = ["intent", "--checkpoint", str(own), "--repository", str(tmp_path / "models")]
    assert main([*arguments, "--config", str(tmp_path / "config.yaml")]) == 0
    assert "change-me" in capsys.readouterr().out
    config = load_config(tmp_path / "config.yaml", {"DYNAMO_API_BASE": "http://dynamo"})
    assert list(config.policies["intent_router"].upstreams) == list(THREE["intent"]) and not config.warnings
    assert config.snapshots["intent_router"].rows == 30
    assert (tmp_path / "intent_router-snapshot.json").read_text() == (own / "snapshot-intent.json").read_text()
    assert set(snapshot(tmp_path / "models")) >= {"intent_classifier/1/checkpoint/model.safetensors"}
    assert not list((tmp_path / "models").glob(".*"))
    before = snapshot(tmp_path)
    assert main(arguments) == 2
    assert "push_models brings a new version of a checkpoint: DIR --model intent_classifier" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_all_or_nothing(tmp_path: Path) -> None:
    """When the configuration can't be written in the end, the models go away again, and so does what was made."""
    checkpoint = write_own(tmp_path / "own")
    made = model_files("intent", load_checkpoint(checkpoint).heads)
    before = snapshot(tmp_path)

    def fails() -> None:
        assert (tmp_path / "a" / "models" / "intent_router_ensemble" / "config.pbtxt").is_file()
        raise OSError(28, "No space left on device")

    repository = tmp_path / "a" / "models"
    with pytest.raises(PlaceError, match="No space left"), place.staging(repository) as stage:
        place.write_models(stage, "intent", made, checkpoint)
        place.put(stage, repository, made, fails)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["task", "complexity", "router", "prompt", "routellm_mf", "router_ensemble", "a-b", ""]
)
def test_names_that_are_taken(name: str) -> None:
    """This project's own names, and what is none, are refused."""
    with pytest.raises(AddError):
        require_name(name)


def test_models_that_serve_is_told_of(tmp_path: Path) -> None:
    """scripts/serve loads what policies name in --models; a policy whose model is nowhere is named."""
    for name in ("a_router_ensemble", "a_classifier", "unused"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text("")
    wanted = {"task_router": "task_router_ensemble", "a_router": "a_router_ensemble"}
    assert own_models(wanted, tmp_path) == ("a_router_ensemble",)
    assert own_models({"task_router": "task_router_ensemble"}, None) == ()
    with pytest.raises(StartError, match="policy 'b_router': there is no model 'b_router_ensemble'"):
        own_models(wanted | {"b_router": "b_router_ensemble"}, tmp_path)
    with pytest.raises(StartError, match="policy 'a_router': .* in a folder that --models names"):
        own_models(wanted, None)
    with pytest.raises(StartError, match="which is this project's own"):
        own_models(wanted, ROOT / "model_repository")
    with pytest.raises(StartError, match="nothing is no folder"):
        own_models(wanted, tmp_path / "nothing")
