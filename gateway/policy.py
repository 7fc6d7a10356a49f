"""What a request asks for, and which model a decision means. Pure: no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.body import ROUTER_FIELD
from gateway.config import AUTOMATIC, Config, Llm, Policy
from gateway.decision import Decision
from gateway.errors import BadRequest, NotFound

_LONGEST_NAME = 512


@dataclass(frozen=True, slots=True)
class Target:
    """An upstream model: where it is served, under which name, and with which key."""

    api_base: str
    model: str
    api_key: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for: a policy's decision, or a target of its own choice."""

    policy: Policy | None = None
    target: Target | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The model that answers, and why."""

    target: Target
    reason: str
    label: str | None = None


def read_wish(fields: Mapping[str, Any], config: Config) -> Wish:
    """Who chooses the model of this request: the first of `nim-llm-router`, `model` that says anything.

    Raises BadRequest for values of the wrong kind and NotFound for names that are not configured.
    """
    if ROUTER_FIELD in fields:
        return _read_router_field(fields[ROUTER_FIELD], config)
    model = fields.get("model")
    if model is None or model in AUTOMATIC:
        return Wish(config.default_policy)
    if not isinstance(model, str):
        raise BadRequest("'model' must be a string", param="model")
    if len(model) > _LONGEST_NAME:
        raise BadRequest(f"'model' is longer than {_LONGEST_NAME} characters", param="model")
    if model in config.policies:
        return Wish(config.policies[model])
    return Wish(target=_passthrough(model, config), reason="passthrough")


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
            return Wish(policy)
        case "manual":
            return Wish(policy, _target(_manual_llm(policy, _string(field, "model"))), "manual")
        case strategy:
            raise BadRequest(
                f"unknown routing strategy {strategy[:100]!r}; expected 'triton' or 'manual'",
                param=f"{ROUTER_FIELD}.routing_strategy",
            )


def _manual_llm(policy: Policy, name: str) -> Llm:
    for llm in policy.llms:
        if llm.name == name:
            return llm
    known = ", ".join(llm.name for llm in policy.llms)
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
        for llm in policy.llms:
            if llm.model == model:
                return _target(llm)
    if config.upstream is None:
        raise NotFound(f"there is no model {model[:100]!r}", param="model", code="model_not_found")
    return Target(config.upstream, model)


def select(policy: Policy, decision: Decision) -> Selection:
    """The policy's llm for a decision, or its fallback when the label has none."""
    try:
        llm = policy.llms_by_label(decision.labels).get(decision.label)
    except ValueError:  # only for labels that were not known when the configuration was read
        llm = next((llm for llm in policy.llms if llm.name == decision.label), None)
    if llm is None:
        return Selection(_target(policy.fallback_llm), "no_llm_for_label", decision.label)
    return Selection(_target(llm), "decided", decision.label)


def fall_back(policy: Policy, reason: str) -> Selection:
    """What answers when there is no decision."""
    return Selection(_target(policy.fallback_llm), reason)


def _target(llm: Llm) -> Target:
    return Target(llm.api_base, llm.model, llm.api_key.get_secret_value())
