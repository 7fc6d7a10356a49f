"""Debian's Chromium, driven by playwright, and axe-core, which judges how usable a page is for everybody."""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

_AXE = "axe-core@4.14.1"
_AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
"""As npm's registry has it: of the package as it is sent."""
_PATIENCE_MS = 60_000  # something that never happens is the failure; how soon it does is not judged


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, without a window; skips where it is not installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is missing: Debian's package chromium has it, and .ci/run installs that")
    with sync_playwright() as playwright:
        # No sandbox: it does not start for root, and sees only pages of this project.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, and what was seen of it meanwhile."""

    page: Page
    urls: list[str] = field(default_factory=list)
    """Of every request that it made."""
    complaints: list[str] = field(default_factory=list)
    """Its errors, and the browser's warnings: a forbidden script or style among them, an answer with 4xx not."""


@contextmanager
def visiting(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """A page at `url`, in a browser profile of its own. In the end it must have had no errors, nor gone elsewhere."""
    with browser.new_context(**context) as profile:
        visit = Visit(profile.new_page())
        visit.page.set_default_timeout(_PATIENCE_MS)
        visit.page.on("request", lambda request: visit.urls.append(request.url))
        visit.page.on("console", lambda message: _note(visit, message))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.goto(url)
        yield visit
        assert visit.complaints == []
        elsewhere = [each for each in visit.urls if not each.startswith((url, "data:"))]
        assert visit.urls and elsewhere == []


def _note(visit: Visit, message: ConsoleMessage) -> None:
    if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
        visit.complaints.append(message.text)


def load_axe() -> str:
    """axe-core's script, fetched by npm once and kept outside of the tree; skips where there is no npm."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-router"
    package = cache / f"{_AXE.replace('@', '-')}.tgz"
    if not package.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is missing: Debian's package npm has it, and .ci/run installs that")
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache) as folder:
            command = [npm, "pack", "--silent", "--pack-destination", folder, _AXE]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            (Path(folder) / package.name).replace(package)
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    assert digest == _AXE_SHA512, f"{package} is not {_AXE}"
    with tarfile.open(package) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def violations(page: Page, axe: str) -> list[str]:
    """What axe finds wrong with the page as it is now. Its profile must have `bypass_csp`: the script is not ours."""
    page.evaluate(axe)
    found = page.evaluate(
        "axe.run().then(found => found.violations.map("
        "each => `${each.id}: ${each.help}: ${each.nodes.map(node => node.html.slice(0, 200)).join(' ')}`))"
    )
    return [str(each) for each in found]
