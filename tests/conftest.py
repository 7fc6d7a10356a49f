"""The real parts, started once for the whole run on free ports: Triton, Dynamo with mockers, the gateway."""

import os
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from scripts.local.dynamo import DemoDynamo
from scripts.local.process import Process, free_port, free_ports, wait_until
from scripts.local.traces import trace_options
from scripts.local.triton import ENSEMBLES, Triton
from tests.gateway.client import Gateway
from tests.gateway.otlp import Collector, running_collector
from tests.repository import repository_with_foreign_ensembles

ROOT = Path(__file__).parents[1]
DEFAULT_CONFIG = ROOT / "deploy" / "router-config-dynamo.yaml"
WITHOUT_CACHE = "gateway: {cache_entries: 0}\n"  # for tests that ask Triton the same thing again
MODELS = (
    "llama-3.3-nemotron-super-49b-v1",
    "llama-3.1-70b-instruct",
    "mixtral-8x22b-instruct-v0.1",
    "llama-3.1-8b-instruct",
)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where Triton sends the traces of requests that continue one, and nothing else."""
    with running_collector() as started:
        yield started


@pytest.fixture(scope="session")
def triton_and_dynamo(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Triton, DemoDynamo]]:
    """Both at once: each takes its time to start."""
    folder = tmp_path_factory.mktemp("local")
    repository = repository_with_foreign_ensembles(folder / "model_repository")
    triton = Triton(
        free_ports(3),
        folder / "triton",
        repository,
        (*ENSEMBLES, "renamed_ensemble", "scored_ensemble"),
        options=trace_options({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}),
    )
    dynamo = DemoDynamo(free_port(), MODELS, folder / "dynamo")
    with ExitStack() as stack:
        stack.callback(triton.stop)
        triton.start()
        stack.callback(dynamo.stop)
        dynamo.start()
        triton.wait()
        dynamo.wait()
        yield triton, dynamo


@pytest.fixture(scope="session")
def triton(triton_and_dynamo: tuple[Triton, DemoDynamo]) -> Triton:
    """The ensembles of this checkout, and two that the gateway does not know (tests.repository)."""
    return triton_and_dynamo[0]


@pytest.fixture(scope="session")
def dynamo(triton_and_dynamo: tuple[Triton, DemoDynamo]) -> DemoDynamo:
    """Dynamo's frontend with a mocker for each model of the default configuration."""
    return triton_and_dynamo[1]


StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def gateway(triton: Triton, dynamo: DemoDynamo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway with the default configuration, patient deadlines and no memory of decisions."""
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "config.yaml"
    text = DEFAULT_CONFIG.read_text().replace("    llms:", "    timeout_ms: 30000\n    llms:")
    config.write_text(WITHOUT_CACHE + text)
    with running_gateway(config, folder, DYNAMO_API_BASE=dynamo.url, TRITON_GRPC_URL=triton.grpc_url) as started:
        yield started


@pytest.fixture
def start_gateway(triton: Triton, dynamo: DemoDynamo, tmp_path: Path) -> Iterator[StartGateway]:
    """Starts a gateway of one's own: a configuration's text, arguments, and environment variables to set or change."""
    with ExitStack() as stack:

        def start(
            config_text: str,
            ready: bool = True,
            arguments: Sequence[str] = (),
            trusted: ssl.SSLContext | None = None,
            **environ: str,
        ) -> Gateway:
            folder = tmp_path / f"gateway{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            config = folder / "config.yaml"
            config.write_text(config_text)
            environ = {"DYNAMO_API_BASE": dynamo.url, "TRITON_GRPC_URL": triton.grpc_url} | environ
            return stack.enter_context(running_gateway(config, folder, ready, arguments, trusted, **environ))

        yield start


@contextmanager
def running_gateway(
    config: Path,
    folder: Path,
    ready: bool = True,
    arguments: Sequence[str] = (),
    trusted: ssl.SSLContext | None = None,
    **environ: str,
) -> Iterator[Gateway]:
    """`python -m gateway serve` as a process; `ready` waits for its first decision, else only for its port.

    It is asked over HTTPS when there is something `trusted` to verify it by.
    """
    port = free_port()
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--port", str(port)]
    command += ["--drain-delay", "0", *arguments]
    process = Process("gateway", command, os.environ | environ, folder / "gateway.log")
    gateway = Gateway(f"{'https' if trusted else 'http'}://127.0.0.1:{port}", process, trusted or True)
    try:
        wait_until(gateway.decides if ready else gateway.is_live, process, 60)
        yield gateway
    finally:
        process.stop()
