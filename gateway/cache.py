"""Decisions remembered: no prompt is kept, only a keyed hash of it."""

import hashlib
import secrets
from dataclasses import dataclass

from cachetools import TTLCache

from gateway.decision import Decision


class DecisionCache:
    """The latest decisions, each for a time; bounded. For one event loop."""

    def __init__(self, entries: int, seconds: float) -> None:
        """`entries`: how many are kept at most, 0 for none; `seconds`: how long each."""
        self.entries = entries
        self.seconds = seconds
        self.hits = 0
        self.misses = 0
        self._key = secrets.token_bytes(32)  # without it nobody can tell from a hash whether it is a certain prompt's
        self._decisions: TTLCache[bytes, Decision] = TTLCache(entries, seconds)
        self._checkpoints: dict[str, str | None] = {}

    def __len__(self) -> int:
        return len(self._decisions)

    def hash_of(self, client: str, policy: str, triton: str, text: str) -> bytes:
        """What stands for a client's prompt under a policy; `triton` names the server and the model that decide."""
        hashed = hashlib.blake2b(key=self._key, digest_size=32)
        for part in (client, policy, triton, text):
            encoded = part.encode(errors="surrogatepass")
            hashed.update(len(encoded).to_bytes(8) + encoded)
        return hashed.digest()

    def get(self, prompt: bytes) -> Decision | None:
        """The decision about a prompt, by its hash, if it is remembered."""
        if not self.entries:
            return None
        found = self._decisions.get(prompt)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, prompt: bytes, triton: str, decision: Decision) -> None:
        """Remember a decision. When another checkpoint made it than the one before, all others are forgotten."""
        if self._checkpoints.get(triton, decision.checkpoint) != decision.checkpoint:
            self._decisions.clear()
        self._checkpoints[triton] = decision.checkpoint
        if self.entries:
            self._decisions[prompt] = decision


@dataclass(frozen=True, slots=True)
class Memory:
    """A cache as one client has it: nobody learns from it what another client asked."""

    cache: DecisionCache
    client: str
    """The name of the key that let the client in; empty without one."""

    def hash_of(self, policy: str, triton: str, text: str) -> bytes:
        """What stands for this client's prompt."""
        return self.cache.hash_of(self.client, policy, triton, text)
