import os
import signal
from pathlib import Path

import httpx2

from tests.conftest import MODELS, StartGateway
from tests.gateway.client import Gateway, chat, eventually
from tests.gateway.scripted import scripted_upstream

_BROKEN = "policies: []\nnonsense: 1\n"


def _config(model: str, name: str = "task_router") -> str:
    """A policy that sends everything to one model."""
    return (
        f"policies:\n  - name: {name}\n    timeout_ms: 30000\n"
        "    url: http://x:8000/v2/models/task_router_ensemble/infer\n"
        f"    llms: [{{name: Unknown, api_base: '${{DYNAMO_API_BASE}}', model: {model}}}]\n"
    )


def _file_of(gateway: Gateway, tmp_path: Path) -> Path:
    (file,) = tmp_path.glob("gateway*/config.yaml")
    return file


def _model(gateway: Gateway) -> str:
    return str(gateway.post("/v1/route", chat("hello")).json()["model"])


def _metric(gateway: Gateway, line: str) -> bool:
    return line in gateway.get("/metrics").text


def test_a_changed_file_is_adopted(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Written in place, renamed over, or swapped by its folder's symbolic link: the new file is in force."""
    gateway = start_gateway(_config(MODELS[0]))
    file = _file_of(gateway, tmp_path)
    file.write_text(_config(MODELS[1]))
    assert eventually(lambda: _model(gateway) == MODELS[1])
    new = file.with_name("new.yaml")
    new.write_text(_config(MODELS[2], "other"))
    new.replace(file)
    assert eventually(lambda: _model(gateway) == MODELS[2])
    assert gateway.get("/config").json()["policies"][0]["name"] == "other"
    assert {"auto", "other"} <= {model["id"] for model in gateway.get("/v1/models").json()["data"]}
    for number, model in enumerate(
        MODELS[:2]
    ):  # as Kubernetes does: config.yaml -> ..data/config.yaml, ..data -> a folder
        folder = file.parent / f"..{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(_config(model))
        (file.parent / "..new").symlink_to(folder.name)
        (file.parent / "..new").rename(file.parent / "..data")
        if not file.is_symlink():
            file.unlink()
            file.symlink_to("..data/config.yaml")
        assert eventually(lambda model=model: _model(gateway) == model)  # type: ignore[misc]
    assert _metric(gateway, "llm_router_config_in_force 1.0")


def test_a_wrong_file_is_refused(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Every fault is logged, the metrics say so, and the old configuration answers until the file is right."""
    gateway = start_gateway(_config(MODELS[0]))
    file = _file_of(gateway, tmp_path)
    file.write_text(_BROKEN)
    assert eventually(lambda: _metric(gateway, "llm_router_config_in_force 0.0"))
    assert _metric(gateway, 'llm_router_config_reloads_total{result="refused"} 1.0')
    assert _model(gateway) == MODELS[0]
    (line,) = [line for line in gateway.log_lines() if "faults" in line]
    assert len(line["faults"]) == 2
    file.unlink()
    assert eventually(lambda: _metric(gateway, 'llm_router_config_reloads_total{result="refused"} 2.0'))
    file.write_text(_config(MODELS[1]))
    assert eventually(lambda: _model(gateway) == MODELS[1])
    assert _metric(gateway, "llm_router_config_in_force 1.0")


def test_a_model_that_is_gone_is_no_target(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Nor is it shown as one that cannot answer, when several workers, whose metrics forget nothing, are told."""
    gateway = start_gateway(_config(MODELS[0]), arguments=["--workers", "2"])
    shown = f'llm_router_target_eligible{{model="{MODELS[0]}",upstream="{gateway.get("/config").json()["upstream"]}"}}'
    assert eventually(lambda: _metric(gateway, f"{shown} 1.0"))
    _file_of(gateway, tmp_path).write_text(_config(MODELS[1]))
    assert eventually(lambda: _metric(gateway, f"{shown} NaN"))


def test_sighup(start_gateway: StartGateway, tmp_path: Path) -> None:
    """SIGHUP reads the file at once, changed or not, and ends nothing."""
    gateway = start_gateway(_config(MODELS[0]))
    os.kill(gateway.process.pid, signal.SIGHUP)
    assert eventually(lambda: _metric(gateway, 'llm_router_config_reloads_total{result="adopted"} 1.0'))
    assert _model(gateway) == MODELS[0]


def test_a_key_file_is_read_again(start_gateway: StartGateway, tmp_path: Path) -> None:
    """A key that is rotated in its file is in force without a restart, and never shown."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("key-1\n")
    second.write_text("key-2\n")
    with scripted_upstream(status=200) as upstream:

        def key_in_use() -> str:
            assert gateway.post("/v1/chat/completions", chat("hello")).status_code == 200
            return upstream.authorizations[-1]

        text = _config(MODELS[0]).replace("${DYNAMO_API_BASE}", upstream.url)
        gateway = start_gateway(text.replace("model:", f"api_key_file: {first}, model:"))
        assert key_in_use() == "Bearer key-1"
        first.write_text("key-3\n")
        assert eventually(lambda: key_in_use() == "Bearer key-3")
        _file_of(gateway, tmp_path).write_text(text.replace("model:", f"api_key_file: {second}, model:"))
        assert eventually(lambda: key_in_use() == "Bearer key-2")
        second.write_text("key-4\n")  # a file that the first configuration did not name
        assert eventually(lambda: key_in_use() == "Bearer key-4")
    shown = gateway.get("/config").text
    assert "[REDACTED]" in shown and "key-4" not in shown and str(second) in shown


def test_client_keys_are_read_again(start_gateway: StartGateway, tmp_path: Path) -> None:
    """A client key is in force, or out of it, as its file says, even while the configuration is wrong."""
    keys = tmp_path / "client-keys"
    old, new = "old-0123456789abcdef", "new-0123456789abcdef"
    keys.write_text(f"a:{old}\n")
    gateway = start_gateway(_config(MODELS[0]), GATEWAY_API_KEYS_FILE=str(keys))

    def let_in(key: str) -> bool:
        answer = gateway.post("/v1/route", chat("hello"), headers={"authorization": f"Bearer {key}"})
        return answer.status_code == 200

    assert let_in(old) and not let_in(new)
    keys.write_text(f"a:{old}\nb:{new}\n")
    assert eventually(lambda: let_in(new)) and let_in(old)
    _file_of(gateway, tmp_path).write_text(_BROKEN)
    keys.write_text(f"b:{new}\n")
    assert eventually(lambda: not let_in(old)) and let_in(new)
    keys.write_text("")
    refused = 'llm_router_config_reloads_total{result="refused"}'
    header = {"authorization": f"Bearer {new}"}
    assert eventually(lambda: f"{refused} 2.0" in gateway.get("/metrics", headers=header).text)
    assert let_in(new) and not let_in(old)  # an empty file opens the gateway to nobody else


def test_a_running_stream_is_not_touched(start_gateway: StartGateway, tmp_path: Path) -> None:
    """A stream that began under the old configuration ends as it would have."""

    gateway = start_gateway(_config(MODELS[0]))
    file = _file_of(gateway, tmp_path)
    body = chat("hello", stream=True, max_tokens=400)
    with httpx2.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        file.write_text(_config(MODELS[1]))
        assert eventually(lambda: _model(gateway) == MODELS[1])
        rest = list(lines)
    assert answer.headers["x-routellm-routed-model"] == MODELS[0] and "data: [DONE]" in rest
