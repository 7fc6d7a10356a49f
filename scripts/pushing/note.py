"""What happens meanwhile, on stderr."""

import os
import sys


def note(text: str) -> None:
    try:
        print(f"push_models: {text}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads it any more, and what was begun goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
