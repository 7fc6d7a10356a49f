"""Grafana's dashboards, of which the JSON files in the chart are made.

python -m scripts.observing.dashboards          writes them
python -m scripts.observing.dashboards --check  says which are not as this file has them; scripts/check asks
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.observing.panels import (
    Panel,
    Query,
    Row,
    dashboard,
    else_none,
    in_range,
    quantiles,
    rate,
    ratio,
    series,
)

FOLDER = Path(__file__).parents[2] / "deploy" / "helm" / "llm-router" / "dashboards"

_API = 'path=~"/v1/.*|/completions"'
_SHARE = {"max": 1}
_MONEY = {"decimals": 4, "min": None}
_PROMISE = "In the currency of the llms' cost in the configuration."
_NOT_COUNTED = (
    f"{_PROMISE} Tokens as the upstreams counted them, times the llms' cost; saved is what the same tokens would have "
    "cost with the policy's strongest model, less what they did cost. Not counted: that a conversation which changes "
    "models meets a cold prefix cache, that another model's answer would have been longer or shorter, answers without "
    "usage."
)


def operators() -> dict[str, Any]:
    """For who runs the router."""
    rows = [
        Row("At a glance", _at_a_glance()),
        Row("Traffic", _traffic()),
        Row("Decisions", _decisions()),
        Row("Fallbacks", _fallbacks()),
        Row("Latency, step by step", _latency()),
        Row("Tokens", _tokens()),
        Row("Cost and saving", _saving()),
        Row("Triton", _triton()),
        Row("Configuration", _configuration()),
    ]
    about = "What the router decides, why, what it saves, and how it is. docs/OPERATE.md has each metric and reason."
    return dashboard("llm-router", "LLM router", about, "llm_router_config_in_force", rows)


def blueprint() -> dict[str, Any]:
    """By the metrics' names in NVIDIA's LLM Router blueprint."""
    about = "By the metrics' names in NVIDIA's LLM Router blueprint v1: its users' own dashboards go on working."
    rows = [Row("Requests", _blueprint_requests()), Row("Time and tokens", _blueprint_times())]
    return dashboard("llm-router-blueprint", "LLM router: the blueprint's metrics", about, "num_requests", rows)


def _at_a_glance() -> Sequence[Panel]:
    routed, broken = (
        rate("llm_router_routed_total"),
        rate("llm_router_requests_total", _API, 'outcome="broken"', 'status!~"5.."'),
    )
    failed = rate("llm_router_requests_total", _API, 'status=~"5.."')
    errors = f"(({failed} or vector(0)) + ({broken} or vector(0)))"
    return [
        Panel(
            "Requests", "Requests a second for which a model was chosen.", [Query(routed)], "reqps", stat=True, width=4
        ),
        Panel(
            "Errors",
            "Of the API's requests, those that ended with a 5xx or broke off. LlmRouterErrors fires above 5 %.",
            [Query(ratio(errors, rate("llm_router_requests_total", _API)))],
            "percentunit",
            stat=True,
            width=4,
        ),
        Panel(
            "Fallbacks",
            "Of the requests with a model chosen, those for another one than a decision would have had.",
            [Query(ratio(f"({rate('llm_router_fallbacks_total')} or vector(0))", routed))],
            "percentunit",
            stat=True,
            width=4,
        ),
        Panel(
            "In hand",
            "Requests being answered now, running streams included.",
            [Query(f"sum({series('llm_router_requests_in_hand')})")],
            stat=True,
            width=4,
        ),
        Panel(
            "Saved",
            f"In the time that is shown. {_NOT_COUNTED}",
            [Query(_saved())],
            stat=True,
            width=4,
            options=_MONEY,
        ),
        Panel(
            "Gateways",
            "Those that Prometheus gets metrics of.",
            [Query(f"count({series('llm_router_config_in_force')})")],
            stat=True,
            width=4,
        ),
    ]


def _traffic() -> Sequence[Panel]:
    return [
        Panel(
            "Requests by policy",
            "Empty: no policy was asked, since the client named a model itself.",
            [Query(rate("llm_router_routed_total", by="policy"), "{{policy}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests by model",
            "Which models were chosen. Empty: a model that the client named itself.",
            [Query(rate("llm_router_routed_total", by="model"), "{{model}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Answers by status",
            "Status None: the client left before an answer; broken: the answer could not be finished.",
            [Query(rate("llm_router_requests_total", _API, by="status, outcome"), "{{status}} {{outcome}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests in hand",
            "Running streams included. Beyond the upper line the gateways answer 429.",
            [
                Query(f"sum({series('llm_router_requests_in_hand')})", "in hand"),
                Query(f"sum({series('llm_router_max_requests')})", "429 beyond"),
            ],
        ),
        Panel(
            "Bytes of bodies in hand",
            "Of requests being answered; 512 MiB of each gateway at most, and 429 beyond.",
            [Query(f"sum({series('llm_router_body_bytes_in_hand')})", "bytes")],
            "bytes",
        ),
        Panel(
            "Requests by client",
            "By the name of the key that let them in; none without client keys.",
            [Query(else_none(rate("llm_router_client_requests_total", by="client"), "client"), "{{client}}")],
            "reqps",
            stacked=True,
        ),
    ]


def _decisions() -> Sequence[Panel]:
    routed = rate("llm_router_routed_total", 'policy!=""', by="policy")
    unsure = rate("llm_router_routed_total", 'reason="low_confidence"', by="policy")
    hits = rate("llm_router_decision_cache_total", 'result="hit"')
    return [
        Panel(
            "Labels",
            "What the prompts are, by each policy.",
            [Query(rate("llm_router_routed_total", 'label!=""', by="policy, label"), "{{policy}}: {{label}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Why that model",
            "x-router-reason. decided and cached are decisions; docs/OPERATE.md says what the others mean.",
            [Query(rate("llm_router_routed_total", by="reason"), "{{reason}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Distance of a day's traffic from its snapshot",
            "Of policies with a snapshot, by label, confidence, length and language: 0 is the same, 1 nothing in "
            "common. LlmRouterDrift fires above 0.3, or prometheusRule.driftDistance.",
            [Query(_distance(), "{{policy}}: {{of}}")],
            "percentunit",
            options=_SHARE,
        ),
        Panel(
            "Confidence, beside its snapshot",
            "Of policies with a snapshot: the share of decisions whose likeliest label is less probable than 0.5.",
            [
                Query(
                    ratio(
                        f"({rate('llm_router_traffic_total', _UNSURE, by='policy')} or 0 * {_TRAFFIC})",
                        _TRAFFIC,
                    ),
                    "{{policy}}",
                ),
                Query(
                    f"sum by (policy) (max by (policy, value) ({series('llm_router_traffic_snapshot', _UNSURE)}))",
                    "{{policy}}: snapshot",
                ),
            ],
            "percentunit",
            options=_SHARE,
        ),
        Panel(
            "Abstentions",
            "The share of a policy's requests below its min_confidence; 0 where a policy has none.",
            [Query(ratio(f"({unsure} or 0 * {routed})", routed), "{{policy}}")],
            "percentunit",
            options=_SHARE,
        ),
        Panel(
            "Strong share",
            "Of RouteLLM policies: the share of decisions for the strong model; with a target_strong_share, also of "
            "the last thousand.",
            [
                Query(_strong_share(), "{{policy}}"),
                Query(
                    f"avg by (policy) ({series('llm_router_routellm_strong_share')})",
                    "{{policy}}: of the last thousand",
                ),
            ],
            "percentunit",
            options=_SHARE,
        ),
        Panel(
            "Threshold of the win rate",
            "Of policies with a target_strong_share: a win rate of this much or more goes to the strong model.",
            [Query(f"avg by (policy) ({series('llm_router_routellm_threshold')})", "{{policy}}")],
            "percentunit",
            options=_SHARE,
        ),
        Panel(
            "Decisions remembered: hits",
            "The share of decisions that were remembered and not asked of Triton.",
            [Query(ratio(hits, rate("llm_router_decision_cache_total")), "hits")],
            "percentunit",
            options=_SHARE,
        ),
        Panel(
            "Decisions remembered: entries",
            "Full means that the oldest are forgotten before their time: gateway.cache_entries.",
            [
                Query(f"sum({series('llm_router_decision_cache_entries')})", "entries"),
                Query(f"sum({series('llm_router_decision_cache_capacity')})", "at most"),
            ],
        ),
    ]


_UNSURE = 'of="confidence",value=~"0\\\\.[0-4].*"'
_TRAFFIC = rate("llm_router_traffic_total", 'of="confidence"', by="policy")


def _distance() -> str:
    """The total variation distance, as the alert LlmRouterDrift has it."""
    traffic = f"increase({series('llm_router_traffic_total')}[1d])"
    share = f"(sum by (policy, of, value) ({traffic}) / on (policy, of) group_left sum by (policy, of) ({traffic}))"
    snapshot = f"max by (policy, of, value) ({series('llm_router_traffic_snapshot')})"
    distance = f"sum by (policy, of) (clamp_min({share} - ({snapshot} or 0 * {share}), 0))"
    return f"{distance} and on (policy, of) {series('llm_router_traffic_snapshot')} > 0"


def _strong_share() -> str:
    decided = rate("llm_router_routellm_total", by="policy")
    strong = rate("llm_router_routellm_total", 'routed="strong"', by="policy")
    return ratio(f"({strong} or 0 * {decided})", decided)


def _fallbacks() -> Sequence[Panel]:
    return [
        Panel(
            "Fallbacks by reason",
            "Requests for another model than a decision would have had, and why. decision_* and triton_* are "
            "Triton's; target_unavailable, upstream_overloaded and context_length the models'.",
            [Query(else_none(rate("llm_router_fallbacks_total", by="reason"), "reason"), "{{reason}}")],
            "reqps",
            stacked=True,
            width=12,
        ),
        Panel(
            "Fallbacks by policy",
            "The same, by policy.",
            [Query(else_none(rate("llm_router_fallbacks_total", by="policy"), "policy"), "{{policy}}")],
            "reqps",
            stacked=True,
            width=12,
        ),
        Panel(
            "Models that can take requests",
            "0: a gateway passes the model over, as not listed, overloaded or not to be reached.",
            [
                Query(
                    f"min by (upstream, model) ({series('llm_router_target_eligible')})",
                    "{{model}} at {{upstream}}",
                )
            ],
            width=24,
            options=_SHARE,
        ),
    ]


def _latency() -> Sequence[Panel]:
    return [
        Panel(
            "Decision",
            "From asking Triton to its answer or failure, by policy. Past timeout_ms the fallback answers.",
            quantiles("llm_router_decision_seconds", by="policy"),
            "s",
        ),
        Panel(
            "Upstream's head",
            "From the first request upstream to the head of the answer, by model; models asked before it are in it.",
            quantiles("llm_router_upstream_seconds", by="model"),
            "s",
        ),
        Panel(
            "What the router adds",
            "What is left without the decision and the wait for the upstream: the gateway's own work.",
            quantiles("proxy_overhead_latency_seconds"),
            "s",
        ),
        Panel(
            "First byte",
            "From a request's arrival to the first byte of its answer, by path.",
            quantiles("llm_router_first_byte_seconds", _API, by="path"),
            "s",
            width=12,
        ),
        Panel(
            "Whole answer",
            "From a request's arrival to the last byte of its answer, by path; of streams, to their end.",
            quantiles("llm_router_request_seconds", _API, by="path"),
            "s",
            width=12,
        ),
    ]


def _tokens() -> Sequence[Panel]:
    return [
        Panel(
            "Tokens of prompts",
            "Input tokens a second, as the upstreams counted them.",
            [Query(rate("llm_router_tokens_total", 'type="input"', by="model"), "{{model}}")],
            stacked=True,
        ),
        Panel(
            "Tokens of answers",
            "Output tokens a second, as the upstreams counted them.",
            [Query(rate("llm_router_tokens_total", 'type="output"', by="model"), "{{model}}")],
            stacked=True,
        ),
        Panel(
            "Answers without usage",
            "Whole answers whose tokens are not known, and so not in tokens and cost: streams whose client did not set "
            "stream_options.include_usage.",
            [
                Query(
                    else_none(rate("llm_router_usage_missing_total", by="policy, model"), "model"),
                    "{{policy}} {{model}}",
                )
            ],
            "reqps",
            stacked=True,
        ),
        Panel(
            "The classifier's tokens",
            "Tokens of prompts that the classifier read, and those that it did not since a prompt was too long for it.",
            [Query(else_none(rate("llm_router_classifier_tokens_total", by="part"), "part"), "{{part}}")],
            stacked=True,
            width=12,
        ),
        Panel(
            "Prompts cut",
            "Prompts of which the classifier saw only head and tail.",
            [Query(else_none(rate("llm_router_prompts_cut_total", by="policy"), "policy"), "{{policy}}")],
            "reqps",
            stacked=True,
            width=12,
        ),
    ]


def _saving() -> Sequence[Panel]:
    spent, strongest = "llm_router_cost_total", "llm_router_cost_at_strongest_total"
    by, name = "policy, model", "{{policy}}: {{model}}"
    return [
        Panel(
            "Spent and saved in the time shown",
            _NOT_COUNTED,
            [
                Query(in_range(spent), "spent"),
                Query(in_range(strongest), "with the strongest model"),
                Query(_saved(), "saved"),
            ],
            stat=True,
            width=24,
            options=_MONEY,
        ),
        Panel(
            "Spent an hour",
            f"By policy and model. {_PROMISE}",
            [Query(f"3600 * {rate(spent, by=by)}", name)],
            stacked=True,
            options=_MONEY,
        ),
        Panel(
            "With the strongest model, an hour",
            f"What the same tokens would have cost with each policy's strongest model. {_PROMISE}",
            [Query(f"3600 * {rate(strongest, by=by)}", name)],
            stacked=True,
            options=_MONEY,
        ),
        Panel(
            "Saved an hour",
            _NOT_COUNTED,
            [Query(f"3600 * ({rate(strongest, by=by)} - {rate(spent, by=by)})", name)],
            stacked=True,
            options=_MONEY,
        ),
    ]


def _saved() -> str:
    """Where both are known: a strongest model without a cost says nothing of what was saved."""
    spent, strongest = "llm_router_cost_total", "llm_router_cost_at_strongest_total"
    return f"sum({in_range(strongest, by='policy, model')} - {in_range(spent, by='policy, model')})"


def _triton() -> Sequence[Panel]:
    success, failure = "nv_inference_request_success", "nv_inference_request_failure"
    done = rate(success, by="model")
    return [
        Panel(
            "Time in the queue",
            "Of a request, on average. What autoscaling looks at.",
            [Query(ratio(rate("nv_inference_queue_duration_us", by="model"), done), "{{model}}")],
            "µs",
        ),
        Panel(
            "Time of computing",
            "Of a request, on average, whichever batch it was in.",
            [Query(ratio(rate("nv_inference_compute_infer_duration_us", by="model"), done), "{{model}}")],
            "µs",
        ),
        Panel(
            "Batch",
            "Rows that one execution takes, on average.",
            [
                Query(
                    ratio(rate("nv_inference_count", by="model"), rate("nv_inference_exec_count", by="model")),
                    "{{model}}",
                )
            ],
        ),
        Panel(
            "Inferences",
            "That went well, by Triton's own count. An ensemble and what it is composed of count each.",
            [Query(done, "{{model}}")],
            "reqps",
            width=12,
        ),
        Panel(
            "Failures",
            "By model, and those that were cancelled: the client has left, or the decision's deadline passed.",
            [
                Query(rate(failure, 'reason!="CANCELED"', by="model"), "{{model}}"),
                Query(rate(failure, 'reason="CANCELED"'), "cancelled"),
            ],
            "reqps",
            width=12,
        ),
    ]


def _configuration() -> Sequence[Panel]:
    return [
        Panel(
            "In force",
            "0: the file as it is now was refused, and the one before stays in force. The log names each fault.",
            [Query(f"min by (pod, instance) ({series('llm_router_config_in_force')})", "{{pod}} {{instance}}")],
            width=12,
            options=_SHARE,
        ),
        Panel(
            "Changes",
            "Changed configurations that gateways adopted, or refused, in the time shown.",
            [Query(in_range("llm_router_config_reloads_total", by="result"), "{{result}}")],
            width=12,
        ),
    ]


def _blueprint_requests() -> Sequence[Panel]:
    return [
        Panel("Requests", "num_requests.", [Query(rate("num_requests"), "requests")], "reqps"),
        Panel(
            "Requests by policy",
            "requests_per_policy.",
            [Query(rate("requests_per_policy", by="policy"), "{{policy}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests by llm",
            "requests_per_model, by the llm's name in the configuration.",
            [Query(rate("requests_per_model", by="model"), "{{model}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests by strategy",
            "routing_policy_usage: triton decides, or the request names an llm (manual).",
            [Query(rate("routing_policy_usage", by="routing_policy"), "{{routing_policy}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Success",
            "request_success_total.",
            [Query(rate("request_success_total"), "success")],
            "reqps",
        ),
        Panel(
            "Failure",
            "request_failure_total, by kind of error.",
            [Query(else_none(rate("request_failure_total", by="error_type"), "error_type"), "{{error_type}}")],
            "reqps",
            stacked=True,
        ),
    ]


def _blueprint_times() -> Sequence[Panel]:
    return [
        Panel("To the first byte", "request_latency_seconds.", quantiles("request_latency_seconds"), "s"),
        Panel("Choice of the model", "model_selection_time_seconds.", quantiles("model_selection_time_seconds"), "s"),
        Panel("Answer by llm", "llm_response_time_seconds.", quantiles("llm_response_time_seconds", by="llm"), "s"),
        Panel(
            "What the router adds",
            "proxy_overhead_latency_seconds.",
            quantiles("proxy_overhead_latency_seconds"),
            "s",
        ),
        Panel(
            "Tokens by category",
            "llm_token_usage: total is prompt and completion together.",
            [Query(rate("llm_token_usage", by="category"), "{{category}}")],
        ),
        Panel(
            "Tokens by llm",
            "llm_token_usage, prompt and completion together.",
            [Query(rate("llm_token_usage", 'category="total"', by="llm_name"), "{{llm_name}}")],
            stacked=True,
        ),
    ]


DASHBOARDS = {"llm-router.json": operators, "llm-router-blueprint.json": blueprint}


def texts() -> Mapping[str, str]:
    """Each file's name and text."""
    return {name: json.dumps(make(), indent=2, ensure_ascii=False) + "\n" for name, make in DASHBOARDS.items()}


def main(arguments: Sequence[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = [
        name for name, text in texts().items() if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text
    ]
    for name in stale:
        if arguments:
            print(
                f"{FOLDER / name} is not what scripts/observing/dashboards.py makes: scripts/check --fix",
                file=sys.stderr,
            )
        else:
            (FOLDER / name).write_text(texts()[name])
    return 1 if stale and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
