"""Client keys: who may use the gateway, and by which name they are counted."""

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import ConfigError
from gateway.errors import InvalidKey
from gateway.files import fingerprint
from gateway.health import PATHS as OPEN_PATHS

KEYS = "GATEWAY_API_KEYS"
KEYS_FILE = "GATEWAY_API_KEYS_FILE"
# Nothing slows a guesser down, so a key has to be a random one, no password: 16 hexadecimal digits are 64 bits.
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{16,512}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HOW = "a valid key is needed, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys by name. Only their digests are kept."""

    digests: Mapping[str, bytes] = field(repr=False)
    files: Mapping[Path, bytes] = field(default_factory=dict)
    """What they were read from, with its fingerprint."""

    def name_of(self, key: str) -> str | None:
        """The name of `key`, or None when it is none of these. It takes equally long for every wrong key."""
        given = _digest(key)
        found = None
        for name, digest in self.digests.items():  # all of them, also after the right one
            if hmac.compare_digest(given, digest):
                found = name
        return found


@dataclass(slots=True)
class Access:
    """The keys now in force; None lets everybody in."""

    keys: Keys | None


class RequireKey:
    """ASGI middleware: where there are keys, only requests with one of them go on, health checks, and what `is_open`.

    `state.client` is the key's name then, and None without keys.
    """

    def __init__(self, app: ASGIApp, access: Access, is_open: Callable[[Scope], bool]) -> None:
        self.app = app
        self.access = access
        self.is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            client = None
            if (keys := self.access.keys) is not None and scope["path"] not in OPEN_PATHS and not self.is_open(scope):
                names = [keys.name_of(key) for key in _presented(Headers(scope=scope))]
                client = next(filter(None, names), None)
                if client is None:
                    await InvalidKey(_HOW).response()(scope, receive, send)
                    return
            scope["state"]["client"] = client
        await self.app(scope, receive, send)


def load_keys(environ: Mapping[str, str] = os.environ) -> Keys | None:
    """The keys that the environment and its file hold, or None when neither is named.

    Raises ConfigError with every fault. None of them quotes anything that was given: a name or a path may turn out to
    be a key in the wrong place.
    """
    variable, file = environ.get(KEYS), environ.get(KEYS_FILE)
    if not variable and not file:
        return None
    entries: list[tuple[str, str]] = []
    faults: list[str] = []
    if variable:
        _add_entries(KEYS, _in_variable(variable), entries, faults)
    files = {Path(file): fingerprint(Path(file))} if file else {}
    if file:
        try:
            _add_entries(f"the file in {KEYS_FILE}", _in_file(Path(file).read_text("utf-8")), entries, faults)
        except OSError as error:
            faults.append(f"the file in {KEYS_FILE}: cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            faults.append(f"the file in {KEYS_FILE}: is not valid UTF-8")
    digests = _checked(entries, faults)
    if faults:
        raise ConfigError(faults)
    return Keys(digests, files)


def _in_variable(text: str) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(filter(None, map(str.strip, re.split(r"[,\n]", text))), 1):
        yield f"entry {number}", entry


def _in_file(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if (entry := line.strip()) and not entry.startswith("#"):
            yield f"line {number}", entry


def _add_entries(
    source: str, found: Iterator[tuple[str, str]], entries: list[tuple[str, str]], faults: list[str]
) -> None:
    """Append what one source holds. Holding nothing is a fault: it must not open the gateway to everybody."""
    before = len(entries)
    entries += [(f"{source}: {place}", entry) for place, entry in found]
    if len(entries) == before:
        faults.append(f"{source}: holds no key")


def _checked(entries: list[tuple[str, str]], faults: list[str]) -> dict[str, bytes]:
    """The digests by name; what is wrong with an entry goes to `faults`."""
    digests: dict[str, bytes] = {}
    places: dict[str | bytes, str] = {}
    for index, (place, entry) in enumerate(entries, 1):
        name, colon, key = entry.partition(":")
        if not colon:
            name, key = f"key-{index}", entry
        if not _NAME.fullmatch(name):
            faults.append(f"{place}: expected a name of 1 to 64 letters, digits, '_', '.' or '-' before the colon")
        if not _KEY.fullmatch(key):
            faults.append(f"{place}: expected a key of 16 to 512 visible ASCII characters without a comma")
            continue
        digest = _digest(key)
        for what, value in (("name", name), ("key", digest)):
            if value in places:
                faults.append(f"{place}: the same {what} as {places[value]}")
            places.setdefault(value, place)
        digests[name] = digest
    return digests


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _presented(headers: Headers) -> Iterator[str]:
    """What a request shows as its key, in the ways of OpenAI's and of Anthropic's client."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield key.strip()
    if key := headers.get("x-api-key", ""):
        yield key
