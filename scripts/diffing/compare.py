"""What differs between two configurations' outcomes for the same requests, and whether it is within limits. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from gateway.config import Cost
from scripts.diffing.outcome import Outcome, Place, prompt_tokens
from scripts.diffing.replay import Request
from scripts.training.records import refuse

_ROUNDING = 1e-9
_MILLION = 1_000_000


class Change(NamedTuple):
    """A figure under OLD and under NEW."""

    old: float
    new: float


class Move(NamedTuple):
    """How many requests go from one model to another."""

    old: Place
    new: Place
    requests: int


class LabelChange(NamedTuple):
    """Of a label, or of the reason why there is none: requests under OLD and NEW, and how many of OLD's move."""

    label: str
    old: int
    new: int
    moved: int


@dataclass(frozen=True)
class CostChange:
    """Estimated costs, None when they can't be told: of `unpriced` models, or of no request at all.

    Two kinds of requests are left out of both sums: the `unmeasured`, whose prompts' tokens nobody counted, and those
    that the `same_unpriced` model answers on both sides. Of the others `assumed` count with the assumed output tokens,
    `estimated` with tokens by the prompt's bytes.
    """

    total: Change | None
    unpriced: Sequence[Place]
    unmeasured: int
    same_unpriced: int
    assumed: int
    estimated: int

    @property
    def increase(self) -> float | None:
        """The share by which NEW costs more than OLD; infinite when OLD costs nothing."""
        if self.total is None:
            return None
        if self.total.old == 0:
            return math.inf if self.total.new else 0.0
        return self.total.new / self.total.old - 1


class Quality(NamedTuple):
    """Over so many requests whose right answer is known."""

    requests: int
    share: Change


@dataclass(frozen=True)
class Difference:
    """Everything that differs. None: no request tells.

    `strong` is the share of strong calls among those of RouteLLM policies. `labels` is the share of right labels,
    whether or not the policy abstained; `answered` the same of those under which it did not. `answers` is the share of
    right answers where it is known for the strong and the weak model. `unlike_log` counts the logged requests that were
    answered by another model than OLD's choice.
    """

    requests: int
    moved: int
    moves: Sequence[Move]
    by_label: Sequence[LabelChange]
    abstained: Change
    strong: Change | None
    cost: CostChange
    labels: Quality | None
    answered: Change | None
    answers: Quality | None
    unlike_log: int

    @property
    def moved_share(self) -> float:
        return self.moved / self.requests

    @property
    def quality_drop(self) -> float | None:
        """The larger drop, where there are two kinds of quality; below 0 when both rise."""
        drops = [each.share.old - each.share.new for each in (self.labels, self.answers) if each is not None]
        return max(drops, default=None)

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "moved": {"requests": self.moved, "share": self.moved_share},
            "moves": [
                {"old": each.old._asdict(), "new": each.new._asdict(), "requests": each.requests} for each in self.moves
            ],
            "labels": [each._asdict() for each in self.by_label],
            "abstained_share": self.abstained._asdict(),
            "strong_share": _json(self.strong),
            "unlike_log": self.unlike_log,
            "cost": asdict(self.cost)
            | {
                "total": _json(self.cost.total),
                "unpriced": [each._asdict() for each in self.cost.unpriced],
                "increase": None if self.cost.increase == math.inf else self.cost.increase,
            },
            "quality": {
                "labels": _quality_json(self.labels),
                "labels_not_abstained": _json(self.answered),
                "answers": _quality_json(self.answers),
            },
        }


@dataclass(frozen=True)
class Limits:
    """The most that may change, each a share; None: anything."""

    max_moved: float | None = None
    max_cost_increase: float | None = None
    max_quality_drop: float | None = None
    max_strong_share_change: float | None = None


class Verdict(NamedTuple):
    """A limit, what there is instead (None: nobody can tell), and a line about it."""

    option: str
    limit: float
    value: float | None
    line: str

    @property
    def exceeded(self) -> bool:
        return self.value is not None and self.value > self.limit + _ROUNDING


def compare(
    requests: Sequence[Request],
    old: Sequence[Outcome],
    new: Sequence[Outcome],
    costs: tuple[Mapping[Place, Cost], Mapping[Place, Cost]],
    output_tokens: int,
) -> Difference:
    """Of at least one request and its outcome on both sides; `costs` of each side, and the answer's tokens where a
    request does not tell."""
    pairs = list(zip(old, new, strict=True))
    moves = Counter((before.place, after.place) for before, after in pairs if before.place != after.place)
    routellm = [each for each in pairs if each[0].routellm and each[1].routellm]
    return Difference(
        len(requests),
        moves.total(),
        [Move(*places, count) for places, count in moves.most_common()],
        label_changes(pairs),
        Change(*(share(each.abstained for each in side) for side in (old, new))),
        _change(routellm, lambda outcome: outcome.strong is True),
        estimate_cost(requests, pairs, costs, output_tokens),
        *label_quality(requests, pairs),
        answer_quality(requests, pairs),
        sum(_unlike_log(request, outcome) for request, outcome in zip(requests, old, strict=True)),
    )


def label_changes(pairs: Sequence[tuple[Outcome, Outcome]]) -> list[LabelChange]:
    """The most frequent label of either side first."""
    old, new = (Counter(_name(pair[side]) for pair in pairs) for side in (0, 1))
    moved = Counter(_name(before) for before, after in pairs if before.place != after.place)
    return [LabelChange(label, old[label], new[label], moved[label]) for label, _ in (old + new).most_common()]


def label_quality(
    requests: Sequence[Request], pairs: Sequence[tuple[Outcome, Outcome]]
) -> tuple[Quality | None, Change | None]:
    """The share of right labels where the true one is known and both sides decide by labels: of all, and of those that
    a side does not abstain from.

    Raises DataError, a line for each request whose label neither model has.
    """
    judged = [
        (request, pair)
        for request, pair in zip(requests, pairs, strict=True)
        if request.label is not None and not any(each.routellm for each in pair)
    ]
    refuse(
        [
            f"{request.at}: 'label' is {request.label!r}, which is no label of the model that decides"
            for request, pair in judged
            if any(each.labels for each in pair) and not any(request.label in each.labels for each in pair)
        ]
    )
    if not judged:
        return None, None
    right = [[(pair[side].label == request.label, pair[side]) for request, pair in judged] for side in (0, 1)]
    answered = [[is_right for is_right, outcome in side if not outcome.abstained] for side in right]
    everything = Change(*(share(is_right for is_right, _ in side) for side in right))
    return Quality(len(judged), everything), Change(*map(share, answered)) if all(answered) else None


def answer_quality(requests: Sequence[Request], pairs: Sequence[tuple[Outcome, Outcome]]) -> Quality | None:
    """The share of right answers where it is known of both models, and on both sides one of the two answers."""
    judged = [
        [request.strong if each.strong else request.weak for each in pair]
        for request, pair in zip(requests, pairs, strict=True)
        if request.strong is not None and all(each.strong is not None for each in pair)
    ]
    if not judged:
        return None
    return Quality(len(judged), Change(*(share(each[side] == 1 for each in judged) for side in (0, 1))))


def estimate_cost(
    requests: Sequence[Request],
    pairs: Sequence[tuple[Outcome, Outcome]],
    costs: tuple[Mapping[Place, Cost], Mapping[Place, Cost]],
    output_tokens: int,
) -> CostChange:
    """Prompts by the tokens that the decision counted, answers by the request's `output_tokens` or the assumed ones."""
    totals = [0.0, 0.0]
    unpriced: dict[Place, None] = {}
    counted = unmeasured = same_unpriced = assumed = estimated = 0
    for request, pair in zip(requests, pairs, strict=True):
        tokens, is_estimate = prompt_tokens(request, *pair)
        prices = [known.get(outcome.place) for known, outcome in zip(costs, pair, strict=True)]
        if tokens is None:
            unmeasured += 1
            continue
        if prices == [None, None] and pair[0].place == pair[1].place:
            same_unpriced += 1
            continue
        counted += 1
        estimated += is_estimate
        assumed += request.output_tokens is None
        answer = output_tokens if request.output_tokens is None else request.output_tokens
        for side, price in enumerate(prices):
            if price is None:
                unpriced[pair[side].place] = None
            else:
                totals[side] += (tokens * price.input + answer * price.output) / _MILLION
    total = Change(*totals) if counted and not unpriced else None
    return CostChange(total, list(unpriced), unmeasured, same_unpriced, assumed, estimated)


def no_cost(cost: CostChange, names: Iterable[str]) -> str:
    """Why there is no total; `names` are those of its unpriced models."""
    if cost.unpriced:
        return f"no cost of {', '.join(names)}"
    return "; ".join(left_out(cost))


def left_out(cost: CostChange) -> Iterator[str]:
    """What the sums leave out."""
    if cost.unmeasured:
        yield f"{cost.unmeasured:,} requests do not tell their prompts' tokens"
    if cost.same_unpriced:
        yield f"{cost.same_unpriced:,} requests go to the same model without a cost on both sides"


def judge(found: Difference, limits: Limits) -> list[Verdict]:
    """Each limit that was given against what was found."""
    cost = found.cost
    unpriced = dict.fromkeys(place.model for place in cost.unpriced)
    judged = [
        ("--max-moved", limits.max_moved, found.moved_share, "of the requests move", ""),
        ("--max-cost-increase", limits.max_cost_increase, cost.increase, "more cost", no_cost(cost, unpriced)),
        ("--max-quality-drop", limits.max_quality_drop, found.quality_drop, "fewer right answers", "no truths"),
        (
            "--max-strong-share-change",
            limits.max_strong_share_change,
            None if found.strong is None else abs(found.strong.new - found.strong.old),
            "of the calls change between strong and weak",
            "no request that a RouteLLM policy decides on both sides",
        ),
    ]
    return [
        _verdict(option, limit, value, what, why) for option, limit, value, what, why in judged if limit is not None
    ]


def _verdict(option: str, limit: float, value: float | None, what: str, why: str) -> Verdict:
    if value is None:
        return Verdict(option, limit, None, f"{option} {limit:g} can't be judged: {why}")
    return Verdict(option, limit, value, f"{option} {limit:g}: {value:.1%} {what}")


def share(values: Iterable[bool]) -> float:
    """Of at least one value: how many of them hold."""
    counted = list(values)
    return sum(counted) / len(counted)


def _change(pairs: Sequence[tuple[Outcome, Outcome]], holds: Callable[[Outcome], bool]) -> Change | None:
    if not pairs:
        return None
    return Change(*(share(holds(pair[side]) for pair in pairs) for side in (0, 1)))


def _unlike_log(request: Request, outcome: Outcome) -> bool:
    return request.logged is not None and request.logged.model not in (None, outcome.place.model)


def _name(outcome: Outcome) -> str:
    return f"({outcome.reason})" if outcome.label is None else outcome.label


def _json(change: Change | None) -> dict[str, float] | None:
    return None if change is None else change._asdict()


def _quality_json(quality: Quality | None) -> dict[str, Any] | None:
    return None if quality is None else {"requests": quality.requests} | quality.share._asdict()
