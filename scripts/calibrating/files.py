"""Reads and replaces a configuration file, so that nothing is lost on the way."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from scripts.calibrating.edit import EditError


class WriteError(Exception):
    """One line: which file could not be replaced, and why; it is as it was."""


def read_text(path: Path) -> str:
    """The file's text, line ends as they are. Raises EditError: can't be read, or is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise EditError(f"can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise EditError("is not UTF-8") from None


def require_writable(path: Path) -> None:
    """Raises EditError when `path` is no plain file, or one that nobody is meant to write."""
    if path.is_symlink():
        raise EditError(f"is a symbolic link to {os.readlink(path)}; name the file itself")
    if not path.is_file():
        raise EditError("is no file")
    # Root may write everything, and replacing a file takes no right to it: what counts is what the file says.
    if not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK):
        raise EditError("is read-only")


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file at once, its mode and owner kept: a reader sees the old one or the new one, whole.

    Raises EditError as `require_writable`, and WriteError with the old file in its place.
    """
    require_writable(path)
    try:
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(path, temporary)
            owner = path.stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{path}: can't be written ({error.strerror})") from None
