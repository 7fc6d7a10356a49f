"""What a request asks for, and which model a decision means. Pure: no I/O."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from gateway.body import ROUTER_FIELD
from gateway.config import AUTOMATIC, Config, Cost, Policy, RouteLLMPolicy, Router, Upstream
from gateway.decision import Decision
from gateway.errors import BadRequest, NotFound
from gateway.reasons import Reason

_LONGEST_NAME = 512
_ROUTER_PREFIX = "router-"
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_ROUTERS: tuple[str, ...] = get_args(Router)


@dataclass(frozen=True, slots=True)
class Target:
    """An upstream model: where it is served, under which name, and with which key."""

    api_base: str
    model: str
    api_key: str = field(default="", repr=False)
    context_length: int | None = field(default=None, compare=False)
    """Tokens that it can hold, prompt and answer together; None when nobody said."""
    name: str = field(default="", compare=False)
    """Its llm's name in the policy, `strong` or `weak`; the model's own where it has none; empty when no llm has it."""
    cost: Cost | None = field(default=None, compare=False)
    """Of its tokens; None when nobody said."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for: a policy's decision, or a target of its own choice."""

    policy: Policy | RouteLLMPolicy | None = None
    target: Target | None = None
    reason: Reason = "passthrough"
    """Why it has a target of its own choice."""
    threshold: float | None = None
    """The request's own, for a RouteLLM policy."""
    router_named: bool = False
    """Whether the request asked for that very RouteLLM router: another answer would not be what it asked for."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The models that may answer, the chosen one first, and why."""

    targets: tuple[Target, ...]
    reason: Reason
    label: str | None = None
    threshold: float | None = None
    """What the win rate was compared with."""

    @property
    def target(self) -> Target:
        """The model that answers."""
        return self.targets[0]


def read_wish(fields: Mapping[str, Any], config: Config) -> Wish:
    """Who chooses the model of this request: the first of `nim-llm-router`, `model` that says anything.

    Raises BadRequest for values of the wrong kind and NotFound for names that are not configured.
    """
    if ROUTER_FIELD in fields:
        return _read_router_field(fields[ROUTER_FIELD], config)
    model = _model_name(fields)
    if model in AUTOMATIC:
        return Wish(config.default_policy)
    if model in config.policies:
        return Wish(config.policies[model])
    if _is_router_name(model, config):
        return _read_router_name(model, config)
    return Wish(target=_passthrough(model, config), reason="passthrough")


def read_named_model(fields: Mapping[str, Any], config: Config) -> Wish:
    """The model of a request that is never routed. Raises BadRequest when it leaves the choice to the router."""
    model = _model_name(fields)
    routed = model in AUTOMATIC or model in config.policies or _is_router_name(model, config)
    if routed or ROUTER_FIELD in fields:
        raise BadRequest(
            "embeddings are never routed, since vectors of two models do not compare: 'model' must name one model",
            param=ROUTER_FIELD if ROUTER_FIELD in fields else "model",
        )
    return Wish(target=_passthrough(model, config), reason="passthrough")


def _model_name(fields: Mapping[str, Any]) -> str:
    """The field `model`; empty when it is missing. Raises BadRequest when it is no name."""
    model = fields.get("model")
    if model is None:
        return ""
    if not isinstance(model, str):
        raise BadRequest("'model' must be a string", param="model")
    if len(model) > _LONGEST_NAME:
        raise BadRequest(f"'model' is longer than {_LONGEST_NAME} characters", param="model")
    return model


def _read_router_name(model: str, config: Config) -> Wish:
    """RouteLLM's `router-<router>-<threshold>`: a policy with that router, or with another one's two models.

    Raises BadRequest for a threshold that is none and NotFound for an unknown router or want of a RouteLLM policy.
    """
    router, _, threshold = model.removeprefix(_ROUTER_PREFIX).partition("-")
    if router not in _ROUTERS:
        raise NotFound(
            f"there is no router {router[:100]!r}; there are: {', '.join(_ROUTERS)}",
            param="model",
            code="model_not_found",
        )
    policies = [policy for policy in config.policies.values() if isinstance(policy, RouteLLMPolicy)]
    policies.sort(key=lambda policy: policy is not config.default_policy)  # the default one first
    if not policies:
        raise NotFound("no policy of type 'routellm' is configured", param="model", code="model_not_found")
    policy = next((each for each in policies if each.router == router), policies[0])
    policy = policy if policy.router == router else policy.model_copy(update={"router": router})
    return Wish(policy, threshold=_threshold(threshold, "model"), router_named=True)


def _threshold(value: Any, param: str) -> float:
    """A threshold out of a name or of a body. Raises BadRequest unless it is a number between 0 and 1."""
    threshold = math.nan
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        threshold = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        threshold = value
    if not 0 <= threshold <= 1:
        raise BadRequest("the threshold must be a number between 0 and 1, as in 'router-mf-0.11593'", param=param)
    return float(threshold)


def _is_router_name(model: str, config: Config) -> bool:
    """Whether a name is RouteLLM's and no model's: one that an llm serves, or the upstream may, is its own."""
    policies = config.policies.values()
    if not model.startswith(_ROUTER_PREFIX):
        return False
    if any(upstream.model == model for policy in policies for upstream in policy.upstreams.values()):
        return False
    is_meant = any(isinstance(policy, RouteLLMPolicy) for policy in policies)
    return is_meant or model.removeprefix(_ROUTER_PREFIX).partition("-")[0] in _ROUTERS


def _read_router_field(field: Any, config: Config) -> Wish:
    if not isinstance(field, dict):
        raise BadRequest(f"'{ROUTER_FIELD}' must be an object", param=ROUTER_FIELD)
    policy_name = _string(field, "policy")
    policy = config.policies.get(policy_name) if policy_name else config.default_policy
    if policy is None:
        known = ", ".join(config.policies)
        raise NotFound(
            f"there is no policy {policy_name[:100]!r}; there are: {known}",
            param=f"{ROUTER_FIELD}.policy",
            code="policy_not_found",
        )
    match _string(field, "routing_strategy"):
        case "" | "triton":
            return Wish(policy, threshold=_own_threshold(field, policy))
        case "manual":
            return Wish(policy, _target(policy, _manual_llm(policy, _string(field, "model"))), "manual")
        case strategy:
            raise BadRequest(
                f"unknown routing strategy {strategy[:100]!r}; expected 'triton' or 'manual'",
                param=f"{ROUTER_FIELD}.routing_strategy",
            )


def _own_threshold(field: Mapping[str, Any], policy: Policy | RouteLLMPolicy) -> float | None:
    """The request's threshold. A classification policy has no use for it, and ignores it as the blueprint does."""
    value = field.get("threshold")
    if value is None or not isinstance(policy, RouteLLMPolicy):
        return None
    return _threshold(value, f"{ROUTER_FIELD}.threshold")


def _manual_llm(policy: Policy | RouteLLMPolicy, name: str) -> Upstream:
    if name in policy.upstreams:
        return policy.upstreams[name]
    known = ", ".join(policy.upstreams)
    raise NotFound(
        f"policy {policy.name!r} has no llm {name[:100]!r}; it has: {known}",
        param=f"{ROUTER_FIELD}.model",
        code="model_not_found",
    )


def _string(field: Mapping[str, Any], key: str) -> str:
    value = field.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"'{ROUTER_FIELD}.{key}' must be a string", param=f"{ROUTER_FIELD}.{key}")
    return value


def _passthrough(model: str, config: Config) -> Target:
    """The upstream of the llm with that model, else the default upstream, without anybody else's key."""
    for policy in config.policies.values():
        for upstream in policy.upstreams.values():
            if upstream.model == model:
                return _target(policy, upstream)
    if config.upstream is None:
        raise NotFound(f"there is no model {model[:100]!r}", param="model", code="model_not_found")
    return Target(config.upstream, model)


def select(policy: Policy | RouteLLMPolicy, decision: Decision, threshold: float | None = None) -> Selection:
    """The policy's llm for a decision, the one for unsure decisions, or its fallback when the label has none.

    `threshold` stands in for a RouteLLM policy's own: the request's, or the one that holds a share.
    """
    if isinstance(policy, RouteLLMPolicy):
        return _select_by_win_rate(policy, decision, policy.threshold if threshold is None else threshold)
    if _is_unsure(policy, decision):
        return Selection(_targets(policy, policy.abstention_llm), "low_confidence", decision.label)
    try:
        llm = policy.llms_by_label(decision.labels).get(decision.label)
    except ValueError:  # only for labels that were not known when the configuration was read
        llm = next((llm for llm in policy.llms if llm.name == decision.label), None)
    if llm is None:
        return Selection(_targets(policy, policy.fallback_llm), "no_llm_for_label", decision.label)
    return Selection(_targets(policy, llm), "decided", decision.label)


def _is_unsure(policy: Policy, decision: Decision) -> bool:
    """Whether the policy abstains. Scores that are no probabilities say nothing of it."""
    if policy.min_confidence is None:
        return False
    confidence = decision.confidence
    return confidence is not None and confidence < policy.min_confidence


def _select_by_win_rate(policy: RouteLLMPolicy, decision: Decision, threshold: float) -> Selection:
    assert decision.win_rate is not None  # what RouteLLM's models answer
    label = "strong" if decision.win_rate >= threshold else "weak"
    return Selection(_targets(policy, policy.upstreams[label]), "decided", label, threshold)


def fall_back(policy: Policy | RouteLLMPolicy, reason: Reason) -> Selection:
    """What answers when there is no decision."""
    return Selection(_targets(policy, policy.fallback_llm), reason)


def as_cached(selection: Selection) -> Selection:
    """The same selection, by a decision that was remembered."""
    return replace(selection, reason="cached") if selection.reason == "decided" else selection


def all_targets(config: Config) -> frozenset[Target]:
    """Every target that a policy may choose."""
    return frozenset(target for policy in config.policies.values() for target in targets_of(policy))


def targets_of(policy: Policy | RouteLLMPolicy) -> tuple[Target, ...]:
    """Every target that the policy may choose; one by several names stands as often."""
    return tuple(target for upstream in policy.upstreams.values() for target in _targets(policy, upstream))


def _targets(policy: Policy | RouteLLMPolicy, upstream: Upstream) -> tuple[Target, ...]:
    return tuple(_target(policy, each) for each in policy.in_order(upstream))


def _target(policy: Policy | RouteLLMPolicy, upstream: Upstream) -> Target:
    name = next((name for name, each in policy.upstreams.items() if each is upstream), upstream.model)
    key = upstream.api_key.get_secret_value()
    return Target(upstream.api_base, upstream.model, key, upstream.context_length, name, upstream.cost)
