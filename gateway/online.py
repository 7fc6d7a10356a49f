"""`check --online`: whether Triton and the upstreams have what the configuration names."""

from collections.abc import AsyncIterator

from gateway.config import Config, Policy, RouteLLMPolicy
from gateway.errors import DecisionFailed
from gateway.models import refresh
from gateway.policy import all_targets
from gateway.state import State, open_state

_SECONDS = 10.0  # more than any policy's deadline needs: a first decision may find a model cold


async def online_faults(config: Config) -> list[str]:
    """One line for each thing that is not as `config` has it."""
    async with open_state(config) as state:
        faults = [fault for policy in config.policies.values() async for fault in _policy_faults(state, policy)]
        await refresh(state)
        return faults + _upstream_faults(state)


async def _policy_faults(state: State, policy: Policy | RouteLLMPolicy) -> AsyncIterator[str]:
    place = f"policy {policy.name!r}: {policy.triton_model} at {state.config.triton_target(policy)}"
    try:
        decision = await state.triton_of(policy).decide(policy.triton_model, "ping", _SECONDS)
    except DecisionFailed as failure:
        yield f"{place}: no decision ({failure.reason}): {failure}"
        return
    if isinstance(policy, Policy) and any(decision.labels):
        try:
            policy.llms_by_label(decision.labels)
        except ValueError as error:
            yield f"{place}: {error}"


def _upstream_faults(state: State) -> list[str]:
    targets = sorted(all_targets(state.config), key=lambda target: (target.api_base, target.model))
    silent = sorted({target.api_base for target in targets if not state.eligibility.lists(target.api_base)})
    unlisted = [
        target for target in targets if target.api_base not in silent and not state.eligibility.eligible(target)
    ]
    return [
        *(f"upstream {base}: does not list its models" for base in silent),
        *(f"upstream {target.api_base}: does not list model {target.model!r}" for target in unlisted),
    ]
