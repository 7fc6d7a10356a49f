from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.config import Config, ConfigError, Cost, Policy, RouteLLMPolicy, load_config
from gateway.labels import known_labels

ROOT = Path(__file__).parents[2]
_URL = "http://router-server:8000/v2/models/{}/infer"
_LLM = "{{name: {}, api_base: 'http://up:1', model: {}}}"


def _policy(name: str, llms: list[tuple[str, str]], model: str = "task_router_ensemble", extra: str = "") -> str:
    rows = ", ".join(_LLM.format(label, upstream) for label, upstream in llms)
    return f"  - {{name: {name}, url: '{_URL.format(model)}', {extra} llms: [{rows}]}}\n"


def _load(tmp_path: Path, text: str, **environ: str) -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load_config(file, environ)


def _policy_of(config: Config) -> Policy:
    policy = config.default_policy
    assert isinstance(policy, Policy)
    return policy


def _faults(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        _load(tmp_path, text, **environ)
    return [fault.removeprefix(f"{tmp_path / 'config.yaml'}: ") for fault in error.value.faults]


def test_default_configuration_routes_as_its_tables_say() -> None:
    """The default file loads without a warning, names every label, and finds /v1 or none in the base alike."""
    for base in ("http://dynamo:8000", "http://dynamo:8000/v1", "http://dynamo:8000/v1/"):
        config = load_config(ROOT / "deploy" / "router-config-dynamo.yaml", {"DYNAMO_API_BASE": base})
        assert not config.warnings
        assert config.default_policy.name == "task_router"
        for policy in config.policies.values():
            assert isinstance(policy, Policy)
            assert [llm.name for llm in policy.llms] != []
            assert {llm.name for llm in policy.llms} == set(known_labels(policy.triton_model) or ())
            assert {llm.api_base for llm in policy.llms} == {"http://dynamo:8000"}
    by_name = {llm.name: llm.model for llm in _policy_of(config).llms}
    assert by_name["Code Generation"] == "llama-3.3-nemotron-super-49b-v1"
    assert by_name["Unknown"] == "llama-3.1-8b-instruct"


def test_blueprint_file_with_notes_of_its_own(tmp_path: Path) -> None:
    """Keys that the blueprint's users keep inside llms are warned of and ignored."""
    text = "policies:\n" + _policy("p", [("Chatbot", "m")]).replace("model: m", "model: m, note: mine")
    config = _load(tmp_path, text)
    assert any("policies[0].llms[0].note: unknown key" in warning for warning in config.warnings)


def _blueprint(api_key: str) -> str:
    """The blueprint's own file, v1.0: two policies, a stanza for each label, NVIDIA's hosted models."""
    text = "policies:\n"
    for policy in ("task_router", "complexity_router"):
        text += (
            f'  - name: "{policy}"\n    url: http://router-server:8000/v2/models/{policy}_ensemble/infer\n    llms:\n'
        )
        for label in known_labels(f"{policy}_ensemble") or ():
            text += (
                f"      - name: {label}\n        api_base: https://integrate.api.nvidia.com\n"
                f"        api_key: {api_key}\n        model: meta/llama-3.1-70b-instruct\n"
            )
    return text


@pytest.mark.parametrize(
    ("api_key", "environ", "key", "warned"),
    [
        ("nvapi-literal", {}, "nvapi-literal", False),
        ("${NVIDIA_API_KEY}", {"NVIDIA_API_KEY": "nvapi-1: # '\""}, "nvapi-1: # '\"", False),
        ('"${NVIDIA_API_KEY}"', {"NVIDIA_API_KEY": "nvapi-1"}, "nvapi-1", False),
        ("${NVIDIA_API_KEY}", {}, "", True),
        ('""', {}, "", False),
    ],
)
def test_blueprint_file(tmp_path: Path, api_key: str, environ: dict[str, str], key: str, warned: bool) -> None:
    """The blueprint's own file loads as it is, with its key written out, from the environment, or missing."""
    config = _load(tmp_path, _blueprint(api_key), **environ)
    assert list(config.policies) == ["task_router", "complexity_router"]
    assert config.default_policy.name == "task_router"
    for policy in config.policies.values():
        assert isinstance(policy, Policy)
        assert {llm.api_key.get_secret_value() for llm in policy.llms} == {key}
        assert {llm.api_base for llm in policy.llms} == {"https://integrate.api.nvidia.com"}
        assert set(policy.llms_by_label(known_labels(policy.triton_model) or ())) == set(
            known_labels(policy.triton_model) or ()
        )
        assert config.triton_target(policy) == "router-server:8001"
    assert bool(config.warnings) == warned


def test_labels_by_name_in_any_order(tmp_path: Path) -> None:
    """Named after labels, order does not matter, and a label without llm goes to the fallback with a warning."""
    config = _load(tmp_path, "policies:\n" + _policy("p", [("Chatbot", "b"), ("Brainstorming", "a")]))
    policy = _policy_of(config)
    by_label = policy.llms_by_label(known_labels("task_router_ensemble") or ())
    assert {label: llm.model for label, llm in by_label.items()} == {"Chatbot": "b", "Brainstorming": "a"}
    assert any("has no llm for Classification" in warning for warning in config.warnings)


def test_labels_by_position(tmp_path: Path) -> None:
    """With no name a label and as many llms as labels, position decides, as in the blueprint; it is warned of."""
    llms = [(f"llm{index}", f"m{index}") for index in range(7)]
    config = _load(tmp_path, "policies:\n" + _policy("p", llms, "complexity_router_ensemble"))
    by_label = _policy_of(config).llms_by_label(known_labels("complexity_router_ensemble") or ())
    assert by_label["Creativity"].model == "m0" and by_label["Constraint"].model == "m6"
    assert any("taken in the labels' order" in warning for warning in config.warnings)


@pytest.mark.parametrize(
    ("llms", "stranger"), [([("Chatbot", "a"), ("Chatbto", "b")], "Chatbto"), ([("one", "a"), ("two", "b")], "one")]
)
def test_labels_anything_between_is_refused(tmp_path: Path, llms: list[tuple[str, str]], stranger: str) -> None:
    """Some names labels and some not, or too few without names, is an error that names the llm."""
    (fault,) = _faults(tmp_path, "policies:\n" + _policy("p", llms))
    assert fault.startswith(f"policies[0].llms: policy 'p': llm {stranger!r} is no label of model")


def test_labels_of_other_models_are_left_open(tmp_path: Path) -> None:
    """A model that is not ours may have any labels; they are learnt from its answers."""
    config = _load(tmp_path, "policies:\n" + _policy("p", [("anything", "a")], "intent_router_ensemble"))
    assert not config.warnings and config.default_policy.triton_model == "intent_router_ensemble"


@pytest.mark.parametrize(
    ("extra", "fallback"), [("", "Unknown"), ("fallback: Chatbot,", "Chatbot")], ids=["unclassified", "named"]
)
def test_fallback(tmp_path: Path, extra: str, fallback: str) -> None:
    """The fallback is the llm named, else the one for the unclassified."""
    config = _load(tmp_path, "policies:\n" + _policy("p", [("Chatbot", "a"), ("Unknown", "b")], extra=extra))
    assert _policy_of(config).fallback_llm.name == fallback


def test_variables_are_values_and_never_structure(tmp_path: Path) -> None:
    """Text from the environment stays one value, whatever YAML it looks like; defaults apply as in a shell."""
    text = "policies:\n" + _policy("p", [("Chatbot", "'${MODEL}'"), ("Unknown", "'${EMPTY:-${MODEL:-m2}'")])
    text = text.replace("'${EMPTY:-${MODEL:-m2}'", "'${EMPTY:-m2}'")
    config = _load(tmp_path, text, MODEL="a: b # c\n- d", EMPTY="")
    assert [llm.model for llm in _policy_of(config).llms] == ["a: b # c\n- d", "m2"]


def test_a_missing_key_is_a_warning_and_a_missing_base_a_fault(tmp_path: Path) -> None:
    """An upstream may need no key; a variable that is needed is named once, however often it stands in the file."""
    llm = "{name: %s, api_base: '${BASE}', api_key: '${KEY}', model: m}"
    text = f"policies:\n  - {{name: p, url: '{_URL.format('x')}', llms: [{llm % 'a'}, {llm % 'b'}]}}\n"
    assert _load(tmp_path, text, BASE="http://up:1").warnings == (
        f"{tmp_path / 'config.yaml'}: environment variable KEY is not set: requests go upstream without that api_key",
    )
    assert _faults(tmp_path, text) == ["policies[0].llms[0].api_base and 1 more: environment variable BASE is not set"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "Input should be"),
        ("[]", "Input should be"),
        ("policies: []", "policies: expected at least one"),
        ("policies: [", "is not valid YAML"),
        ("policies: 5", "policies: Input should be"),
        ("policies: &a [*a]", "an alias refers to itself"),
        ("policies: []\npolicies: []", "the key 'policies' stands twice"),
        ("policies:\n" + _policy("p", []), "policies[0].llms: expected at least one"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]) + "polices: 1", "polices: unknown key"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")], extra="timeout: 5,"), "policies[0].timeout: unknown key"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")], extra="timeout_ms: 0,"), "policies[0].timeout_ms"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")], extra="input: all,"), "policies[0].input"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")], extra="fallback: x,"), "policy 'p' has no llm 'x'"),
        ("policies:\n" + _policy("p", [("Chatbot", "m"), ("Chatbot", "n")]), "'Chatbot' is defined twice"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]) * 2, "policy 'p' is defined twice"),
        ("policies:\n" + _policy("auto", [("Chatbot", "m")]), "'auto' means the default policy"),
        ("default_policy: x\npolicies:\n" + _policy("p", [("Chatbot", "m")]), "there is no policy 'x'; there are p"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("http://up:1", "up:1"), "llms[0].api_base: expected"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("up:1", "u:p@up:1"), "without credentials"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("/infer", ""), "policies[0].url: expected http://"),
        ("policies:\n" + _policy("p", [("Chatbot", "''")]), "policies[0].llms[0].model"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("up:1", "up:abc"), "llms[0].api_base: Port"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("up:1", "up:99999"), "llms[0].api_base: Port"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("up:1", "up:1/v1?a=b"), "without a query"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("up:1", "u p"), "expected an http:// or https://"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("up:1", "[::"), "llms[0].api_base: Invalid IPv6"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("router-server", "u:p@r"), "without credentials"),
        ("policies:\n" + _policy("p", [("Chatbot", "m")]).replace("model: m", 'api_key: "a\\nb", model: m'), "api_key"),
        ("policies: {[a]: b}", "is not valid YAML"),
        ("policies: 2026-13-45", "is not valid YAML"),
        ("policies: \x00", "is not valid YAML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    """Each fault is one line with the key's path and what was expected."""
    faults = _faults(tmp_path, text)
    assert any(complaint in fault for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


_PAIR = (
    "policies:\n  - {name: pair, type: routellm, threshold: 0.3, "
    "strong: {api_base: 'http://up:1/v1', model: s}, weak: {api_base: 'http://up:1', model: w}}\n"
)


def test_routellm_policy(tmp_path: Path) -> None:
    """A strong and a weak model and a threshold are a policy; router, Triton and fallback have their defaults."""
    policy = _load(tmp_path, _PAIR).default_policy
    assert isinstance(policy, RouteLLMPolicy)
    assert (policy.router, policy.triton_model, policy.triton_host) == ("mf", "routellm_mf", "localhost")
    assert (policy.strong.api_base, policy.fallback_llm.model) == ("http://up:1", "s")
    assert list(policy.upstreams) == ["strong", "weak"]
    noted = _load(tmp_path, _PAIR.replace("model: w", "model: w, note: 1"))
    assert any("policies[0].weak.note: unknown key" in warning for warning in noted.warnings)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("threshold: 0.3", "threshold: 1.5", "policies[0].threshold: Input should be less than or equal to 1"),
        ("threshold: 0.3", "threshold: .nan", "policies[0].threshold"),
        ("threshold: 0.3, ", "", "policies[0].threshold: missing"),
        ("threshold: 0.3", "threshold: true", "policies[0].threshold: expected a number"),
        ("threshold: 0.3", "threshold: 0.3, fallback: ' '", "policies[0].fallback: String should match"),
        ("threshold: 0.3", "threshold: 0.3, router: random", "policies[0].router: Input should be 'mf'"),
        ("threshold: 0.3", "threshold: 0.3, llms: []", "policies[0].llms: unknown key"),
        ("threshold: 0.3", "threshold: 0.3, target_strong_share: 0", "policies[0].target_strong_share"),
        ("threshold: 0.3", "threshold: 0.3, target_strong_share: 1", "policies[0].target_strong_share"),
        (
            "threshold: 0.3",
            "threshold: 0.3, target_strong_share: 0.2, input: first_user",
            "policies[0].target_strong_share: moves the threshold, and 'input: first_user' needs a fixed one",
        ),
        ("model: w", "modle: w", "policies[0].weak.model: missing"),
        ("type: routellm", "type: routelm", "policies[0]: type: expected 'classification' or 'routellm'"),
        ("type: routellm", "type: [routellm]", "policies[0]: type: expected 'classification' or 'routellm'"),
        ("type: routellm", "type: classification", "policies[0].url: missing"),
    ],
)
def test_faults_of_routellm_policies_are_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    """Each fault of a RouteLLM policy is one line with the key's path, without the kind of policy in it."""
    faults = _faults(tmp_path, _PAIR.replace(old, new))
    assert any(fault.startswith(complaint) for fault in faults), faults


def test_a_routellm_model_needs_a_routellm_policy(tmp_path: Path) -> None:
    """A policy of labels can't be decided by a win rate, and is told of the other kind."""
    faults = _faults(tmp_path, "policies:\n" + _policy("p", [("strong", "m"), ("weak", "n")], "routellm_mf"))
    assert faults == ["policies[0].url: routellm_mf answers with a win rate; expected 'type: routellm'"]
    assert not _load(tmp_path, "policies:\n" + _policy("p", [("a", "m")], "routellm_mine")).warnings


def test_environment_variables_are_checked(tmp_path: Path) -> None:
    """What the environment adds is judged like the file."""
    text = "policies:\n" + _policy("p", [("Chatbot", "m")])
    assert _faults(tmp_path, text, DYNAMO_API_BASE="dynamo:8000", TRITON_GRPC_URL="http://triton:8001") == [
        "environment variable DYNAMO_API_BASE: expected an http:// or https:// URL",
        "environment variable TRITON_GRPC_URL: expected HOST:PORT, without a scheme",
    ]
    config = _load(tmp_path, text, DYNAMO_API_BASE="", TRITON_GRPC_URL="dns:///triton:8001")
    assert (config.upstream, config.triton_grpc_url) == (None, "dns:///triton:8001")


@pytest.mark.parametrize(
    ("written", "key"), [("", ""), ("null", ""), ("''", ""), ("abc", "abc"), ('"abc\\n"', "abc"), ("'${KEY}'", "xyz")]
)
def test_keys_may_be_empty_and_end_in_a_newline(tmp_path: Path, written: str, key: str) -> None:
    """An api_key may be empty or missing, and one out of a mounted file may end in a newline."""
    text = "policies:\n" + _policy("p", [("Chatbot", "m")]).replace("model: m", f"api_key: {written}, model: m")
    (llm,) = _policy_of(_load(tmp_path, text, KEY="xyz\n")).llms
    assert llm.api_key.get_secret_value() == key


def test_yaml_anchors_and_merge_keys(tmp_path: Path) -> None:
    """Files that share keys between llms by YAML's own means load."""
    policy = _policy("p", [("Chatbot", "m"), ("Unknown", "n")])
    policy = policy.replace("{name: Chatbot", "&shared {name: Chatbot").replace(
        "{name: Unknown, api_base: 'http://up:1'", "{<<: *shared, name: Unknown"
    )
    assert [llm.api_base for llm in _policy_of(_load(tmp_path, "policies:\n" + policy)).llms] == ["http://up:1"] * 2


def test_broken_yaml_shows_no_key(tmp_path: Path) -> None:
    """A YAML error tells line and column, and never the line itself, which may hold a key."""
    (fault,) = _faults(tmp_path, "policies:\n  - {name: a, api_key: sk-SECRET, model: [}")
    assert "line 2, column" in fault and "SECRET" not in fault


def test_every_fault_at_once(tmp_path: Path) -> None:
    """An operator sees all faults in one go, and check exits with 2."""
    file = tmp_path / "config.yaml"
    file.write_text("extra: 1\npolicies:\n" + _policy("p", [("Chatbot", "''")], extra="inptu: 1,"))
    with pytest.raises(ConfigError) as error:
        load_config(file, {})
    assert len(error.value.faults) == 3
    assert all(fault.startswith(f"{file}: ") for fault in error.value.faults)
    assert main(["check", str(file)]) == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, a folder, or no UTF-8 is one clear line."""
    (tmp_path / "latin.yaml").write_bytes(b"policies: \xe9")
    for name, complaint in {
        "none.yaml": "No such file",
        ".": "Is a directory",
        "latin.yaml": "not valid UTF-8",
    }.items():
        with pytest.raises(ConfigError, match=complaint):
            load_config(tmp_path / name, {})


def test_keys_never_show(tmp_path: Path) -> None:
    """Neither the redacted view nor the object's own text holds a key, or what stands in unknown fields."""
    text = "policies:\n" + _policy("p", [("Chatbot", "m")]).replace("model:", "api_key: s3cret, token: t0ken, model:")
    config = _load(tmp_path, text)
    shown = yaml.safe_dump(config.redacted())
    assert "[REDACTED]" in shown
    assert "s3cret" not in shown + repr(config) and "t0ken" not in shown


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 2)])
def test_strict_check_counts_warnings(
    tmp_path: Path, strict: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` passes a file with warnings and shows them; `--strict` does not pass it."""
    file = tmp_path / "config.yaml"
    file.write_text("policies:\n" + _policy("p", [("Chatbot", "m")]))
    assert main(["check", str(file), *(["--strict"] if strict else [])]) == code
    assert "warning:" in capsys.readouterr().err


_FALLBACKS = """
policies:
  - name: p
    url: http://router-server:8000/v2/models/task_router_ensemble/infer
    llms:
      - name: Chatbot
        api_base: http://a:1
        api_key: first
        model: big
        context_length: 8192
        fallbacks: [Other, x, small]
      - {name: Other, api_base: http://b:1, model: small, fallbacks: [big]}
  - name: r
    type: routellm
    threshold: 0.5
    strong: {api_base: http://a:1, model: big, fallbacks: [weak]}
    weak: {api_base: http://b:1, model: small}
"""


def test_costs_of_some(tmp_path: Path) -> None:
    """What a policy spends can't be told when only some of its models have a cost."""
    text = (
        "policies: [{name: p, type: routellm, threshold: 0.5, strong: {api_base: 'http://x', model: a, "
        "cost: {input: 1, output: 2}}, weak: {api_base: 'http://x', model: b}}]"
    )
    (warning,) = _load(tmp_path, text).warnings
    assert "policy 'p' has no cost for weak" in warning
    assert not _load(tmp_path, text.replace(", cost: {input: 1, output: 2}", "")).warnings
    named = text.replace("model: b", "model: b, cost: {input: 1, output: 1}")
    assert not _load(tmp_path, named).warnings
    (warning,) = _load(tmp_path, named.replace("model: b,", "model: b, fallbacks: [c, d, c],")).warnings
    assert "no cost for c, d: " in warning
    (warning,) = _load(tmp_path, text.replace("type:", "fallback: b, type:")).warnings
    assert "no cost for weak: " in warning


def test_fallbacks_in_order(tmp_path: Path) -> None:
    """A fallback is another llm by name, else one by its model, else a model at the same place; each once."""
    config = _load(tmp_path, _FALLBACKS)
    assert not [warning for warning in config.warnings if "unknown" in warning]
    policy = _policy_of(config)
    order = [
        (each.api_base, each.model, each.api_key.get_secret_value(), each.context_length)
        for each in policy.in_order(policy.llms[0])
    ]
    assert order == [
        ("http://a:1", "big", "first", 8192),
        ("http://b:1", "small", "", None),
        ("http://a:1", "x", "first", None),
    ]
    assert [each.model for each in policy.in_order(policy.llms[1])] == ["small", "big"]
    routellm = config.policies["r"]
    assert isinstance(routellm, RouteLLMPolicy)
    assert [each.model for each in routellm.in_order(routellm.strong)] == ["big", "small"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("[Other, x, small]", "[Other, '']", "policies[0].llms[0].fallbacks: expected names that are not empty"),
        ("[Other, x, small]", "Other", "policies[0].llms[0].fallbacks: Input should be a valid tuple"),
        ("8192", "0", "policies[0].llms[0].context_length: Input should be greater than or equal to 1"),
        (
            "api_key: first",
            "api_key: first\n        api_key_file: /k",
            "policies[0].llms[0].api_key_file: there is an api_key, too",
        ),
        (
            "api_key: first",
            "api_key_file: /no/such/file",
            "policies[0].llms[0].api_key_file: /no/such/file cannot be read",
        ),
        ("api_key: first", "api_key_file: /dev/null", "policies[0].llms[0].api_key_file: /dev/null is empty"),
        ("weak: {", "weak: {api_key_file: /dev/null, ", "policies[1].weak.api_key_file: /dev/null is empty"),
        ("\npolicies", "\ngateway: {max_requests: 0}\npolicies", "gateway.max_requests: Input should be greater than"),
        ("\npolicies", "\ngateway: {cache_seconds: true}\npolicies", "gateway.cache_seconds: expected a number"),
        ("\npolicies", "\ngateway: {silence_seconds: .inf}\npolicies", "gateway.silence_seconds: Input should be"),
        ("\npolicies", "\ngateway: {workers: 3}\npolicies", "gateway.workers: unknown key"),
    ],
)
def test_faults_of_targets_and_bounds(tmp_path: Path, old: str, new: str, fault: str) -> None:
    """Fallbacks, key files and bounds that can't be are named by their place."""
    assert old in _FALLBACKS
    assert [found[: len(fault)] for found in _faults(tmp_path, _FALLBACKS.replace(old, new, 1))] == [fault]


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ("on_abstain: Other,", "policies[0].on_abstain: policy 'p' never abstains; expected a min_confidence, too"),
        ("min_confidence: 0.5, on_abstain: '',", "policies[0].on_abstain: String should match pattern"),
        ("min_confidence: 1.5,", "policies[0].min_confidence: Input should be less than or equal to 1"),
        ("min_confidence: true,", "policies[0].min_confidence: expected a number"),
        ("min_confidence: .nan,", "policies[0].min_confidence: Input should be a finite number"),
        ("snapshot: none.json,", "policies[0].snapshot: {folder}/none.json: cannot be read: No such file"),
        ("snapshot: broken.json,", "policies[0].snapshot: {folder}/broken.json: label: expected shares that add to 1"),
        ('snapshot: "a\\0b",', "policies[0].snapshot: '{folder}/a\\x00b': is no file's name"),
        (
            "min_confidence: 0.5, on_abstain: Rewrite,",
            "policies[0].on_abstain: 'Rewrite' is a label, and no llm of policy 'p'",
        ),
    ],
)
def test_faults_of_abstention_and_snapshots(tmp_path: Path, extra: str, fault: str) -> None:
    """What can't be is named by its place, in a snapshot's file, too."""
    (tmp_path / "broken.json").write_text(_SNAPSHOT.replace("0.75", "0.5"))
    fault = fault.format(folder=tmp_path)
    text = "policies:\n" + _policy("p", [("Chatbot", "m"), ("Other", "n")], extra=extra)
    assert [found[: len(fault)] for found in _faults(tmp_path, text)] == [fault]


@pytest.mark.parametrize(
    ("name", "warned"),
    [("Chatbot", False), ("n", False), ("Othr", True)],
)
def test_who_answers_when_a_policy_abstains(tmp_path: Path, name: str, warned: bool) -> None:
    """An llm by its name or its model; any other name is taken for a model's, with a warning, in case it is none."""
    extra = f"min_confidence: 0.5, on_abstain: {name},"
    config = _load(tmp_path, "policies:\n" + _policy("p", [("Chatbot", "m"), ("Other", "n")], extra=extra))
    policy = _policy_of(config)
    said = f"policies[0].on_abstain: {name!r} is no llm: taken as a model at {policy.llms[0].api_base}"
    assert [said in warning for warning in config.warnings].count(True) == warned
    assert policy.abstention_llm.model == {"Chatbot": "m"}.get(name, name)


def test_a_model_beside_another(tmp_path: Path) -> None:
    """A model that is only named, as in on_abstain, has the place and the key of the one it stands beside, no more."""
    text = _FALLBACKS.replace("    llms:", "    on_abstain: x\n    min_confidence: 0.5\n    llms:", 1)
    policy = _policy_of(_load(tmp_path, text))
    (only,) = policy.in_order(policy.abstention_llm)
    assert (only.api_base, only.api_key.get_secret_value(), only.model) == ("http://a:1", "first", "x")
    assert (only.context_length, only.cost, only.fallbacks) == (None, None, ())


def test_only_classification_policies_abstain(tmp_path: Path) -> None:
    """A RouteLLM policy has its threshold for that: the keys are unknown in it."""
    text = _FALLBACKS.replace("threshold: 0.5", "threshold: 0.5\n    min_confidence: 0.5")
    assert _faults(tmp_path, text) == ["policies[1].min_confidence: unknown key"]


@pytest.mark.parametrize(
    ("cost", "fault"),
    [
        ("{input: -1, output: 1}", "input: Input should be greater than or equal to 0"),
        ("{input: .inf, output: 1}", "input: Input should be a finite number"),
        ("{input: true, output: 1}", "input: expected a number"),
        ("{input: 1}", "output: missing"),
        ("{input: 1, output: 1, cached: 0.1}", "cached: unknown key"),
    ],
)
def test_faults_of_costs(tmp_path: Path, cost: str, fault: str) -> None:
    """A cost has two prices, each 0 or more, for llms as for a strong and a weak model."""
    text = _FALLBACKS.replace("model: small}\n", f"model: small, cost: {cost}}}\n")
    assert _faults(tmp_path, text) == [f"policies[1].weak.cost.{fault}"]
    text = _FALLBACKS.replace("model: small, fallbacks", f"model: small, cost: {cost}, fallbacks")
    assert _faults(tmp_path, text) == [f"policies[0].llms[1].cost.{fault}"]


def test_costs_that_are_notes(tmp_path: Path) -> None:
    """A `cost` from before the key meant anything, as files in the wild may have one, is warned of and left out."""
    for note in ("cheap", "0.5", "[1, 2]", "false"):
        config = _load(tmp_path, _FALLBACKS.replace("model: small}\n", f"model: small, cost: {note}}}\n"))
        policy = config.policies["r"]
        assert isinstance(policy, RouteLLMPolicy) and policy.weak.cost is None
        assert any("policies[1].weak.cost: not {input, output}: ignored" in warning for warning in config.warnings)


_SNAPSHOT = """{
  "checkpoint": null, "rows": 4, "label": {"Chatbot": 0.75, "Other": 0.25},
  "confidence": {}, "length": {"1-16": 1}, "language": {"en": 1}
}"""


def test_costs_and_snapshots(tmp_path: Path) -> None:
    """A cost may come from the environment; a snapshot is found beside the file, and is one to watch."""
    (tmp_path / "snapshot.json").write_text(_SNAPSHOT)
    extra = "snapshot: snapshot.json, min_confidence: '${LEAST:-0.5}',"
    text = "policies:\n" + _policy("p", [("Chatbot", "m")], extra=extra)
    config = _load(tmp_path, text.replace("model: m", "model: m, cost: {input: '${PRICE}', output: 2}"), PRICE="0.5")
    policy = _policy_of(config)
    assert policy.llms[0].cost == Cost(input=0.5, output=2)
    assert policy.min_confidence == 0.5
    assert config.snapshots["p"].label == {"Chatbot": 0.75, "Other": 0.25}
    few = "too few rows to tell drift by label: 4 rows, 2 labels; 10 for each at least"
    assert [few in warning for warning in config.warnings].count(True) == 1
    (tmp_path / "snapshot.json").write_text(_SNAPSHOT.replace('"rows": 4', '"rows": 20'))
    assert not any("too few rows" in warning for warning in _load(tmp_path, text, PRICE="1").warnings)
    assert tmp_path / "snapshot.json" in config.files
    shown = config.redacted()["policies"][0]
    assert shown["snapshot"] == "snapshot.json" and shown["llms"][0]["cost"] == {"input": 0.5, "output": 2}


def test_a_key_from_a_file(tmp_path: Path) -> None:
    """A mounted secret is read without its last newline, and its file is one to watch."""
    key = tmp_path / "key"
    key.write_text("secret\n")
    config = _load(tmp_path, _FALLBACKS.replace("api_key: first", f"api_key_file: {key}"))
    assert _policy_of(config).llms[0].api_key.get_secret_value() == "secret" and key in config.files
    assert "secret" not in str(config.redacted())
