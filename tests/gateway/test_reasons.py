"""The list of reasons, which mypy holds the steps to."""

import re
from typing import get_args

from gateway.reasons import REASONS, Reason
from tests.conftest import ROOT

_STEPS = [ROOT / "gateway" / f"{step}.py" for step in ("chat", "errors", "forward", "policy", "targets")]


def test_every_reason_is_explained() -> None:
    """Each that can be given, in order, and no other."""
    assert tuple(REASONS) == get_args(Reason)
    assert all(each.happened and each.do for each in REASONS.values())


def test_every_reason_is_given() -> None:
    """Some step gives it. That no step gives another one is what its type says, since no step takes a reason for a
    string."""
    steps = [path.read_text() for path in _STEPS]
    for reason in REASONS:
        assert any(f'"{reason}"' in text for text in steps), reason
    assert not [text for text in steps if re.search(r"\breason: str\b", text)]
