"""Triton's own load generator, perf_analyzer: where it is, and what it measured."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.local.process import StartError

_RUN_SECONDS = 900.0
_FETCH_SECONDS = 300.0
# Its wheel and the one with libcudart, which it is linked against: version and SHA-256 as PyPI has them.
_WHEELS = {
    "tritonclient==2.50.0": "421fbb69ae6ab8cdb2c35b82134fcef2fe11e7af7718b1fcbc53335ab9bfe889",
    "nvidia-cuda-runtime-cu12==12.9.79": "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
}
_BINARY = "tritonclient-2.50.0.data/data/bin/perf_analyzer"
_CUDART = "nvidia/cuda_runtime/lib"


@dataclass(frozen=True)
class Load:
    """What a run saw: answers per second from the first request to the last answer; latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    requests: int


@dataclass(frozen=True)
class PerfAnalyzer:
    """The program, and folders of libraries that it needs."""

    binary: Path
    libraries: str = ""

    def measure(self, grpc_url: str, model: str, data: Path, concurrency: int, requests: int) -> Load:
        """Ask for `requests` decisions of `model`, `concurrency` at a time, about the prompts in `data` in turn.

        Raises StartError with its last lines when a request fails.
        """
        export = data.with_suffix(".profile.json")
        export.unlink(missing_ok=True)  # it writes over nothing
        command = [str(self.binary), "-m", model, "-u", grpc_url, "-i", "grpc", "--input-data", str(data)]
        command += ["--concurrency-range", f"{concurrency}:{concurrency}", "--request-count", str(requests)]
        command += ["--profile-export-file", str(export)]
        environ = os.environ | ({"LD_LIBRARY_PATH": self.libraries} if self.libraries else {})
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_RUN_SECONDS)
        if done.returncode:
            said = (done.stderr + done.stdout).partition("\nUsage:")[0].strip()
            raise StartError(f"perf_analyzer failed on {model} with code {done.returncode}:\n{said[-2000:]}")
        return read_export(export)


def write_data(texts: Sequence[str], file: Path) -> Path:
    """Prompts as `--input-data` takes them."""
    file.write_text(json.dumps({"data": [{"INPUT": {"content": [text], "shape": [1]}} for text in texts]}))
    return file


def read_export(file: Path) -> Load:
    """The figures of a profile export."""
    requests = json.loads(file.read_text())["experiments"][0]["requests"]
    began = [int(each["timestamp"]) for each in requests]
    ended = [int(each["response_timestamps"][-1]) for each in requests]
    return summarise([(end - start) / 1e6 for start, end in zip(began, ended, strict=True)], max(ended) - min(began))


def summarise(milliseconds: Sequence[float], nanoseconds: float) -> Load:
    """The figures of requests that took so long each, and so long together."""
    ordered = sorted(milliseconds)
    count = len(ordered)
    return Load(count / (nanoseconds / 1e9), ordered[count // 2], ordered[min(int(count * 0.99), count - 1)], count)


def find_perf_analyzer(folder: Path) -> PerfAnalyzer:
    """The one on PATH, else the one in a PyPI wheel, which is fetched into `folder` once.

    Raises StartError: it cannot be fetched, is another file than expected, or a library of Debian's is missing.
    """
    if on_path := shutil.which("perf_analyzer"):
        return PerfAnalyzer(Path(on_path))
    try:
        ctypes.CDLL("libb64.so.0d")
    except OSError:
        raise StartError("perf_analyzer needs libb64: apt-get install libb64-0d") from None
    for requirement, digest in _WHEELS.items():
        _fetch_wheel(requirement, digest, folder)
    binary = folder / _BINARY
    binary.chmod(0o755)
    return PerfAnalyzer(binary, str(folder / _CUDART))


def _fetch_wheel(requirement: str, digest: str, folder: Path) -> None:
    """Unpacked into `folder`, once."""
    name = requirement.partition("==")[0]
    done = folder / f"{name}.sha256"
    if done.exists() and done.read_text() == digest:
        return
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--platform", "manylinux1_x86_64", "--platform", "manylinux2014_x86_64", "--dest", str(folder)]
    try:
        subprocess.run([*command, requirement], check=True, timeout=_FETCH_SECONDS, capture_output=True, text=True)
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise StartError(f"{requirement}, which holds a part of perf_analyzer, cannot be fetched:\n{said}") from None
    (wheel,) = folder.glob(f"{name.replace('-', '_')}-*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != digest:
        wheel.unlink()
        raise StartError(f"{wheel.name}: SHA-256 is {found} and should be {digest}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    done.write_text(digest)
