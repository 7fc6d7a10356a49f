"""`check --online`: whether Triton and the upstreams have what the configuration names."""

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.config import Config, Policy, RouteLLMPolicy
from gateway.decision import Decision
from gateway.errors import DecisionFailed
from gateway.models import refresh
from gateway.policy import all_targets
from gateway.state import State, open_state

_SECONDS = 10.0  # more than any policy's deadline needs: a first decision may find a model cold


@dataclass(frozen=True, slots=True)
class Found:
    """One line for each thing that is not as the configuration has it, or that could not be found out."""

    faults: list[str]
    warnings: list[str]


async def look_online(config: Config) -> Found:
    """Asks every Triton and every upstream of `config`."""
    async with open_state(config) as state:
        found = [await _look_at(state, policy) for policy in config.policies.values()]
        await refresh(state)
        faults = [fault for each in found for fault in each.faults]
        warnings = [warning for each in found for warning in each.warnings]
        return Found(faults + _upstream_faults(state), warnings + _upstream_warnings(state))


async def _look_at(state: State, policy: Policy | RouteLLMPolicy) -> Found:
    place = f"policy {policy.name!r}: {policy.triton_model} at {state.config.triton_target(policy)}"
    try:
        decision = await state.triton_of(policy).decide(policy.triton_model, "ping", _SECONDS)
    except DecisionFailed as failure:
        return Found([f"{place}: no decision ({failure.reason}): {failure}"], [])
    faults = [] if isinstance(policy, RouteLLMPolicy) else list(misfits(policy, decision))
    warnings = [*_confidence_warnings(policy, decision), *snapshot_warnings(state.config, policy, decision)]
    return Found([f"{place}: {each}" for each in faults], [f"{place}: {each}" for each in warnings])


def misfits(policy: Policy, decision: Decision) -> Iterator[str]:
    """What a policy expects of its model, and a decision does not have."""
    if policy.min_confidence is not None and decision.confidence is None:
        yield "its scores are no probabilities, which a min_confidence needs"
    if any(decision.labels):
        try:
            policy.llms_by_label(decision.labels)
        except ValueError as error:
            yield str(error)


def _confidence_warnings(policy: Policy | RouteLLMPolicy, decision: Decision) -> Iterator[str]:
    waits = isinstance(policy, Policy) and policy.min_confidence is not None
    if waits and sorted(decision.scores)[-2:] == [0.0, 1.0]:
        yield "its answer is one-hot: if all are, a min_confidence never matters"


def snapshot_warnings(config: Config, policy: Policy | RouteLLMPolicy, decision: Decision) -> Iterator[str]:
    """That the policy's snapshot is of another network than the one that decides."""
    snapshot = config.snapshots.get(policy.name)
    if snapshot is None or snapshot.checkpoint is None or decision.checkpoint is None:
        return
    if _name_and_digest(snapshot.checkpoint) != _name_and_digest(decision.checkpoint):
        yield f"its checkpoint is {decision.checkpoint}, and the policy's snapshot is of {snapshot.checkpoint}"


def _name_and_digest(checkpoint: str) -> tuple[str, str]:
    """Of `name:version:digest`, or of `name:digest`, as a training knows no version."""
    return checkpoint.partition(":")[0], checkpoint.rpartition(":")[2]


def _upstream_faults(state: State) -> list[str]:
    known = state.eligibility
    targets = sorted(all_targets(state.config), key=lambda target: (target.api_base, target.model))
    silent = sorted({target.api_base for target in targets if known.is_silent(target.api_base)})
    unlisted = [target for target in targets if known.lists(target.api_base) and not known.eligible(target)]
    return [
        *(f"upstream {base}: does not answer" for base in silent),
        *(f"upstream {target.api_base}: does not list model {target.model!r}" for target in unlisted),
    ]


def _upstream_warnings(state: State) -> list[str]:
    known = state.eligibility
    bases = sorted({target.api_base for target in all_targets(state.config)})
    shy = [base for base in bases if not known.lists(base) and not known.is_silent(base)]
    return [f"upstream {base}: does not list its models to this configuration's key" for base in shy]
