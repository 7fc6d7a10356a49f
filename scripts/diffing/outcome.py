"""What a configuration makes of each request, by the gateway's own code. Pure, but for the counting of held shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from gateway.config import Config, Cost, Policy, RouteLLMPolicy
from gateway.decision import Decision
from gateway.errors import BadRequest, NotFound
from gateway.labels import known_labels
from gateway.policy import Selection, Target, Wish, fall_back, read_wish, select
from gateway.prompt import Rule, bounded, estimated_tokens
from gateway.reasons import Reason
from gateway.share import HeldShare
from gateway.targets import Eligibility
from scripts.calibrating.traffic import text_of
from scripts.diffing.replay import Logged, Request
from scripts.evaluating.decisions import Question, labels_of
from scripts.training.records import refuse

ABSTAINED = "low_confidence"
_BYTES_PER_TOKEN = 4


class Place(NamedTuple):
    """A model, and where it is served: without its key, which is nobody's business here."""

    api_base: str
    model: str


@dataclass(frozen=True)
class Side:
    """One of the two configurations, called OLD or NEW."""

    name: str
    config: Config

    def wish(self, request: Request) -> Wish:
        """What a request asks for: by its `policy`, else by `model` and `nim-llm-router`, as in the gateway.

        Raises BadRequest and NotFound, and KeyError for a policy that is not there.
        """
        if request.policy is not None:
            return Wish(self.config.policies[request.policy])
        return read_wish(request.prompt or {}, self.config)

    def policy(self, request: Request) -> Policy | RouteLLMPolicy:
        """The one that decides; `decided_by_both` saw that there is one."""
        policy = self.wish(request).policy
        assert policy is not None
        return policy


@dataclass(frozen=True)
class Outcome:
    """Who answers a request, and why; `strong` for a RouteLLM policy, None where neither of its models answers.

    `rule` says which text decides.
    """

    place: Place
    rule: Rule
    label: str | None
    reason: str
    labels: tuple[str, ...]
    routellm: bool
    strong: bool | None
    tokens_in_prompt: int | None

    @property
    def abstained(self) -> bool:
        return self.reason == ABSTAINED


def require_policies(requests: Sequence[Request], sides: Sequence[Side]) -> None:
    """Raises DataError, a line for each policy that requests name and a configuration lacks."""
    named: dict[str, str] = {}
    for request in requests:
        if request.policy is not None:
            named.setdefault(request.policy, request.at)
    refuse(
        [
            f"{at}: policy {name!r} is not in {side.name} (there: {', '.join(side.config.policies)})"
            for name, at in named.items()
            for side in sides
            if name not in side.config.policies
        ]
    )


def decided_by_both(requests: Sequence[Request], sides: Sequence[Side]) -> list[Request]:
    """The requests without those that name their model, on both sides; `require_policies` saw to the policies.

    Raises DataError, a line for each request that a side refuses, or that a policy decides on one side alone.
    """
    faults, decided = [], []
    for request in requests:
        try:
            named = [side.name for side in sides if side.wish(request).target is not None]
        except (BadRequest, NotFound) as error:
            faults.append(f"{request.at}: {error.message}")
            continue
        if not named:
            decided.append(request)
        elif len(named) < len(sides):
            faults.append(f"{request.at}: names its model by {' and '.join(named)}, and a policy by the other side")
    refuse(faults)
    return decided


def require_replayable(requests: Sequence[Request], old: Side, new: Side) -> None:
    """Raises DataError, a line for each policy of logged decisions that says nothing about one of the two sides."""
    logged: dict[str, list[Request]] = {}
    for request in requests:
        if request.logged is not None and request.policy is not None:
            logged.setdefault(request.policy, []).append(request)
    refuse([fault for name, rows in logged.items() for fault in _replay_faults(name, rows, old, new)])


def _replay_faults(name: str, rows: Sequence[Request], old: Side, new: Side) -> Iterator[str]:
    before, after = old.config.policies[name], new.config.policies[name]
    at = f"{rows[0].at}: policy {name!r}"
    if before.triton_model != after.triton_model:
        models = f"OLD asks {before.triton_model}, NEW {after.triton_model}"
        yield f"{at}: {models}, and a log holds what one model decided; replay prompts"
        return
    unsure = next((row for row in rows if _lacks_confidence(row)), None)
    if unsure and any(isinstance(each, Policy) and each.min_confidence is not None for each in (before, after)):
        yield f"{unsure.at}: the log is older than what min_confidence is judged by; replay prompts"
    if before.input != after.input:
        yield f"{at}: its input is {before.input} in OLD and {after.input} in NEW; replay prompts"
    wanted = isinstance(before, RouteLLMPolicy)
    labelled = [row for row in rows if row.logged is not None and row.logged.label is not None]
    strange = [row for row in labelled if row.logged is not None and (row.logged.win_rate is not None) != wanted]
    if strange:
        kind = "a win rate" if wanted else "a label alone"
        yield f"{strange[0].at}: policy {name!r} decides by {kind}, and this line's decision was another kind"
    elif known_labels(before.triton_model) is None and not wanted:
        seen = {row.logged.label for row in labelled if row.logged is not None}
        for side, policy in ((old, before), (new, after)):
            if seen and isinstance(policy, Policy) and not any(llm.name in seen for llm in policy.llms):
                yield (
                    f"{at}: no llm of {side.name} is named after a label of the log; llms that are taken in the order "
                    "of labels can't be replayed from one; replay prompts"
                )


def _lacks_confidence(request: Request) -> bool:
    logged = request.logged
    return logged is not None and logged.label is not None and not logged.tells_confidence


def question_of(side: Side, target: str | None, request: Request) -> Question | None:
    """What the gateway would ask, at the Triton `target` instead of its own; None when it would ask nothing, or did."""
    if request.prompt is None:
        return None
    policy = side.policy(request)
    text = text_of(request.prompt, request.at, policy.input)
    if not text.strip():
        return None
    return Question(target or side.config.triton_target(policy), policy.triton_model, bounded(text))


def outcomes(side: Side, requests: Sequence[Request], decisions: Sequence[Decision | None]) -> list[Outcome]:
    """What becomes of each request with its decision, in their order: shares of strong calls are held on the way."""
    held = {
        name: HeldShare(policy.target_strong_share, policy.threshold)
        for name, policy in side.config.policies.items()
        if isinstance(policy, RouteLLMPolicy) and policy.target_strong_share is not None
    }
    eligibility = Eligibility()  # knows of no upstream that is down: what counts is the configuration
    found = []
    for request, answered in zip(requests, decisions, strict=True):
        wish, policy = side.wish(request), side.policy(request)
        decision = answered if request.logged is None else decision_of(request.logged, policy)
        selection = _select(policy, decision, request, held.get(policy.name), wish.threshold)
        target = selection.target
        if request.prompt is not None:
            target = eligibility.order(selection.targets, _tokens_to_hold(request.prompt)).targets[0]
        found.append(_outcome(policy, decision, selection, target))
    return found


def decision_of(logged: Logged, policy: Policy | RouteLLMPolicy) -> Decision | None:
    """The decision that a line of the log tells of; its scores are the confidence alone, and what is left of 1."""
    labels = known_labels(policy.triton_model) or ()
    if logged.win_rate is not None:
        return Decision("", (), (), None, logged.tokens_in_prompt, None, logged.win_rate)
    if logged.label is None:
        return None
    scores = () if logged.confidence is None else scores_of(logged.confidence)
    return Decision(logged.label, labels, scores, None, logged.tokens_in_prompt)


def scores_of(confidence: float) -> tuple[float, ...]:
    """Probabilities of which the highest is `confidence`, above 0 and at most 1."""
    times = int(1 / confidence)
    return (confidence,) * times + (max(1 - times * confidence, 0.0),)


def prompt_tokens(request: Request, old: Outcome, new: Outcome) -> tuple[int | None, bool]:
    """The tokens of what decides, one number for both sides, and whether it is only an estimate by its bytes.

    None of a logged decision that does not tell.
    """
    told = old.tokens_in_prompt if old.tokens_in_prompt is not None else new.tokens_in_prompt
    if told is not None:
        return told, False
    if request.prompt is not None:
        text = text_of(request.prompt, request.at, old.rule)
        return math.ceil(len(text.encode(errors="replace")) / _BYTES_PER_TOKEN), bool(text.strip())
    empty = request.logged is not None and request.logged.reason == "empty_prompt"
    return (0, False) if empty else (None, False)


def costs_of(side: Side) -> tuple[dict[Place, Cost], list[str]]:
    """What each model costs, and a fault for each that has two costs."""
    costs: dict[Place, Cost] = {}
    faults = []
    for policy in side.config.policies.values():
        for upstream in policy.upstreams.values():
            if upstream.cost is None:
                continue
            place = Place(upstream.api_base, upstream.model)
            if costs.setdefault(place, upstream.cost) != upstream.cost:
                faults.append(f"{side.name}: model {upstream.model!r} at {upstream.api_base} has different costs")
    return costs, list(dict.fromkeys(faults))


def _select(
    policy: Policy | RouteLLMPolicy,
    decision: Decision | None,
    request: Request,
    held: HeldShare | None,
    threshold: float | None,
) -> Selection:
    """By the request's own `threshold`, else the one that holds the share."""
    if decision is None:
        # A log's own word, of whichever version of the gateway wrote it.
        return fall_back(policy, "empty_prompt" if request.logged is None else cast(Reason, request.logged.reason))
    if threshold is not None or held is None:
        return select(policy, decision, threshold)
    selection = select(policy, decision, held.threshold)
    held.count(selection.label == "strong")
    return selection


def _outcome(
    policy: Policy | RouteLLMPolicy, decision: Decision | None, selection: Selection, target: Target
) -> Outcome:
    place = Place(target.api_base, target.model)
    routellm = isinstance(policy, RouteLLMPolicy)
    return Outcome(
        place,
        policy.input,
        selection.label,
        selection.reason,
        () if decision is None else labels_of(decision),
        routellm,
        _is_strong(policy, place) if isinstance(policy, RouteLLMPolicy) else None,
        None if decision is None else decision.tokens_in_prompt,
    )


def _is_strong(policy: RouteLLMPolicy, place: Place) -> bool | None:
    sides = {True: policy.strong, False: policy.weak}
    return next((strong for strong, each in sides.items() if Place(each.api_base, each.model) == place), None)


def _tokens_to_hold(prompt: Mapping[str, object]) -> int:
    return estimated_tokens({"prompt": prompt["text"]} if "text" in prompt else prompt)
