from typing import Any

import pytest

from gateway.config import Config, Cost, Llm, Policy, RouteLLMPolicy
from gateway.decision import Decision
from gateway.errors import BadRequest, GatewayError, NotFound
from gateway.policy import Target, all_targets, as_cached, fall_back, read_named_model, read_wish, select, targets_of


def _llm(name: str, model: str, base: str = "http://up:1", key: str = "") -> Llm:
    return Llm.model_validate({"name": name, "api_base": base, "model": model, "api_key": key})


def _policy(name: str, llms: list[Llm], model: str = "task_router_ensemble", **fields: Any) -> Policy:
    url = f"http://triton:8000/v2/models/{model}/infer"
    return Policy.model_validate({"name": name, "url": url, "llms": llms, **fields})


_TASK = _policy("task", [_llm("Chatbot", "small", key="k1"), _llm("Code Generation", "big", "http://other:2")])
_INTENT = _policy("intent", [_llm("card", "a"), _llm("loan", "b")], "intent_router_ensemble", fallback="loan")


_PAIR = RouteLLMPolicy.model_validate(
    {
        "name": "pair",
        "type": "routellm",
        "strong": {"api_base": "http://up:1", "model": "large", "api_key": "k2"},
        "weak": {"api_base": "http://up:1/v1", "model": "router-tiny"},
        "threshold": 0.3,
    }
)
_BERT = _PAIR.model_copy(update={"name": "bert-pair", "router": "bert", "threshold": 0.4, "fallback": "weak"})


def _routellm_config() -> Config:
    return Config(_TASK, {"task": _TASK, "pair": _PAIR, "bert-pair": _BERT}, "http://default:3", None, ())


def _config(upstream: str | None = "http://default:3") -> Config:
    return Config(_TASK, {"task": _TASK, "intent": _INTENT}, upstream, None, ())


@pytest.mark.parametrize(
    ("fields", "policy"),
    [
        ({}, "task"),
        ({"model": ""}, "task"),
        ({"model": None}, "task"),
        ({"model": "auto"}, "task"),
        ({"model": "intent"}, "intent"),
        ({"nim-llm-router": {}}, "task"),
        ({"nim-llm-router": {"policy": ""}, "model": "intent"}, "task"),
        ({"nim-llm-router": {"policy": "intent"}, "model": "small"}, "intent"),
        ({"nim-llm-router": {"policy": "intent", "routing_strategy": "triton", "model": ""}}, "intent"),
        ({"nim-llm-router": {"policy": "intent", "routing_strategy": None, "threshold": 0.5, "extra": 1}}, "intent"),
    ],
)
def test_who_decides(fields: dict[str, Any], policy: str) -> None:
    """The router field comes first, then the model's name; nothing said means the default policy."""
    wish = read_wish(fields, _config())
    assert wish.policy is not None and wish.policy.name == policy
    assert wish.target is None


def test_manual_takes_the_llm_by_its_name() -> None:
    """`manual` names an llm of the policy, whose base and key are used."""
    field = {"policy": "task", "routing_strategy": "manual", "model": "Chatbot"}
    wish = read_wish({"nim-llm-router": field}, _config())
    assert wish.target == Target("http://up:1", "small", "k1") and wish.reason == "manual"


def test_other_models_pass_through_with_no_foreign_key() -> None:
    """A model that an llm serves goes to that llm's base with its key; any other to the default base without one."""
    assert read_wish({"model": "small"}, _config()).target == Target("http://up:1", "small", "k1")
    assert read_wish({"model": "big"}, _config()).target == Target("http://other:2", "big", "")
    assert read_wish({"model": "gpt-x"}, _config()).target == Target("http://default:3", "gpt-x", "")


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": 5}, BadRequest, "model"),
        ({"model": ["auto"]}, BadRequest, "model"),
        ({"nim-llm-router": None}, BadRequest, "nim-llm-router"),
        ({"nim-llm-router": "task"}, BadRequest, "nim-llm-router"),
        ({"nim-llm-router": {"policy": 5}}, BadRequest, "nim-llm-router.policy"),
        ({"nim-llm-router": {"policy": "nope"}}, NotFound, "nim-llm-router.policy"),
        ({"nim-llm-router": {"routing_strategy": "magic"}}, BadRequest, "nim-llm-router.routing_strategy"),
        ({"nim-llm-router": {"routing_strategy": {}}}, BadRequest, "nim-llm-router.routing_strategy"),
        ({"nim-llm-router": {"routing_strategy": "manual", "model": "x"}}, NotFound, "nim-llm-router.model"),
        ({"nim-llm-router": {"routing_strategy": "manual"}}, NotFound, "nim-llm-router.model"),
    ],
)
def test_wrong_wishes_are_named(fields: dict[str, Any], error: type[Exception], param: str) -> None:
    """A wrong value is a BadRequest, an unknown name a NotFound, and both say where."""
    with pytest.raises(error) as raised:
        read_wish(fields, _config())
    assert isinstance(raised.value, GatewayError) and raised.value.param == param


def test_a_named_model_is_never_a_choice() -> None:
    """What is never routed goes to the upstream of the model it names, and may not leave the choice to the router."""
    assert read_named_model({"model": "small"}, _config()).target == Target("http://up:1", "small", "k1")
    assert read_named_model({"model": "embed"}, _config()).target == Target("http://default:3", "embed", "")
    for model in (None, "", "auto", "task", "router-mf-0.1", "router-bert-x"):
        with pytest.raises(BadRequest, match="never routed") as error:
            read_named_model({"model": model}, _config())
        assert error.value.param == "model"
    with pytest.raises(BadRequest, match="never routed") as error:
        read_named_model({"model": "small", "nim-llm-router": {}}, _config())
    assert error.value.param == "nim-llm-router"
    with pytest.raises(BadRequest, match="must be a string"):
        read_named_model({"model": 5}, _config())


def test_unknown_model_without_a_default_upstream() -> None:
    """A model that nobody serves is not found."""
    with pytest.raises(NotFound, match="no model 'gpt-x'"):
        read_wish({"model": "gpt-x"}, _config(upstream=None))


def _decision(label: str, labels: tuple[str, ...]) -> Decision:
    return Decision(label, labels, tuple(1.0 if each == label else 0.0 for each in labels))


@pytest.mark.parametrize(
    ("policy", "label", "labels", "model", "reason"),
    [
        (_TASK, "Code Generation", ("Chatbot", "Code Generation", "Other"), "big", "decided"),
        (_TASK, "Other", ("Chatbot", "Code Generation", "Other"), "small", "no_llm_for_label"),
        (_INTENT, "card", ("loan", "card"), "a", "decided"),
        (_INTENT, "x", ("x", "y"), "a", "decided"),
        (_INTENT, "card", ("card", "x", "y"), "a", "decided"),
        (_INTENT, "y", ("card", "x", "y"), "b", "no_llm_for_label"),
    ],
    ids=["by name", "no llm", "learnt labels", "learnt labels by position", "learnt labels in part", "learnt no llm"],
)
def test_selection(policy: Policy, label: str, labels: tuple[str, ...], model: str, reason: str) -> None:
    """A label goes to its llm, and to the fallback when it has none."""
    selection = select(policy, _decision(label, labels))
    assert (selection.target.model, selection.reason, selection.label) == (model, reason, label)


@pytest.mark.parametrize(
    ("fields", "scores", "model", "reason"),
    [
        ({"min_confidence": 0.6}, (0.6, 0.4), "a", "decided"),
        ({"min_confidence": 0.6}, (0.59, 0.41), "b", "low_confidence"),
        ({"min_confidence": 0.6, "on_abstain": "card"}, (0.59, 0.41), "a", "low_confidence"),
        ({"min_confidence": 0.6, "on_abstain": "a"}, (0.59, 0.41), "a", "low_confidence"),
        ({"min_confidence": 0.6, "on_abstain": "third"}, (0.59, 0.41), "third", "low_confidence"),
        ({"min_confidence": 0.6}, (5.0, 4.0), "a", "decided"),
        ({}, (0.51, 0.49), "a", "decided"),
    ],
    ids=["sure", "fallback", "llm", "its model", "another model", "no probabilities", "never"],
)
def test_abstention(fields: dict[str, Any], scores: tuple[float, ...], model: str, reason: str) -> None:
    """Below the policy's confidence `on_abstain` answers, else the fallback; the label stays the likeliest one."""
    policy = _policy("p", list(_INTENT.llms), "intent_router_ensemble", fallback="loan", **fields)
    selection = select(policy, Decision("card", ("card", "loan"), scores))
    assert (selection.target.model, selection.reason, selection.label) == (model, reason, "card")
    assert as_cached(selection).reason == ("cached" if reason == "decided" else reason)


def test_abstention_without_an_llm_for_the_label() -> None:
    """A policy that is not sure says so, whether the label that it leans to has an llm or not."""
    policy = _policy("p", [_llm("card", "a")], "intent_router_ensemble", min_confidence=0.9, on_abstain="third")
    assert select(policy, Decision("loan", ("card", "loan"), (0.4, 0.6))).reason == "low_confidence"


def test_who_answers_when_unsure_is_one_of_the_policys_models() -> None:
    """The model that abstention goes to has the fallback's place and key, but not its price, nor its length; it is
    watched, and may be asked for, as any other."""
    fallback = _llm("card", "a", key="k").model_copy(update={"context_length": 10, "cost": Cost(input=1, output=2)})
    policy = _policy("p", [fallback], "intent_router_ensemble", min_confidence=0.9, on_abstain="third")
    third = policy.abstention_llm
    assert (third.context_length, third.cost) == (None, None)
    config = Config(policy, {"p": policy}, None, None, ())
    assert all_targets(config) == {Target("http://up:1", "a", "k"), Target("http://up:1", "third", "k")}
    assert read_wish({"model": "third"}, config).target == Target("http://up:1", "third", "k")
    manual = {"nim-llm-router": {"routing_strategy": "manual", "model": "third"}}
    assert read_wish(manual, config).target == Target("http://up:1", "third", "k")


def test_targets_have_their_llms_names() -> None:
    """Also where another key of the policy names the same llm, by its model."""
    llms = {
        "llms": [
            {"name": "A", "api_base": "http://x", "model": "a"},
            {"name": "B", "api_base": "http://x", "model": "b"},
        ]
    }
    url = "http://x:8000/v2/models/somebodys/infer"
    policy = Policy.model_validate({"name": "p", "url": url, "min_confidence": 0.5, "on_abstain": "b", **llms})
    assert {target.model: target.name for target in targets_of(policy)} == {"a": "A", "b": "B"}
    other = policy.model_copy(update={"on_abstain": "c"})
    assert {target.model: target.name for target in targets_of(other)} == {"a": "A", "b": "B", "c": "c"}
    pair = RouteLLMPolicy.model_validate(
        {"name": "p", "type": "routellm", "threshold": 0.5, "fallback": "b"}
        | {"strong": {"api_base": "http://x", "model": "a"}, "weak": {"api_base": "http://x", "model": "b"}}
    )
    assert {target.model: target.name for target in targets_of(pair)} == {"a": "strong", "b": "weak"}


def test_no_decision_means_the_fallback() -> None:
    """Without a decision the policy's fallback answers, and the reason says why."""
    selection = fall_back(_INTENT, "decision_timeout")
    assert (selection.target.model, selection.reason, selection.label) == ("b", "decision_timeout", None)


@pytest.mark.parametrize(
    ("fields", "policy", "triton_model", "threshold", "named"),
    [
        ({"model": "router-mf-0.11593"}, "pair", "routellm_mf", 0.11593, True),
        ({"model": "router-mf-0"}, "pair", "routellm_mf", 0.0, True),
        ({"model": "router-mf-1"}, "pair", "routellm_mf", 1.0, True),
        ({"model": "router-mf-1e-3"}, "pair", "routellm_mf", 0.001, True),
        ({"model": "router-mf-.5E+0"}, "pair", "routellm_mf", 0.5, True),
        ({"model": "router-bert-0.4066"}, "bert-pair", "routellm_bert", 0.4066, True),
        ({"model": "router-sw_ranking-0.2"}, "pair", "routellm_sw_ranking", 0.2, True),
        ({"model": "router-causal_llm-0.2"}, "pair", "routellm_causal_llm", 0.2, True),
        ({"model": "pair"}, "pair", "routellm_mf", None, False),
        ({"nim-llm-router": {"policy": "pair", "threshold": 0.7}}, "pair", "routellm_mf", 0.7, False),
        ({"nim-llm-router": {"policy": "pair", "threshold": None}}, "pair", "routellm_mf", None, False),
        ({"nim-llm-router": {"policy": "task", "threshold": "x"}}, "task", "task_router_ensemble", None, False),
    ],
)
def test_routellm_names_and_thresholds(
    fields: dict[str, Any], policy: str, triton_model: str, threshold: float | None, named: bool
) -> None:
    """RouteLLM's model names choose router and threshold; a policy without that router lends its two models."""
    wish = read_wish(fields, _routellm_config())
    assert wish.policy is not None
    assert (wish.policy.name, wish.policy.triton_model) == (policy, triton_model)
    assert (wish.threshold, wish.router_named) == (threshold, named)


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "router-mf"}, BadRequest, "model"),
        ({"model": "router-mf-"}, BadRequest, "model"),
        ({"model": "router-mf-2"}, BadRequest, "model"),
        ({"model": "router-mf--0.1"}, BadRequest, "model"),
        ({"model": "router-mf-nan"}, BadRequest, "model"),
        ({"model": "router-mf-inf"}, BadRequest, "model"),
        ({"model": "router-mf-0.1-0.2"}, BadRequest, "model"),
        ({"model": "router-mf-0_1"}, BadRequest, "model"),
        ({"model": "router-mf- 0.1"}, BadRequest, "model"),
        ({"model": "router-nope-0.5"}, NotFound, "model"),
        ({"model": "router-"}, NotFound, "model"),
        ({"nim-llm-router": {"policy": "pair", "threshold": 1.5}}, BadRequest, "nim-llm-router.threshold"),
        ({"nim-llm-router": {"policy": "pair", "threshold": True}}, BadRequest, "nim-llm-router.threshold"),
        ({"nim-llm-router": {"policy": "pair", "threshold": []}}, BadRequest, "nim-llm-router.threshold"),
        ({"nim-llm-router": {"policy": "pair", "threshold": 10**400}}, BadRequest, "nim-llm-router.threshold"),
    ],
)
def test_broken_routellm_names(fields: dict[str, Any], error: type[Exception], param: str) -> None:
    """A threshold that is none is a BadRequest, a router that is none a NotFound."""
    with pytest.raises(error) as raised:
        read_wish(fields, _routellm_config())
    assert isinstance(raised.value, GatewayError) and raised.value.param == param


def test_an_upstream_model_may_be_named_like_a_router() -> None:
    """A model that is configured goes through under its own name, whatever that looks like."""
    assert read_wish({"model": "router-tiny"}, _routellm_config()).target == Target("http://up:1", "router-tiny", "")


def test_routellm_names_without_such_a_policy() -> None:
    """Where no policy has a strong and a weak model, RouteLLM's names are not found."""
    with pytest.raises(NotFound, match="no policy of type 'routellm'"):
        read_wish({"model": "router-mf-0.1"}, _config())
    # Any other name is a model's, as without this convention.
    assert read_wish({"model": "router-v2-8b"}, _config()).target == Target("http://default:3", "router-v2-8b", "")


@pytest.mark.parametrize(
    ("win_rate", "threshold", "model", "label"),
    [
        (0.31, None, "large", "strong"),
        (0.3, None, "large", "strong"),
        (0.29, None, "router-tiny", "weak"),
        (0.29, 0.2, "large", "strong"),
        (0.9, 0.95, "router-tiny", "weak"),
        (0.0, 0.0, "large", "strong"),
    ],
)
def test_strong_at_the_threshold_and_above(win_rate: float, threshold: float | None, model: str, label: str) -> None:
    """A win rate that reaches the threshold goes to the strong model, as in RouteLLM; the request's own comes first."""
    selection = select(_PAIR, Decision("", (), (), win_rate=win_rate), threshold)
    assert (selection.target.model, selection.label, selection.reason) == (model, label, "decided")
    assert selection.threshold == (0.3 if threshold is None else threshold)


def test_routellm_fallbacks() -> None:
    """Without a decision the strong model answers, or what the policy names, with the strong one's base and key."""
    assert fall_back(_PAIR, "decision_timeout").target == Target("http://up:1", "large", "k2")
    assert fall_back(_BERT, "decision_timeout").target.model == "router-tiny"
    weak = _PAIR.weak.model_copy(update={"api_base": "http://weak:4", "model": "small"})
    named = _PAIR.model_copy(update={"weak": weak, "fallback": "small"})
    assert fall_back(named, "decision_timeout").target == Target("http://weak:4", "small", "")
    other = _PAIR.model_copy(update={"fallback": "third"})
    assert fall_back(other, "decision_timeout").target == Target("http://up:1", "third", "k2")


def test_manual_takes_strong_or_weak() -> None:
    """`manual` may name the strong or the weak model of a RouteLLM policy."""
    for name, model in (("strong", "large"), ("weak", "router-tiny")):
        field = {"policy": "pair", "routing_strategy": "manual", "model": name}
        target = read_wish({"nim-llm-router": field}, _routellm_config()).target
        assert target is not None and target.model == model
