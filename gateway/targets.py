"""Which upstream models can take a request now: what their servers list, and how they answered lately."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.policy import Target
from gateway.reasons import Reason

UNABLE: Mapping[int, Reason] = {
    404: "target_unavailable",
    429: "upstream_overloaded",
    503: "upstream_overloaded",
    529: "upstream_overloaded",
}
"""Answers after which the next target is asked, and what that says of the one before."""

REST_SECONDS = 5.0
"""How long a target that could not answer is passed over, unless it says itself (`Retry-After`)."""

LONGEST_REST_SECONDS = 60.0

FAILURES = 3
"""Server errors in a row, each passed on as it is, after which a target rests: one may be the request's own fault."""


@dataclass(frozen=True, slots=True)
class Order:
    """The targets to ask, one after the other, and why the first of them is not the policy's own choice."""

    targets: tuple[Target, ...]
    reason: Reason | None = None


class Eligibility:
    """What is known of every upstream model. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._listed: dict[str, frozenset[str]] = {}
        self._silent: set[str] = set()
        self._resting: dict[Target, float] = {}
        self._failed: Counter[Target] = Counter()
        self._followed: frozenset[Target] = frozenset()

    @property
    def followed(self) -> frozenset[Target]:
        """The targets of the configuration: what is known of any other is not kept."""
        return self._followed

    def follow(self, targets: Iterable[Target]) -> None:
        """These are the configuration's targets from now on."""
        self._followed = frozenset(targets)
        bases = {target.api_base for target in self._followed}
        self._listed = {base: models for base, models in self._listed.items() if base in bases}
        self._silent &= bases
        self._failed = Counter({target: count for target, count in self._failed.items() if target in self._followed})
        self._resting = {target: until for target, until in self._resting.items() if target in self._followed}

    def list_models(self, api_base: str, models: frozenset[str] | None, answered: bool = True) -> None:
        """What a server lists; None when it does not say, which is not held against its models if it `answered`."""
        (self._silent.discard if answered else self._silent.add)(api_base)
        if models is None:
            self._listed.pop(api_base, None)
        else:
            self._listed[api_base] = models

    def lists(self, api_base: str) -> bool:
        """Whether a server says which models it has."""
        return api_base in self._listed

    def is_silent(self, api_base: str) -> bool:
        """Whether a server did not answer when it was last asked."""
        return api_base in self._silent

    def rest(self, target: Target, seconds: float = REST_SECONDS) -> None:
        """`target` could not answer: it is passed over for a while."""
        if target in self._followed:
            self._resting[target] = self._clock() + min(seconds, LONGEST_REST_SECONDS)

    def failed(self, target: Target) -> None:
        """`target` answered with an error of its server's."""
        if target in self._followed:
            self._failed[target] += 1
            if self._failed[target] >= FAILURES:
                self.rest(target)

    def answered(self, target: Target) -> None:
        """`target` answered as one that is well."""
        self._resting.pop(target, None)
        self._failed.pop(target, None)

    def eligible(self, target: Target) -> bool:
        """Whether its server answers and lists it, as far as is known, and it is not resting."""
        listed = self._listed.get(target.api_base)
        if target.api_base in self._silent or (listed is not None and target.model not in listed):
            return False
        return self._resting.get(target, 0.0) <= self._clock()

    def order(self, targets: Sequence[Target], tokens: int) -> Order:
        """Those of `targets` that have room for `tokens` and are eligible, in their order.

        Without any that has room, or is eligible, all are asked: the upstream's own answer says best what is wrong.
        """
        with_room = [each for each in targets if each.context_length is None or tokens <= each.context_length]
        with_room = with_room or list(targets)
        chosen = [each for each in with_room if self.eligible(each)] or with_room
        if chosen[0] is targets[0]:
            return Order(tuple(chosen))
        return Order(tuple(chosen), "target_unavailable" if with_room[0] is targets[0] else "context_length")


def rest_seconds(retry_after: str | None) -> float:
    """How long a target rests by its answer's `Retry-After`, in seconds; a date, or nonsense, counts as none."""
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 9:
        return float(retry_after)
    return REST_SECONDS
