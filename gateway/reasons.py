"""Every value of `x-router-reason`: why the model that answered did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Reason = Literal[
    "decided",
    "cached",
    "manual",
    "passthrough",
    "low_confidence",
    "empty_prompt",
    "no_llm_for_label",
    "decision_timeout",
    "triton_paused",
    "triton_unavailable",
    "decision_failed",
    "target_unavailable",
    "upstream_overloaded",
    "context_length",
]

AS_MEANT: frozenset[Reason] = frozenset({"decided", "cached", "low_confidence", "manual", "passthrough"})
"""Those of requests that were answered by the model that a policy, or the client, meant; the others are fallbacks."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """For people, in Markdown."""

    happened: str
    do: str
    """What an operator can do about it."""


_NOTHING = "nothing: it is as the configuration, or the client, has it"

REASONS: Mapping[Reason, Explanation] = {
    "decided": Explanation("Triton decided, and the model of that decision answered", _NOTHING),
    "cached": Explanation("the same prompt was decided before, and the decision remembered", _NOTHING),
    "manual": Explanation("the request named an llm of the policy (`routing_strategy: manual`)", _NOTHING),
    "passthrough": Explanation("the request named a model, and no policy was asked", _NOTHING),
    "low_confidence": Explanation(
        "the likeliest label is less probable than `min_confidence`: `on_abstain` answered, or the policy's fallback",
        "nothing, unless there are more than were meant: then measure the classifier on prompts of today "
        "(`scripts/evaluate`), and move `min_confidence` or train anew",
    ),
    "empty_prompt": Explanation(
        "there was no text to judge, such as an image alone: the policy's fallback answered",
        "see that the fallback can answer such requests; with `input: conversation` earlier messages count, too",
    ),
    "no_llm_for_label": Explanation(
        "the policy has no llm for the label: its fallback answered",
        "give the label an llm; `python -m gateway check FILE` names the labels without one",
    ),
    "decision_timeout": Explanation(
        "Triton did not decide within the policy's `timeout_ms`: its fallback answered",
        "look at Triton's queue and batches: more replicas or a GPU when requests wait, a longer `timeout_ms` when one "
        "alone takes that long",
    ),
    "triton_paused": Explanation(
        "several decisions in a row missed the deadline, and Triton is left alone for two seconds at a time: the "
        "policy's fallback answered",
        "as for `decision_timeout`; a Triton that has stopped answering at all has to be started again",
    ),
    "triton_unavailable": Explanation(
        "Triton cannot be reached, or does not serve the policy's model: the policy's fallback answered",
        "see whether it runs, at the address of the policy's `url` or `TRITON_GRPC_URL`, and whether its log says why "
        "a model did not load; `python -m gateway check --online FILE` asks the same",
    ),
    "decision_failed": Explanation(
        "Triton answered with an error, or with what says nothing: the policy's fallback answered",
        "Triton's log says why; a model whose process has died fails until Triton is started again",
    ),
    "target_unavailable": Explanation(
        "the model is not listed by its server, answered 404, cannot be reached, or rests after it failed: one of its "
        "`fallbacks` answered",
        "see whether the model's server runs and lists it (`llm_router_target_eligible`, `python -m gateway check "
        "--online FILE`)",
    ),
    "upstream_overloaded": Explanation(
        "the model's server answered 429, 503 or 529: one of its `fallbacks` answered",
        "give it more replicas, or route less to it",
    ),
    "context_length": Explanation(
        "the request is too long for the model's `context_length`: a fallback that has room answered",
        "nothing, if that is meant; else raise `context_length` to what the model can hold",
    ),
}
