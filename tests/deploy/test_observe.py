"""Dashboards, alert rules and what brings Prometheus and Grafana up, by themselves; test_observe_live has them beside
the running parts."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.observing import dashboards
from scripts.observing.panels import WIDTH
from tests.deploy.chart import CHART, ROOT, only, refusal, rendered
from tests.deploy.observed import DASHBOARDS, PROMETHEUS, RULES, Dashboard, known_metrics, metrics_in, panels, queries

HERE = Path(__file__).parent
# What makes Grafana call others, by its variables' names.
CALLS = {
    "ANALYTICS_REPORTING_ENABLED": "false",
    "ANALYTICS_CHECK_FOR_UPDATES": "false",
    "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "NEWS_NEWS_FEED_ENABLED": "false",
    "PLUGINS_PLUGIN_ADMIN_ENABLED": "false",
    "PLUGINS_PREINSTALL_DISABLED": "true",
    "PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "true",
    "SECURITY_DISABLE_GRAVATAR": "true",
    "SNAPSHOTS_EXTERNAL_ENABLED": "false",
}
CASES = ("alerts.yaml", "no_decisions.yaml", "drift.yaml")


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing: Debian's package prometheus has it, and .ci/run installs that")
    return found


def _run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command that must succeed says."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Dashboards


def test_files_are_what_their_source_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody edited is found, and written anew."""
    assert dashboards.main(["--check"]) == 0
    for name in dashboards.DASHBOARDS:
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(dashboards, "FOLDER", tmp_path)
    assert dashboards.main(["--check"]) == 1
    assert dashboards.main([]) == 0 and dashboards.main(["--check"]) == 0


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each["uid"])
def test_a_dashboard_is_well_formed(dashboard: Dashboard) -> None:
    """Panels have ids of their own, places that do not overlap, words for who reads them, and the chosen data source;
    the namespace may be any, or none."""
    every = dashboard["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in panels(dashboard)}) == len(panels(dashboard))
    places = [place for panel in every for place in _cells(panel["gridPos"])]
    assert len(set(places)) == len(places) and max(x for x, _ in places) < WIDTH
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["targets"]
        # Grafana's own thresholds make a number red from 80 on, whatever it counts.
        assert panel["type"] != "stat" or panel["options"]["colorMode"] == "none"
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all('namespace=~"$namespace"' in target["expr"] for target in panel["targets"])
    _, namespace = dashboard["templating"]["list"]
    assert namespace["allValue"] == ".*" and namespace["current"]["value"] == ["$__all"]


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    return ((place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"]))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each["uid"])
def test_queries_are_promql(dashboard: Dashboard, promtool: str, tmp_path: Path) -> None:
    """Prometheus can read each, with what Grafana puts into it: as recording rules, which promtool reads."""
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(queries(dashboard))]
    groups = {"groups": [{"name": "panels", "rules": rules}]}
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump(groups))
    assert f"SUCCESS: {len(rules)} rules found" in _run(promtool, "check", "rules", tmp_path / "panels.yaml")


def test_the_chart_brings_both_dashboards() -> None:
    """As they are, in one ConfigMap that Kubernetes takes."""
    data = only(rendered("everything"), "ConfigMap", "-dashboard")["data"]
    assert {name: json.loads(text) for name, text in data.items()} == {
        f"{dashboard['uid']}.json": dashboard for dashboard in DASHBOARDS
    }
    assert sum(map(len, data.values())) < 250_000  # of 1 MiB, and kubectl's annotation of 256 KiB


def test_dashboards_and_rules_use_metrics_that_there_are() -> None:
    """Each name is of a metric that the gateway or Triton has, in the dashboards, the alerts and the autoscaler's
    query; and the second dashboard shows all of the blueprint's."""
    scaler = json.dumps(only(rendered("keda"), "ScaledObject")["spec"])
    for text in (*map(json.dumps, DASHBOARDS), RULES.read_text(), scaler):
        assert metrics_in(text) and metrics_in(text) <= known_metrics()
    (blueprint,) = (each for each in DASHBOARDS if each["uid"] == "llm-router-blueprint")
    ours = {name for name in known_metrics() if name.startswith(("llm_router_", "nv_"))}
    assert known_metrics() - ours <= metrics_in(json.dumps(blueprint))


# Alerts


def test_the_rules_file_is_a_rules_file(promtool: str) -> None:
    """Prometheus takes it as it is."""
    assert "SUCCESS" in _run(promtool, "check", "rules", RULES)


def test_the_charts_rules_are_the_files(promtool: str, tmp_path: Path) -> None:
    """With the release's namespace, jobs, pods and values in place, of which nothing is left to find."""
    settings = ("prometheusRule.decisionSeconds=2", "routerServer.autoscaling.queueMicroseconds=7")
    rules = only(rendered("everything", *settings), "PrometheusRule")["spec"]
    text = json.dumps(rules, ensure_ascii=False)
    assert [rule["alert"] for rule in rules["groups"][0]["rules"]] == [rule["alert"] for rule in _rules()]
    assert ".*" not in re.sub(r"router-router-server-\.\*|/v1/\.\*", "", text) and "llm-router-gateway" not in text
    assert '\\n> 2"' in text and '\\n> 7"' in text
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    assert "SUCCESS" in _run(promtool, "check", "rules", tmp_path / "rules.yaml")
    assert "decisionSeconds" in refusal("prometheusRule.decisionSeconds=0")


def test_no_gateway_of_a_release_without_one_is_down() -> None:
    """It would be for ever. The other rules stay as they are."""
    with_one, without = (
        only(rendered("everything", f"routerController.enabled={enabled}"), "PrometheusRule")["spec"]["groups"]
        for enabled in ("true", "false")
    )
    assert with_one[0]["rules"][0]["alert"] == "LlmRouterGatewayDown"
    assert without == [{"name": "llm-router", "rules": with_one[0]["rules"][1:]}]


def test_alerts_say_what_to_do() -> None:
    """Each has a severity and names its place in docs/OPERATE.md, which is there."""
    headings = set(re.findall(r"^#+ (.+)$", (ROOT / "docs" / "OPERATE.md").read_text(), re.MULTILINE))
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for rule in _rules():
        assert rule["labels"]["severity"] in ("warning", "critical") and rule["annotations"]["summary"]
        description = rule["annotations"]["description"]
        assert description.endswith(f"See docs/OPERATE.md#{rule['alert'].lower()}")
        assert set(re.findall(r"OPERATE\.md#([\w-]+)", description)) <= anchors


def test_every_alert_is_tried_both_ways() -> None:
    """Some case expects it, and some case expects it not to fire."""
    tried = [
        (check["alertname"], bool(check["exp_alerts"]))
        for name in CASES
        for case in yaml.safe_load((HERE / name).read_text())["tests"]
        for check in case["alert_rule_test"]
    ]
    assert set(tried) == {(rule["alert"], fires) for rule in _rules() for fires in (True, False)}


def test_alerts_fire_when_they_should(promtool: str, tmp_path: Path) -> None:
    """Prometheus' own evaluation, of the chart's rules. Drift: for what moved far, also to values that the snapshot
    does not have; not for few requests, without a snapshot, or for another namespace."""
    rules = only(rendered("everything"), "PrometheusRule")["spec"]
    _try_alerts(promtool, rules, tmp_path, {"JOB": "router-router-controller"}, CASES)


def test_alerts_fire_outside_kubernetes(promtool: str, tmp_path: Path) -> None:
    """By the file itself, where no series has a namespace."""
    outside = {"JOB": "llm-router-gateway", 'namespace="llms", ': "", ", namespace: llms": ""}
    _try_alerts(promtool, yaml.safe_load(RULES.read_text()), tmp_path, outside, CASES[:2])


def _try_alerts(
    promtool: str, rules: dict[str, Any], folder: Path, replacements: dict[str, str], cases: tuple[str, ...]
) -> None:
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    descriptions = {rule["alert"]: rule["annotations"]["description"] for rule in rules["groups"][0]["rules"]}
    for name in cases:
        text = (HERE / name).read_text()
        for old, new in replacements.items():
            text = text.replace(old, new)
        content = yaml.safe_load(text)
        for check in (check for case in content["tests"] for check in case["alert_rule_test"]):
            for alert in check["exp_alerts"]:
                alert["exp_annotations"]["description"] = descriptions[check["alertname"]]
        (folder / name).write_text(yaml.safe_dump(content))
    _run(promtool, "test", "rules", *cases, cwd=folder)


def _rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


# What brings them up


def test_prometheus_takes_its_configuration(promtool: str, tmp_path: Path) -> None:
    """With the files where the compose file mounts them."""
    text = PROMETHEUS.read_text().replace("/etc/prometheus/rules", str(RULES.parent))
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/gateway-key", "/dev/null"))
    said = _run(promtool, "check", "config", tmp_path / "prometheus.yml")
    assert "1 rule files found" in said and "rules found" in said


def test_compose_brings_prometheus_and_grafana_up() -> None:
    """Beside compose.yaml, shut in as its services are: loopback ports, pinned images, a password that must be set;
    each folder of this project that they need is there."""
    file = yaml.safe_load((ROOT / "deploy" / "compose.observe.yaml").read_text())
    for service in file["services"].values():
        assert service["read_only"] and service["tmpfs"] == ["/tmp"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"] and "privileged" not in service
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for source, _, mode in (volume.rpartition(":")[0].partition(":") for volume in service["volumes"]):
            assert not source.startswith(".") or (ROOT / "deploy" / source).exists(), (source, mode)
    grafana = file["services"]["grafana"]["environment"]
    assert grafana["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
    assert grafana["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert {name: grafana[f"GF_{name}"] for name in CALLS} == CALLS
    base = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert set(file["services"]["prometheus"]["networks"]) == {"default", *base["networks"]}


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    """What is provisioned names the service and the folder of the compose file."""
    services = yaml.safe_load((ROOT / "deploy" / "compose.observe.yaml").read_text())["services"]
    provisioned = ROOT / "deploy" / "observe" / "grafana"
    (source,) = yaml.safe_load((provisioned / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    (provider,) = yaml.safe_load((provisioned / "dashboards" / "llm-router.yaml").read_text())["providers"]
    mounted = f"./{(CHART / 'dashboards').relative_to(ROOT / 'deploy')}:{provider['options']['path']}:ro"
    assert mounted in services["grafana"]["volumes"]
