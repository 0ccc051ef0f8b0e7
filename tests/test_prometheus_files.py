"""The files for Prometheus and Grafana: they are valid, and each metric and label in them exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_adapter.runtime.measures import MEASURES
from dicom_adapter.web.metrics.gauges import GAUGES
from support.pages import DOCS
from support.requirements import required

DEPLOY = DOCS.parent / "deploy"
ALERTS, TESTS = (DEPLOY / "prometheus" / name for name in ("alerts.yml", "alerts.test.yml"))
DASHBOARD = json.loads((DEPLOY / "grafana" / "dicom-adapter.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
UNIT_TESTS = yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
OF_PROMETHEUS = {"instance", "job", "le"}  # labels that Prometheus adds to every metric, or to histograms
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$ae_title": ".*"}  # of Grafana


def exposed() -> dict[str, set[str]]:
    """Return the labels of each name of a series that the product exposes."""
    labels: dict[str, set[str]] = {"up": set()}
    for measure in MEASURES:
        for suffix in ("_bucket", "_count", "_sum") if measure.bounds else ("_total",):
            labels[measure.name + suffix] = set(measure.labels)
    for gauge in GAUGES:
        labels[gauge.name + ("_total" if gauge.is_counter else "")] = set(gauge.labels)
    return labels


LABELS = exposed()


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> Iterator[str]:
    """Yield all expressions of the dashboard."""
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bdicom_adapter_[a-z_]+|\bup\b", text))


def unknown_labels(expression: str) -> set[str]:
    """Return the labels in matchers and groupings of an expression that none of its metrics has."""
    known = OF_PROMETHEUS.union(*(LABELS.get(name, set()) for name in names_in(expression)))
    used = set(re.findall(r"[{,] *([a-z_]+) *(?:=~|!~|!=|=)", expression))
    for group in re.findall(r"\b(?:by|on|group_left|without) *\(([^)]*)\)", expression):
        used |= {label.strip() for label in group.split(",") if label.strip()}
    return used - known


def unknown_words(expression: str) -> set[str]:
    """Return the values of matchers that are not among the fixed values of the label."""
    words = {word for measure in MEASURES for word in measure.words}
    matched = re.findall(r'\b(?:outcome|cause)(?:=~|!~|!=|=)"([^"]*)"', expression)
    return {word for text in matched for word in text.split("|")} - words


def check(*arguments: object) -> str:
    """Run promtool, and return what it has found; "" if everything is valid."""
    promtool = required(shutil.which("promtool"), "prometheus", "promtool of Prometheus is not installed")
    result = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else result.stdout + result.stderr


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", [*expressions(), *(rule["expr"] for rule in RULES)])
def test_each_metric_and_label_in_an_expression_exists(expression: str) -> None:
    """A misspelt name would be an alert that never fires, or an empty panel."""
    assert names_in(expression)
    assert set() == names_in(expression) - LABELS.keys()
    assert set() == unknown_labels(expression)
    assert set() == unknown_words(expression)


def test_the_checks_of_names_find_mistakes() -> None:
    assert {"dicom_adapter_jobz"} == names_in("sum(dicom_adapter_jobz) > 0") - LABELS.keys()
    assert {"title"} == unknown_labels('sum by (title) (dicom_adapter_jobs{ae_title="A"})')
    assert {"refused"} == unknown_words('dicom_adapter_received_instances_total{outcome=~"stored|refused"}')
    assert {"stat"} == unknown_labels('dicom_adapter_jobs{stat="queued",ae_title="A"}')


@pytest.mark.parametrize("text", [text for rule in RULES for text in rule["annotations"].values()])
def test_each_label_in_the_text_of_an_alert_exists(text: str) -> None:
    known = OF_PROMETHEUS.union(*LABELS.values())
    assert set() == set(re.findall(r"\$labels\.([a-z_]+)", text)) - known


def test_the_dashboard_shows_each_metric() -> None:
    """A metric that nobody sees is not worth its cost."""
    shown = {name for expression in expressions() for name in names_in(expression)}
    missing = [
        metric.name for metric in (*MEASURES, *GAUGES) if not any(name.startswith(metric.name) for name in shown)
    ]
    assert [] == missing


def test_panels_have_descriptions_and_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"].endswith(".") for panel in panels())


# --- promtool -------------------------------------------------------------------------------------------------------


@pytest.mark.prometheus
def test_the_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": with_values(expression)}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert "" == check("check", "rules", file)


def with_values(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


@pytest.mark.prometheus
def test_the_alerts_and_the_example_are_valid() -> None:
    assert "" == check("check", "rules", ALERTS)
    assert "" == check("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@pytest.mark.prometheus
def test_each_alert_fires_when_its_reason_lasts_and_not_before() -> None:
    """`promtool test rules` simulates hours within milliseconds."""
    assert "" == check("test", "rules", TESTS)


def test_each_alert_has_a_unit_test_with_series_as_the_product_exposes_them() -> None:
    assert {rule["alert"] for rule in RULES} == {test["name"] for test in UNIT_TESTS}
    for test in UNIT_TESTS:
        quiet, firing = test["alert_rule_test"]
        assert (test["name"], []) == (quiet["alertname"], quiet["exp_alerts"])
        assert test["name"] == firing["alertname"]
        assert firing["exp_alerts"]
        for series in test["input_series"]:
            name, _, labels = series["series"].partition("{")
            suffix = {"le"} if name.endswith("_bucket") else set()
            assert LABELS[name] | {"instance", "job"} | suffix == labels_in(labels)


def labels_in(text: str) -> set[str]:
    return set(re.findall(r"([a-z_]+)=", text))


# --- the runbook ----------------------------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    """Return the text of each section of the runbook about an alert."""
    text = (DOCS / "how-to" / "runbook.md").read_text(encoding="utf-8")
    parts = re.split(r"^#{2,3} (.*)\n", text, flags=re.MULTILINE)
    return {name: part for name, part in zip(parts[1::2], parts[2::2], strict=True) if name.startswith("DicomAdapter")}


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    assert [rule["alert"] for rule in RULES] == list(sections())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_points_to_its_section_which_begins_with_the_first_step(rule: dict[str, Any]) -> None:
    """After the steps, the section says what the alert means."""
    assert f"docs/how-to/runbook.md#{rule['alert'].lower()}" == rule["annotations"]["runbook"]
    steps, *meaning = sections()[rule["alert"]].strip().split("\n\n")
    assert re.match(r"1\. \w", steps)
    assert len(meaning) == 1
