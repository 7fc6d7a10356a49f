"""What was measured on: the machine, and the versions of what ran there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scripts.local.triton import ROOT

# What decides how fast a network is on a CPU, as Linux calls it.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "nvidia-pytriton",
    "ai-dynamo",
    "tritonclient",
    "grpcio",
    "aiohttp",
    "starlette",
    "uvicorn",
)
_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu")


def machine() -> dict[str, Any]:
    """The processor, what it can, how much of it and of memory there is, and the kernel."""
    fields = _cpu_fields()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": fields.get("model name", platform.processor()),
        "flags": [flag for flag in FLAGS if flag in fields.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
        "cpu_quota": _quota(),
        "memory_gib": round(memory / 2**30),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """Of Python, the packages that matter, the Triton inside its wheel, and nginx."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx:
        said = subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr
        found["nginx"] = said.strip().rpartition("/")[2]
    return found


def commit() -> str:
    """The checkout's commit, with a plus when it has changes; empty outside of git."""
    try:
        told = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_fields() -> dict[str, str]:
    """Of the first processor."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _quota() -> str:
    """How many cores' time the container may use, by either version of cgroups."""
    try:
        if _QUOTA_V2.exists():
            quota, period = _QUOTA_V2.read_text().split()
        else:
            quota, period = ((_QUOTA_V1 / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return "none"
    return "none" if quota in ("max", "-1") else f"{int(quota) / int(period):g} cores"
