"""Sums over requests: what was asked of which model, what it took, what it cost and saved. Pure: no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.reporting.read import Answer


@dataclass
class Sums:
    """Of some requests. Costs are of the answers that have one, and savings of those that the policy's strongest model
    has one for, too."""

    requests: int = 0
    answers: int = 0
    without_tokens: int = 0
    with_tokens: int = 0
    with_cost: int = 0
    with_comparison: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    compared: float = 0.0
    """The part of `cost` that `at_strongest` compares with."""
    at_strongest: float = 0.0

    @property
    def without_cost(self) -> int:
        """Answers with tokens, of a model that has no cost."""
        return self.with_tokens - self.with_cost

    @property
    def without_comparison(self) -> int:
        """Answers with a cost whose policy's strongest model has none."""
        return self.with_cost - self.with_comparison

    @property
    def saved(self) -> float:
        return self.at_strongest - self.compared

    @property
    def saved_share(self) -> float | None:
        """Of what the strongest model would have cost; None when that is nothing."""
        return self.saved / self.at_strongest if self.at_strongest else None

    def add(self, answer: Answer) -> None:
        """One more request."""
        self.requests += 1
        self.answers += answer.answered
        if answer.input_tokens is None or answer.output_tokens is None:
            self.without_tokens += answer.answered
            return
        self.with_tokens += 1
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens
        if answer.cost is None:
            return
        self.with_cost += 1
        self.cost += answer.cost
        if answer.cost_at_strongest is None:
            return
        self.with_comparison += 1
        self.compared += answer.cost
        self.at_strongest += answer.cost_at_strongest

    def as_json(self) -> dict[str, Any]:
        """Every figure, and what follows from them."""
        figures = {name: value for name, value in vars(self).items() if name != "compared"}
        counts = {"without_cost": self.without_cost, "without_comparison": self.without_comparison}
        return figures | counts | {"saved": self.saved, "saved_share": self.saved_share}


@dataclass(frozen=True)
class Account:
    """Of all requests, of each policy, of each of its models, and how often which reason was given, by policy. A policy
    whose name is empty has the requests that named their model."""

    total: Sums
    policies: dict[str, Sums]
    models: dict[tuple[str, str], Sums]
    reasons: dict[str, Counter[str]]

    def as_json(self) -> dict[str, Any]:
        return {
            "total": self.total.as_json(),
            "policies": {
                policy: sums.as_json()
                | {
                    "reasons": dict(self.reasons[policy]),
                    "models": {model: each.as_json() for (of, model), each in self.models.items() if of == policy},
                }
                for policy, sums in self.policies.items()
            },
        }


def account_of(answers: Iterable[Answer]) -> Account:
    """Policies and models in the order of their names, reasons by their count."""
    total = Sums()
    policies: dict[str, Sums] = {}
    models: dict[tuple[str, str], Sums] = {}
    reasons: dict[str, Counter[str]] = {}
    for answer in answers:
        of_policy = policies.setdefault(answer.policy, Sums())
        of_model = models.setdefault((answer.policy, answer.model), Sums())
        reasons.setdefault(answer.policy, Counter())[answer.reason] += 1
        for sums in (total, of_policy, of_model):
            sums.add(answer)
    ordered = {policy: Counter(dict(reasons[policy].most_common())) for policy in sorted(reasons)}
    return Account(total, dict(sorted(policies.items())), dict(sorted(models.items())), ordered)


def savings(answers: Sequence[Answer]) -> tuple[list[float], list[float], list[float]]:
    """Running sums in the order of time: hours since the first request, spent, and what the strongest would have cost;
    of the answers that have both."""
    known = [each for each in answers if each.cost is not None and each.cost_at_strongest is not None]
    known.sort(key=lambda each: each.time)
    hours, spent, strongest = [0.0], [0.0], [0.0]
    for each in known:
        assert each.cost is not None and each.cost_at_strongest is not None
        hours.append((each.time - known[0].time).total_seconds() / 3600)
        spent.append(spent[-1] + each.cost)
        strongest.append(strongest[-1] + each.cost_at_strongest)
    return hours, spent, strongest
