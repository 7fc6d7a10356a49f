import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def _documents() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.splitlines()]


@pytest.mark.parametrize("document", _documents(), ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link in the documentation names a file of the project."""
    dead = [link for link in _LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not dead
