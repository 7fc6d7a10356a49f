"""Tables of docs/OPERATE.md: made from the metrics, the reasons, the alert rules, the dashboards and the log's line."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.chat import Routed
from gateway.observe.log import fields_of
from gateway.observe.metrics import Metrics
from gateway.observe.record import Record
from gateway.policy import Selection, Target
from gateway.reasons import REASONS
from scripts.observing.dashboards import DASHBOARDS

RULES = Path(__file__).parents[2] / "deploy" / "helm" / "llm-router" / "rules" / "llm-router.yaml"

# What to look at. A table with a metric that is not here, or none that is, is not made.
_LOOK_AT = {
    "llm_router_requests_total": "5xx and `broken`: an upstream fails. 429: the gateway is full. `client_gone`: "
    "clients lose patience",
    "llm_router_client_requests_total": "who sends how much",
    "llm_router_routed_total": "shares of labels, models and reasons: a jump is a change of traffic, of Triton or "
    "of an upstream",
    "llm_router_fallbacks_total": "0 is well; [the reason](#why-a-model-answered) says what to do",
    "llm_router_decision_seconds": "the 95th percentile beside the policy's `timeout_ms`",
    "llm_router_upstream_seconds": "a model that becomes slow, before its clients complain",
    "llm_router_first_byte_seconds": "what users of streams feel",
    "llm_router_request_seconds": "most of it is the model's writing",
    "llm_router_routellm_total": 'the share of `routed="strong"` beside the one that is meant',
    "llm_router_routellm_threshold": "how far the traffic has moved it from the configuration's",
    "llm_router_routellm_strong_share": "beside `target_strong_share`",
    "llm_router_classifier_tokens_total": "`cut` beside `read`: how much of the prompts decides nothing",
    "llm_router_prompts_cut_total": "when many are: whether head and tail say what these prompts are",
    "llm_router_tokens_total": "what each model has to do",
    "llm_router_usage_missing_total": "their tokens and cost are in no other metric: ask clients for "
    "`stream_options.include_usage`",
    "llm_router_cost_total": "where the money goes",
    "llm_router_cost_at_strongest_total": "less `llm_router_cost_total`: [the saving](#cost-and-saving)",
    "llm_router_traffic_total": "its shares beside the snapshot's: LlmRouterDrift does",
    "llm_router_traffic_snapshot": "0: the snapshot, or this value of it, is gone",
    "llm_router_requests_in_hand": "beside `llm_router_max_requests`",
    "llm_router_body_bytes_in_hand": "near 512 MiB new bodies get a 429",
    "llm_router_max_requests": "the configuration's, of all workers",
    "llm_router_decision_cache_entries": "full: the oldest are forgotten before their time",
    "llm_router_decision_cache_capacity": "`cache_entries`, of each worker",
    "llm_router_config_in_force": "0: the log names each fault of the file",
    "llm_router_target_eligible": "0 for long: the model's server is away, or does not list it",
    "llm_router_decision_cache_total": "the share of `hit`: what Triton is spared",
    "llm_router_config_reloads_total": "a change that you did not make",
    "num_requests": "as `llm_router_requests_total`",
    "requests_per_policy": "as `llm_router_routed_total`",
    "requests_per_model": "as `llm_router_routed_total`, by the llm's name",
    "routing_policy_usage": "how many choose for themselves",
    "llm_token_usage": "as `llm_router_tokens_total`",
    "request_success_total": "beside `num_requests`",
    "request_failure_total": "as `llm_router_requests_total`",
    "request_latency_seconds": "as `llm_router_first_byte_seconds`",
    "model_selection_time_seconds": "as `llm_router_decision_seconds`",
    "llm_response_time_seconds": "as `llm_router_upstream_seconds`",
    "proxy_overhead_latency_seconds": "milliseconds; more means clients that send their bodies slowly, or a gateway "
    "short of CPU: more gateways, or `--workers`",
}

_LOG_FIELDS = {
    "time": "when the request was over, UTC",
    "level": "`info`",
    "event": "`request`; other events are messages of the gateway itself",
    "request_id": "the `x-request-id` of answer and upstream request",
    "method": "of HTTP",
    "path": "the route; empty when there is none",
    "status": "the answer's; null: the client left before it",
    "outcome": "`complete`, `client_gone`, or `broken`: begun, and not finished",
    "duration_ms": "from arrival to the last byte",
    "first_byte_ms": "from arrival to the first byte",
    "bytes_out": "of the answer's body",
    "client": "the name of the key that let it in",
    "trace_id": "of its [trace](#traces); not there when there are none",
    "policy": "that was asked",
    "label": "the decision's",
    "model": "that answered, or would have",
    "reason": "[why it did](#why-a-model-answered)",
    "decision_ms": "how long Triton was asked; null: it was not",
    "win_rate": "of a RouteLLM policy",
    "threshold": "that the win rate was compared with",
    "confidence": "the highest score, when scores are probabilities",
    "score": "the highest score",
    "tokens_read": "of the prompt, by the classifier",
    "tokens_in_prompt": "by the classifier's tokenizer",
    "prompt_cut": "whether it was too long to be sent to Triton whole",
    "checkpoint": "the network that decided: `name:version:digest`",
    "upstream_ms": "from asking upstream to the head of the answer",
    "input_tokens": "as the upstream counted them; null: it did not say",
    "output_tokens": "likewise",
    "cost": "of these tokens; null: the llm has no cost",
    "cost_at_strongest": "with the policy's strongest model",
}


def metric_table(ours: bool) -> str:
    """The gateway's own metrics, or those by the blueprint's names. Raises ValueError when this file lacks one."""
    found = {name: row for name, *row in _metrics()}
    _require_same(set(found), set(_LOOK_AT))
    rows = ["| metric | labels | what | look at |", "|---|---|---|---|"]
    for name, (kind, labels, what) in found.items():
        if name.startswith("llm_router_") is ours:
            rows.append(f"| `{name}` ({kind}) | {labels} | {what} | {_LOOK_AT[name]} |")
    return "\n".join(rows)


def reason_table() -> str:
    """Every `x-router-reason`."""
    rows = ["| reason | what happened | what to do |", "|---|---|---|"]
    rows += [f"| `{reason}` | {each.happened} | {each.do} |" for reason, each in REASONS.items()]
    return "\n".join(rows)


def log_table() -> str:
    """The fields of a request's line. Raises ValueError when this file lacks one."""
    _require_same({"time", "level", "event", *fields_of(_RECORD)}, set(_LOG_FIELDS))
    rows = ["| field | what |", "|---|---|"]
    rows += [f"| `{name}` | {what} |" for name, what in _LOG_FIELDS.items()]
    return "\n".join(rows)


def alert_sections() -> str:
    """A heading for each alert, which its description leads to."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return "\n\n".join(map(_alert_section, group["rules"]))


def dashboard_table() -> str:
    """What each dashboard shows."""
    rows = ["| dashboard | row | panels |", "|---|---|---|"]
    for make in DASHBOARDS.values():
        made = make()
        for title, panels in _rows_of(made["panels"]).items():
            rows.append(f"| {made['title']} | {title} | {'; '.join(panels)} |")
    return "\n".join(rows)


def _metrics() -> Iterator[tuple[str, str, str, str]]:
    """Of each: its name, type, labels and text."""
    for collector in Metrics().registry._collector_to_names:  # what it tells otherwise has no labels before a value
        metric: Any = collector
        name = metric._name + ("_total" if metric._type == "counter" else "")
        yield name, metric._type, ", ".join(f"`{label}`" for label in metric._labelnames), metric._documentation


def _require_same(found: set[str], described: set[str]) -> None:
    if wrong := sorted(found ^ described):
        raise ValueError(f"scripts/observing/tables.py has other names than the code: {', '.join(wrong)}")


def _alert_section(rule: Mapping[str, Any]) -> str:
    notes = {name: _without_template(text) for name, text in rule["annotations"].items()}
    description = re.sub(r" See docs/OPERATE\.md#\w+$", "", notes["description"])
    return (
        f"### {rule['alert']}\n\n{rule['labels']['severity'].capitalize()}, after {rule['for']}. {notes['summary']}\n\n"
        f"{description}"
    )


def _without_template(text: str) -> str:
    """An alert's text with its labels' names in place of their values; links lead within the page."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", text)
    text = re.sub(r"\{\{ \$value[^}]*\}\}", "*so much*", text)
    return re.sub(r"docs/OPERATE\.md(#why[\w-]+)", r"[the table of reasons](\1)", text)


def _rows_of(panels: list[dict[str, Any]]) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for panel in panels:
        if panel["type"] == "row":
            rows[panel["title"]] = titles = []
        else:
            titles.append(panel["title"].lower() if panel["title"][1:2].islower() else panel["title"])
    return rows


_RECORD = Record(
    request_id="",
    method="POST",
    path="",
    status=200,
    outcome="complete",
    seconds=0.0,
    head_seconds=None,
    first_byte_seconds=None,
    bytes_out=0,
    routed=Routed(Selection((Target("", ""),), "decided")),
    client=None,
    usage=None,
    spent=None,
    trace_id="",
)
