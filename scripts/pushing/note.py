"""What happens meanwhile, on stderr."""

import sys


def note(text: str) -> None:
    print(f"push_models: {text}", file=sys.stderr, flush=True)
