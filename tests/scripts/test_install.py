import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT


def _install(**environ: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts" / "install")]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=60)


def _one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def test_no_such_interpreter() -> None:
    """An interpreter that is not there is one line."""
    assert _one_line(_install(PYTHON="python-that-is-not-there")) == "install: cannot run 'python-that-is-not-there'"


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_missing_venv_module_names_the_package(tmp_path: Path, module: str) -> None:
    """A Python without venv, as Debian splits it, is one line that names what to install; .venv stays as it is."""
    (tmp_path / f"{module}.py").write_text("raise ImportError")
    marker = ROOT / ".venv" / ".installed"
    before = marker.read_bytes() if marker.exists() else None
    line = _one_line(_install(PYTHON=sys.executable, PYTHONPATH=str(tmp_path)))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert line.endswith(f"on Debian: apt-get install python{version}-venv")
    assert (marker.read_bytes() if marker.exists() else None) == before


def test_a_missing_shared_library_names_the_package(tmp_path: Path) -> None:
    """A Python whose shared library cannot be loaded, which Triton needs, is one line that names what to install."""
    (tmp_path / "ctypes.py").write_text("def CDLL(path):\n    raise OSError(path)\n")
    line = _one_line(_install(PYTHON=sys.executable, PYTHONPATH=str(tmp_path)))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert line.endswith(f"on Debian: apt-get install libpython{version}")


def test_unknown_arguments_and_help() -> None:
    """An argument that is not known is refused; --help explains."""
    command = str(ROOT / "scripts" / "install")
    assert subprocess.run([command, "--nope"], capture_output=True, text=True).returncode == 1
    assert "Makes .venv" in subprocess.run([command, "--help"], capture_output=True, text=True).stdout


@pytest.mark.slow
def test_the_gateway_installs_without_torch(tmp_path: Path) -> None:
    """The distribution's own dependencies serve the gateway, and torch is not among them."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--constraint", str(ROOT / "constraints.txt"), str(ROOT)], check=True)
    program = "import gateway.app, importlib.util; assert importlib.util.find_spec('torch') is None"
    subprocess.run([str(python), "-c", program], check=True, cwd=tmp_path)
    config = ROOT / "deploy" / "router-config-dynamo.yaml"
    command = [str(python), "-m", "gateway", "check", str(config)]
    environ = os.environ | {"DYNAMO_API_BASE": "http://dynamo:8000"}
    assert subprocess.run(command, env=environ, cwd=tmp_path).returncode == 0
