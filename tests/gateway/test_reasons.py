"""The list of reasons, which mypy holds the steps to."""

import re
from pathlib import Path
from typing import get_args

from gateway import policy
from gateway.reasons import REASONS, Reason

_STEPS = Path(policy.__file__).parent


def test_every_reason_is_explained() -> None:
    """Each that can be given, in order, and no other."""
    assert tuple(REASONS) == get_args(Reason)
    assert all(each.happened and each.do for each in REASONS.values())


def test_every_reason_is_given() -> None:
    """Some step gives it. That no step gives another one is what its type says, since no step takes a reason for a
    string."""
    steps = [path.read_text() for path in _STEPS.glob("*.py") if path.name != "reasons.py"]
    for reason in REASONS:
        assert any(f'"{reason}"' in text for text in steps), reason
    assert not [text for text in steps if re.search(r"\breason: str\b", text)]
