"""What a file held: how a change of it is seen, whichever way it was made."""

import hashlib
from pathlib import Path

_MOST_BYTES = 16 * 1024 * 1024  # no configuration is longer


def fingerprint(path: Path) -> bytes:
    """A hash of the file's bytes; of a file that can't be read, what stands in its way.

    Taken before the file is read, so that a change meanwhile makes a difference later.
    """
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_MOST_BYTES)).digest()
    except OSError as error:
        return str(error.errno).encode()
    except ValueError as error:  # a name that no file can have
        return str(error).encode()
