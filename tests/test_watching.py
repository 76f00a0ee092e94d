"""deploy/prometheus and deploy/grafana: they name what the gateway measures, and what docs/operations.md explains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from flask import Flask

import telemetry
from tests.client import GatewayClient
from tests.paths import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def named(text: str) -> set[str]:
    """The gateway's metrics that an expression names, without what Prometheus adds."""
    return {re.sub("_(bucket|count|sum|total)$", "", name) for name in re.findall(r"\bgateway_[a-z_]+", text)}


@pytest.mark.memory_store
def test_dashboard_and_alerts_name_metrics_that_exist(app: Flask) -> None:
    shown = GatewayClient(app, None, check=False).get("/metrics").body.decode()
    exist = {re.sub("_total$", "", name) for name in re.findall(r"^# TYPE (\S+) ", shown, re.MULTILINE)}
    exist |= telemetry.metrics().declared()
    for source in (ROOT / "services").rglob("*.py"):  # some appear with the first run of what they tell
        exist |= set(re.findall(r'"(gateway_[a-z_]+)"', source.read_text()))
    of_panels = {name for panel in PANELS for target in panel["targets"] for name in named(target["expr"])}
    of_rules = {name for rule in RULES for name in named(rule["expr"])}
    of_variables = {name for variable in DASHBOARD["templating"]["list"] for name in named(str(variable["query"]))}
    assert (of_panels | of_rules | of_variables) - exist == set()


def test_the_dashboard_can_be_provisioned() -> None:
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {"${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24


def test_each_alert_says_what_to_do() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {"docs/operations.md#" + heading.lower().replace(" ", "-") for heading in headings}
    for rule in RULES:
        assert rule["annotations"]["runbook"] in anchors, rule["alert"]
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket")
    assert yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["rule_files"] == ["alerts.yml"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    "command", ["check rules alerts.yml", "test rules alerts_test.yml", "check config --syntax-only prometheus.yml"]
)
def test_promtool_accepts_the_rules(command: str) -> None:
    done = subprocess.run(["promtool", *command.split()], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
