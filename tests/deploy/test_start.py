"""deploy/triton/start: which models of a repository Triton is told to load, and what is said of the others."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from classifiers.checkpoint import Head
from gateway.observe.traces import fault_of, is_asked_for
from scripts.adding.models import model_files
from scripts.local.process import Process, free_ports, wait_until
from scripts.local.traces import trace_options, trace_variables
from scripts.local.triton import ENSEMBLES, ROOT, Triton, find_server, infer
from tests.processes import commands
from tests.repository import copy_repository

START = ROOT / "deploy" / "triton" / "start"
MODEL_PY = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.full((1, 1), {value}, dtype=np.float32))])
            for _ in requests
        ]
"""
CLASSIFIER_PY = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        rows = [len(pb_utils.get_input_tensor_by_name(each, "INPUT").as_numpy()) for each in requests]
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("intent_scores", np.tile(np.float32([0.75, 0.25]), (count, 1))),
                pb_utils.Tensor("intent_label", np.full((count, 1), b"yes", dtype=object)),
                pb_utils.Tensor("tokens", np.full((count, 2), 3, dtype=np.int32)),
                pb_utils.Tensor("checkpoint", np.full((count, 1), b"own:1:abc", dtype=object)),
            ])
            for count in rows
        ]
"""


def write_model(repository: Path, name: str, config: str, files: dict[str, str] | None = None) -> None:
    """`files` by their names in version 1."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(f'name: "{name}"\nmax_batch_size: 8\n{config}')
    for file, text in (files or {}).items():
        (repository / name / "1" / file).write_text(text)


def tensors(source: str, given: str) -> str:
    return f"""
input [{{ name: "{source}" data_type: {given} dims: [ 1 ] }}]
output [{{ name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] }}]
"""


def write_ensemble(repository: Path, name: str, *parts: str) -> None:
    """One that hands the prompt to its first part and each part's output to the next."""
    steps = []
    for number, part in enumerate(parts):
        source, given = ("INPUT", "INPUT") if number == 0 else ("VALUE", f"step_{number - 1}")
        result = "OUTPUT" if number == len(parts) - 1 else f"step_{number}"
        steps.append(f"""{{
            model_name: "{part}" model_version: -1
            input_map {{ key: "{source}" value: "{given}" }} output_map {{ key: "OUTPUT" value: "{result}" }}
        }}""")
    scheduling = f"ensemble_scheduling {{ step [ {', '.join(steps)} ] }}"
    write_model(repository, name, f'platform: "ensemble"\n{tensors("INPUT", "TYPE_STRING")}{scheduling}')


def write_blueprint(repository: Path) -> None:
    """Shaped as the blueprint's volume is: Python before and after a network, which is Python for one of the two."""
    for policy in ("task", "complexity"):
        parts = [f"preprocessing_{policy}_router", f"{policy}_router", f"postprocessing_{policy}_router"]
        python = f'backend: "python"\n{tensors("INPUT", "TYPE_STRING")}'
        write_model(repository, parts[0], python, {"model.py": MODEL_PY.format(value=1)})
        if policy == "task":
            torchscript = f'platform: "pytorch_libtorch"\n{tensors("VALUE", "TYPE_FP32")}'
            write_model(repository, parts[1], torchscript, {"model.pt": "TorchScript"})
        else:
            python = f'backend: "python"\n{tensors("VALUE", "TYPE_FP32")}'
            write_model(repository, parts[1], python, {"model.py": MODEL_PY.format(value=2)})
        python = f'backend: "python"  # "torch" {{ \n{tensors("VALUE", "TYPE_FP32")}'
        write_model(repository, parts[2], python, {"model.py": MODEL_PY.format(value=3)})
        write_ensemble(repository, f"{policy}_router_ensemble", *parts)


class Started:
    """What `start` said, and the arguments that it gave to a tritonserver that only prints them."""

    def __init__(self, folder: Path, repository: Path, backends: tuple[str, ...] = ("python",), **environ: str) -> None:
        server = folder / "tritonserver" / "bin" / "tritonserver"
        server.parent.mkdir(parents=True)
        server.write_text('#!/bin/sh\nprintf "argument %s\\n" "$@"\n')
        server.chmod(0o755)
        for backend in backends:
            (folder / "tritonserver" / "backends" / backend).mkdir(parents=True)
        environment = os.environ | {
            "PATH": f"{server.parent}:{os.environ['PATH']}",
            "MODEL_REPOSITORY": str(repository),
            "MODEL_CONTROL_FILE": str(folder / "model-control"),
        }
        done = subprocess.run(
            [START, "--http-port=1"], env=environment | environ, capture_output=True, text=True, timeout=60
        )
        self.exit_code = done.returncode
        self.errors = done.stderr
        lines = done.stdout.splitlines()
        self.said = [line.removeprefix("start: ") for line in lines if line.startswith("start: ")]
        self.arguments = [line.removeprefix("argument ") for line in lines if line.startswith("argument ")]

    @property
    def loaded(self) -> list[str]:
        return [option.removeprefix("--load-model=") for option in self.arguments if option.startswith("--load-model=")]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


def test_the_projects_own_repository(tmp_path: Path) -> None:
    """The ensembles of scripts/serve are loaded; RouteLLM's routers without weights are named with their variable."""
    started = Started(tmp_path, ROOT / "model_repository")
    assert sorted(started.loaded) == sorted(ENSEMBLES)
    assert started.arguments[0] == f"--model-repository={ROOT / 'model_repository'}"
    assert started.arguments[-1] == "--http-port=1"
    for name, variable in {"bert": "BERT", "causal_llm": "CAUSAL_LLM", "sw_ranking": "SW_RANKING"}.items():
        assert any(
            line.startswith(f"routellm_{name} is not served: it has no weights")
            and line.endswith(f"ROUTELLM_{variable}_CHECKPOINT")
            for line in started.said
        )
    assert len(started.said) == 4


BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}
URL = "opentelemetry,url=http://collector:4318/v1/traces"
NAME = "opentelemetry,resource=service.name=triton"


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, None),
        (BASE, [URL, NAME]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " HTTP://collector:4318 "}, [URL.replace("http", "HTTP"), NAME]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, None),
        (
            BASE | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/traces\t"},
            ["opentelemetry,url=https://c/traces", NAME],
        ),
        (BASE | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": " "}, [URL, NAME]),
        (BASE | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector:4318"}, None),
        (BASE | {"OTEL_SDK_DISABLED": " TRUE "}, None),
        (BASE | {"OTEL_SDK_DISABLED": "false"}, [URL, NAME]),
        (BASE | {"OTEL_TRACES_EXPORTER": "None "}, None),
        (BASE | {"OTEL_TRACES_EXPORTER": "zipkin"}, None),
        (BASE | {"OTEL_TRACES_EXPORTER": " OTLP"}, [URL, NAME]),
        (BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None),
        (
            BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "HTTP/protobuf "},
            [URL, NAME],
        ),
        (BASE | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, None),
        (BASE | {"OTEL_SERVICE_NAME": "own"}, [URL, NAME.replace("triton", "own")]),
        (BASE | {"OTEL_SERVICE_NAME": " "}, [URL, NAME]),
        (BASE | {"OTEL_BSP_SCHEDULE_DELAY": "200 "}, [URL, NAME, "opentelemetry,bsp_schedule_delay=200"]),
        (BASE | {"OTEL_BSP_SCHEDULE_DELAY": "soon"}, [URL, NAME]),
    ],
)
def test_traces_go_where_opentelemetrys_variables_say(
    environ: dict[str, str], settings: list[str] | None, tmp_path: Path
) -> None:
    """From the image and from scripts/serve; nowhere when the gateway has no traces by the same variables. A delay that
    Triton would not start with is not handed on."""
    first = ["mode=opentelemetry", "rate=0", "level=TIMESTAMPS"]
    expected = [f"--trace-config={setting}" for setting in first + settings] if settings else []
    repository = tmp_path / "repository"
    write_model(repository, "one", f'backend: "python"\n{tensors("INPUT", "TYPE_STRING")}')
    started = Started(tmp_path, repository, ("python",), **environ)
    assert [option for option in started.arguments if "trace-config" in option] == expected
    assert list(trace_options(environ)) == expected
    assert (is_asked_for(environ) and fault_of(environ) is None) == bool(expected) == bool(trace_variables(environ))


def test_routellm_routers_with_weights_are_loaded(tmp_path: Path) -> None:
    """Weights are where the variable says or in the highest version's folder, and in no lower one's."""
    repository = tmp_path / "repository"
    shutil.copytree(ROOT / "model_repository", repository)
    (repository / "routellm_causal_llm" / "10" / "checkpoint").mkdir(parents=True)
    (repository / "routellm_sw_ranking" / "1" / "checkpoint").mkdir()
    (repository / "routellm_sw_ranking" / "2").mkdir()
    started = Started(tmp_path, repository, ROUTELLM_BERT_CHECKPOINT="/models/bert")
    assert sorted(started.loaded) == sorted([*ENSEMBLES, "routellm_bert", "routellm_causal_llm"])


def test_what_add_policy_made_is_loaded(repository: Path, tmp_path: Path) -> None:
    """The ensemble of each head, which brings its classifier along; a TorchScript network needs no pytorch backend."""
    heads = [Head(name, 2, 1.0, ("yes", "no")) for name in ("intent", "urgent")]
    for model, files in model_files("own", heads).items():
        (repository / model / "1").mkdir(parents=True)
        for path, text in files.items():
            (repository / model / path).write_text(text)
    started = Started(tmp_path, repository)
    assert started.loaded == ["own_intent_router_ensemble", "own_urgent_router_ensemble"]
    assert started.said == [f"loading {', '.join(started.loaded)}"]


def test_torchscript_without_its_backend_is_named_and_the_others_go_on(repository: Path, tmp_path: Path) -> None:
    """The network, the ensemble around it and its other parts each get a line; the way over is said once."""
    write_blueprint(repository)
    started = Started(tmp_path, repository)
    assert started.loaded == ["complexity_router_ensemble"]
    assert started.said[:4] == [
        "postprocessing_task_router is not served: it is a part of ensembles that are not",
        "preprocessing_task_router is not served: it is a part of ensembles that are not",
        "task_router is not served: it is TorchScript, and this Triton has no pytorch backend",
        "task_router_ensemble is not served: its part task_router can't be served",
    ]
    assert "scripts/add_policy --torchscript" in started.said[4]
    assert started.said[5:] == ["loading complexity_router_ensemble"]


def test_torchscript_is_loaded_where_its_backend_is(repository: Path, tmp_path: Path) -> None:
    """As in NVIDIA's image."""
    write_blueprint(repository)
    started = Started(tmp_path, repository, ("python", "pytorch"))
    assert started.said == ["loading complexity_router_ensemble, task_router_ensemble"]


def test_models_that_triton_would_refuse_are_named(repository: Path, tmp_path: Path) -> None:
    """A line each, whatever is wrong with the folder; what is no model is passed over."""
    python = 'backend: "python"\n'
    write_model(repository, "good", python)
    write_model(repository, "no_backend", "")
    write_model(repository, "onnx", 'platform: "onnxruntime_onnx"')
    write_model(repository, "no_version", python)
    (repository / "no_version" / "1").rmdir()
    write_model(repository, "no_config", python)
    (repository / "no_config" / "config.pbtxt").unlink()
    write_model(repository, "renamed_by_hand", python)
    (repository / "renamed_by_hand").rename(repository / "renamed")
    write_ensemble(repository, "of_what_is_not_there", "good", "not_there")
    write_ensemble(repository, "of_itself", "of_itself_too")
    write_ensemble(repository, "of_itself_too", "of_itself")
    write_ensemble(repository, "of_an_ensemble", "of_what_is_not_there")
    for folder in (".staging", "lost+found"):
        (repository / folder).mkdir()
    (repository / "README").write_text("a file")
    write_model(repository, "unreadable", python)
    (repository / "unreadable" / "config.pbtxt").unlink()
    (repository / "unreadable" / "config.pbtxt").symlink_to("config.pbtxt")
    started = Started(tmp_path, repository)
    assert started.loaded == []
    assert started.exit_code == 1
    assert started.errors == f"start: {repository} holds no model that can be served\n"
    assert started.said == [
        "good is not served: it is a part of ensembles that are not",
        "no_backend is not served: its config.pbtxt names no backend that is known",
        "no_config is not served: it has no config.pbtxt",
        "no_version is not served: it has no version folder",
        "of_an_ensemble is not served: its part of_what_is_not_there can't be served",
        "of_itself is not served: its part of_itself_too can't be served",
        "of_itself_too is not served: its part of_itself can't be served",
        "of_what_is_not_there is not served: its part not_there is missing",
        "onnx is not served: this Triton has no onnxruntime backend (it has python)",
        "renamed is not served: its config.pbtxt is that of renamed_by_hand",
        "unreadable is not served: it cannot be read: Too many levels of symbolic links",
        "nothing can be loaded",
    ]


def test_a_model_of_no_ensemble_is_loaded_by_itself(repository: Path, tmp_path: Path) -> None:
    """And a look at the hub is mentioned where looking is switched off; quotes and comments are read as Triton does."""
    hub = "AutoTokenizer.from_pretrained('owner/name')"
    write_model(repository, "alone", "backend: 'python' # platform: \"ensemble\" }", {"model.py": hub})
    started = Started(tmp_path, repository, HF_HUB_OFFLINE="1")
    assert started.loaded == ["alone"]
    assert "alone reads from the Hugging Face hub" in started.said[0]
    (tmp_path / "online").mkdir()
    assert Started(tmp_path / "online", repository, HF_HUB_OFFLINE="0").said == ["loading alone"]


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="there is a GPU here")
def test_a_model_that_wants_a_gpu_is_mentioned_where_there_is_none(repository: Path, tmp_path: Path) -> None:
    """It is loaded nevertheless: Triton has the last word. A comment asks for nothing."""
    write_model(repository, "fast", 'backend: "python"\ninstance_group [ { kind: KIND_GPU } ]')
    write_model(repository, "slow", 'backend: "python"  # no KIND_GPU')
    started = Started(tmp_path, repository)
    assert started.loaded == ["fast", "slow"]
    assert started.said[:-1] == ["fast asks for a GPU (KIND_GPU), and none is seen here: without one it can't load"]


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    """Exit 1 and a line with the path."""
    started = Started(tmp_path, tmp_path / "nowhere")
    assert (started.exit_code, started.arguments) == (1, [])
    assert started.errors == f"start: cannot read {tmp_path / 'nowhere'}: No such file or directory\n"


@contextmanager
def served(folder: Path, repository: Path, model: str) -> Iterator[str]:
    """The real Triton under `start`, as soon as `model` answers: its HTTP address."""
    server, backends, libraries = find_server(folder)
    port = free_ports(3)
    options = [f"--backend-directory={backends}"]
    for number, protocol in enumerate(("http", "grpc", "metrics")):
        options += [f"--{protocol}-port={port + number}", f"--{protocol}-address=127.0.0.1"]
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{server.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "MODEL_REPOSITORY": str(repository),
        "HF_HUB_OFFLINE": "1",
        "MODEL_CONTROL_FILE": str(folder / "model-control"),
    }
    process = Process("start", [str(START), *options], environ, folder / "start.log")
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answer(url, model) is not None, process, 120)
        yield url
    finally:
        process.stop(grace=30)


def answer(url: str, model: str) -> list[float] | None:
    """The values of a model's only output, or None when it does not answer."""
    row = {"name": "INPUT", "datatype": "BYTES", "shape": [1, 1], "data": ["ping"]}
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", json.dumps({"inputs": [row]}).encode())
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
            values: list[float] = json.load(response)["outputs"][0]["data"]
            return values
    except OSError:
        return None


def test_the_real_triton_serves_the_projects_repository(tmp_path: Path) -> None:
    """Every ensemble answers, the server is ready although some models have no weights, and only who knows its token
    may load models: a request may bring the code of one. Each classifier of a policy has to answer, and so has what
    others made once it answered in scripts/serve."""
    repository = copy_repository(tmp_path / "repository")
    write_added(repository, "own")
    write_broken_classifier(repository)
    with served(tmp_path, repository, "complexity_router_ensemble") as url:
        assert infer(url, 10)
        assert answer(url, "task_router_ensemble") is not None
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=10) as response:
            assert response.status == 200
        token = (tmp_path / "model-control").read_text()
        assert (tmp_path / "model-control").stat().st_mode & 0o777 == 0o600
        for path in (
            "repository/index",
            "repository/models/evil/load",
            "repository/models/task_router_ensemble/unload",
        ):
            assert post(f"{url}/v2/{path}") == post(f"{url}/v2/{path}", {"model-control": "guess"}) == 403
        assert post(f"{url}/v2/logging", body=b'{"log_file": "x"}') == 403
        assert post(f"{url}/v2/repository/index", {"model-control": token}) == 200
        assert healthcheck(tmp_path, url) == (0, "")
        local = Triton(int(url.rpartition(":")[2]), tmp_path, models=(*ENSEMBLES, "own_router_ensemble", "not_there"))
        assert local.infers()
        time.sleep(1)  # a process that dies as it holds a lock of its shared memory takes Triton 2.51 with it
        for pid in commands(f"{repository}/own_classifier/"):
            os.kill(pid, signal.SIGKILL)
        code, said = healthcheck(tmp_path, url)
        assert code == 1 and "own_classifier does not answer" in said
        assert infer(url, 10) and not local.infers()
        for pid in commands(str(repository)):  # with a dead stub it takes its time to end
            os.kill(pid, signal.SIGKILL)


def healthcheck(folder: Path, url: str) -> tuple[int, str]:
    """Its exit code, and what it says."""
    environ = os.environ | {"TRITON_HTTP_URL": url, "MODEL_CONTROL_FILE": str(folder / "model-control")}
    done = subprocess.run(
        [START.with_name("healthcheck"), "5"], env=environ, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr.strip()


def write_added(repository: Path, name: str) -> None:
    """As scripts/add_policy makes one, its network aside."""
    for model, files in model_files(name, [Head("intent", 2, 1.0, ("yes", "no"))]).items():
        (repository / model / "1").mkdir(parents=True)
        for path, text in files.items():
            (repository / model / path).write_text(text)
    (repository / f"{name}_classifier" / "1" / "model.py").write_text(CLASSIFIER_PY)


def write_broken_classifier(repository: Path) -> None:
    """Somebody else's, called as ours are, which loads and answers nothing."""
    python = f'backend: "python"\n{tensors("INPUT", "TYPE_STRING")}'
    write_model(repository, "their_classifier", python, {"model.py": MODEL_PY.format(value="nothing")})


def post(url: str, headers: dict[str, str] | None = None, body: bytes = b"{}") -> int:
    """The status."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_real_triton_serves_what_it_can_of_a_blueprint_volume(repository: Path, tmp_path: Path) -> None:
    """The ensemble in Python answers, a model that breaks while it loads is a line in the log, and nothing else is."""
    write_blueprint(repository)
    write_model(
        repository, "broken", f'backend: "python"\n{tensors("INPUT", "TYPE_STRING")}', {"model.py": "import no"}
    )
    with served(tmp_path, repository, "complexity_router_ensemble") as url:
        assert answer(url, "complexity_router_ensemble") == [3.0]
        assert answer(url, "task_router_ensemble") is None
        assert answer(url, "broken") is None
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=10) as response:
            assert response.status == 200
    assert "task_router is not served: it is TorchScript" in (tmp_path / "start.log").read_text()
