"""What an answer's tokens cost, and what they would have cost with the strongest model of the policy."""

from dataclasses import dataclass

from gateway.chat import Routed
from gateway.config import Cost, Policy, RouteLLMPolicy
from gateway.observe.usage import Usage


@dataclass(frozen=True, slots=True)
class Spent:
    """In the configuration's currency, whichever that is."""

    cost: float
    """Of the model that answered."""
    at_strongest: float | None
    """As many tokens of the policy's strongest model; None when it has no cost. What the client chose itself counts
    with its own cost: no routing saved anything."""


def spent(routed: Routed, usage: Usage) -> Spent | None:
    """None when nobody said what the model costs.

    As many tokens as there were are counted for the strongest model, too: that it would have written more or less is
    not known, nor is what a prefix cache would have saved of a conversation that changes models.
    """
    own = routed.selection.target.cost
    if own is None:
        return None
    cost = price(own, usage)
    if routed.policy is None:
        return Spent(cost, cost)
    if (strongest := cost_of_strongest(routed.policy)) is None:
        return Spent(cost, None)
    return Spent(cost, cost if routed.selection.reason == "manual" else price(strongest, usage))


def price(cost: Cost, usage: Usage) -> float:
    """Of so many tokens; `cost` is of a million."""
    return (cost.input * usage.input_tokens + cost.output * usage.output_tokens) / 1e6


def cost_of_strongest(policy: Policy | RouteLLMPolicy) -> Cost | None:
    """A RouteLLM policy says which model is its strongest. Of another one it is the llm whose answers, then prompts,
    cost most: nothing else tells."""
    if isinstance(policy, RouteLLMPolicy):
        return policy.strong.cost
    costs = [llm.cost for llm in policy.llms if llm.cost is not None]
    return max(costs, key=lambda cost: (cost.output, cost.input), default=None)
