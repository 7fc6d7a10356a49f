"""deploy/compose.yaml: what one machine runs is shut in, and in step with the Dockerfiles."""

from pathlib import Path
from typing import Any

import yaml

from tests.test_dockerfile import DOCKERFILES, GATEWAY, arguments, command

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_both_images_are_built_here() -> None:
    """Each Dockerfile has a service, with the project's root as its context."""
    assert {service["build"]["dockerfile"] for service in SERVICES.values()} == {file.name for file in DOCKERFILES}
    for service in SERVICES.values():
        assert (ROOT / "deploy" / service["build"]["context"]).resolve() == ROOT


def test_services_are_shut_in() -> None:
    """No capability, no new privilege, nothing to write but /tmp, and one port, on loopback."""
    for service in SERVICES.values():
        assert service["read_only"] and service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
    (port,) = arguments(GATEWAY, "EXPOSE")
    assert [service.get("ports") for service in SERVICES.values()] == [None, [f"127.0.0.1:{port}:{port}"]]


def test_the_gateway_waits_for_a_triton_that_classifies() -> None:
    """The images bring the health checks; Triton is asked where the gateway looks for it."""
    assert all(arguments(dockerfile, "HEALTHCHECK") for dockerfile in DOCKERFILES)
    assert SERVICES["gateway"]["depends_on"] == {"triton": {"condition": "service_healthy"}}
    assert SERVICES["gateway"]["environment"]["TRITON_GRPC_URL"] == "triton:8001"
    assert set(SERVICES["triton"]["networks"]) <= set(SERVICES["gateway"]["networks"])
    assert COMPOSE["networks"]["models"]["internal"]


def test_the_configuration_is_mounted_where_the_image_looks() -> None:
    """Over the image's own file, which it is unless ROUTER_CONFIG says otherwise."""
    words = command(GATEWAY)
    (volume,) = SERVICES["gateway"]["volumes"]
    assert volume == f"${{ROUTER_CONFIG:-./router-config-dynamo.yaml}}:{words[words.index('--config') + 1]}:ro"


def test_the_override_changes_a_service_that_is_there() -> None:
    """A GPU for Triton, and nothing else."""
    override = yaml.safe_load((ROOT / "deploy" / "compose.gpu.yaml").read_text())
    assert set(override["services"]) == {"triton"}
    assert set(override["services"]["triton"]) == {"deploy"}
