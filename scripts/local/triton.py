"""The real Triton Inference Server on this machine: NVIDIA's container's own, or the one in the PyPI wheel."""

import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.local.process import Process, StartError, fetch, wait_until

ROOT = Path(__file__).parents[2]
ENSEMBLES = ("router_ensemble", "task_router_ensemble", "complexity_router_ensemble")  # each loads what it composes
_FIRST = "router_ensemble"  # holds every network that is always there
# Loaded besides when the environment names their weights; routellm_mf is a part of router_ensemble.
_ROUTELLM_VARIABLES = {
    "routellm_bert": "ROUTELLM_BERT_CHECKPOINT",
    "routellm_causal_llm": "ROUTELLM_CAUSAL_LLM_CHECKPOINT",
    "routellm_sw_ranking": "ROUTELLM_SW_RANKING_CHECKPOINT",
}
_CONTAINER_SERVER = Path("/opt/tritonserver/bin/tritonserver")
_INFER_SECONDS = 10.0


class Triton:
    """One tritonserver with the project's ensembles, in explicit model control, on loopback unless told otherwise.

    HTTP is on `port`, gRPC and metrics on the two ports after it, as in Triton's own defaults.
    """

    def __init__(
        self,
        port: int,
        folder: Path,
        repository: Path = ROOT / "model_repository",
        models: Sequence[str] = ENSEMBLES,
        environ: Mapping[str, str] = os.environ,
        options: Sequence[str] = (),
    ) -> None:
        """`options`: more of tritonserver's own."""
        self.port = port
        self.process: Process | None = None
        self._folder = folder
        self._repository = repository
        self._models = models
        self._environ = environ
        self._options = options
        self._answering = {_FIRST}

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.port + 1}"

    def start(self) -> None:
        server, backends, libraries = find_server(self._folder)
        command = [
            str(server),
            f"--model-repository={self._repository}",
            f"--backend-directory={backends}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self._models),
            "--disable-auto-complete-config",
            "--exit-timeout-secs=10",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            "--metrics-address=127.0.0.1",
            f"--http-port={self.port}",
            f"--grpc-port={self.port + 1}",
            f"--metrics-port={self.port + 2}",
            *self._options,
        ]
        environ = dict(self._environ) | {
            # The Python backend's stub takes the first python on PATH and with it this environment's packages.
            "PATH": f"{Path(sys.executable).parent}:{self._environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": ":".join([*map(str, libraries), self._environ.get("LD_LIBRARY_PATH", "")]).rstrip(":"),
            "HF_HUB_OFFLINE": "1",
        }
        self.process = Process("triton", command, environ, self._folder / "logs" / "triton.log")

    def wait(self, seconds: float = 180.0) -> None:
        """Until it answers an inference. Raises StartError when it ends first or time runs out."""
        assert self.process is not None
        wait_until(self.infers, self.process, seconds)

    def infers(self) -> bool:
        """Whether one real row comes back from this project's models, and from each model of others that ever answered:
        readiness endpoints stay 200 with a dead stub."""
        others = set(self._models) - {*ENSEMBLES, *_ROUTELLM_VARIABLES}
        answering = {model for model in (_FIRST, *others) if infer(self.http_url, _INFER_SECONDS, model)}
        is_well = answering >= self._answering
        self._answering |= answering
        return is_well

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(grace=15)


def models_with_weights(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The ensembles, and RouteLLM's routers whose weights `environ` names."""
    return (*ENSEMBLES, *(model for model, variable in _ROUTELLM_VARIABLES.items() if environ.get(variable)))


def own_models(wanted: Mapping[str, str], repository: Path | None) -> tuple[str, ...]:
    """The models of `repository` among those that policies want; `wanted`: the Triton model of each policy's name.

    Raises StartError: the folder is none or holds a model of this project, or a policy's model is nowhere.
    """
    if repository is not None and not repository.is_dir():
        raise StartError(f"--models {repository} is no folder")
    ours, others = _models_in(ROOT / "model_repository"), _models_in(repository) if repository else set()
    if both := sorted(ours & others):  # Triton would load neither
        raise StartError(f"--models {repository} holds {both[0]}, which is this project's own: take it out there")
    for policy, model in wanted.items():
        if model not in ours | others:
            where = f"in {repository}" if repository else "in a folder that --models names"
            raise StartError(f"policy {policy!r}: there is no model {model!r}, neither in model_repository nor {where}")
    return tuple(sorted(others & set(wanted.values())))


def _models_in(repository: Path) -> set[str]:
    return {file.parent.name for file in repository.glob("[!.]*/config.pbtxt")}


def infer(http_url: str, seconds: float, model: str = _FIRST) -> bool:
    """Classify one word over HTTP."""
    body = {"inputs": [{"name": "INPUT", "datatype": "BYTES", "shape": [1, 1], "data": [["ping"]]}]}
    return fetch(f"{http_url}/v2/models/{model}/infer", seconds, json.dumps(body).encode()) is not None


def find_server(folder: Path) -> tuple[Path, Path, list[Path]]:
    """The server's binary, its backends' folder and the library folders it needs.

    The wheel keeps the Python backend apart from its stubs, one per Python version: they are joined under `folder`.
    Raises StartError when there is no server for this Python.
    """
    if _CONTAINER_SERVER.exists():
        return _CONTAINER_SERVER, _CONTAINER_SERVER.parents[1] / "backends", []
    wheel = importlib.util.find_spec("pytriton")
    if wheel is None or wheel.origin is None:
        raise StartError(
            "no tritonserver: neither NVIDIA's container nor the package nvidia-pytriton (scripts/install)"
        )
    package = Path(wheel.origin).parent
    home = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise StartError(f"nvidia-pytriton has no Python backend for Python {version}: {stub} is missing")
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True, exist_ok=True)
    for source in (*(home / "backends" / "python").glob("*.*"), stub):
        # By renaming: a stub that is still ending cannot be written over.
        shutil.copy2(source, backend / f"{source.name}.new")
        (backend / f"{source.name}.new").replace(backend / source.name)
    libraries = [package.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
    return home / "bin" / "tritonserver", backend.parent, libraries
