"""The output of `/metrics`: names, values and formats."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from dicom_adapter.runtime.measures import MEASURES, RECEIVED_INSTANCES, STORE_RESPONSE
from dicom_adapter.runtime.shared_counts import CountedSeries
from dicom_adapter.web.metrics.exposition import Exposition
from dicom_adapter.web.metrics.gauges import GAUGES, PENDING, PROCESS_CPU
from dicom_adapter.web.metrics.route import metrics_handler
from dicom_adapter.web.metrics.sample import Sample
from support.requirements import required

COUNTED = [
    CountedSeries(RECEIVED_INSTANCES.name, ("LUNG", "stored"), (3,)),
    CountedSeries(RECEIVED_INSTANCES.name, ("LUNG", "stored"), (4,)),  # of another receiver
    CountedSeries(STORE_RESPONSE.name, ("LUNG",), (1, 2, *[0] * 12, 5, 9_000_000_000)),
]
SAMPLE = Sample([(PENDING, ("LUNG",), 7), (PROCESS_CPU, ("host",), 1.5)])
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FIXED = {"ae_title", "submitter", "pipeline", "destination", "process", "owner"}  # labels with configured names
WORDS = {"outcome", "cause", "state", "level", "kind", "version", "python_version"}  # labels with fixed sets of words


@pytest.fixture
def client() -> Iterator[TestClient[Any]]:
    with TestClient(
        Litestar([metrics_handler(lambda: Exposition(COUNTED, SAMPLE, 0.0, {"LUNG": "platform"}))])
    ) as client:
        yield client


def test_values_of_all_processes_are_added(client: TestClient[Any]) -> None:
    text = client.get("/metrics").text
    assert 'dicom_adapter_received_instances_total{ae_title="LUNG",outcome="stored"} 7.0\n' in text
    assert 'dicom_adapter_pending_instances{ae_title="LUNG"} 7.0\n' in text
    assert 'dicom_adapter_process_cpu_seconds_total{process="host"} 1.5\n' in text


def test_counters_are_zero_before_the_first_event(client: TestClient[Any]) -> None:
    """Otherwise Prometheus would not notice the first refused instance: `increase` needs a value before it."""
    text = client.get("/metrics").text
    for name in (
        'received_instances_total{ae_title="LUNG",outcome="failed"}',
        'associations_total{ae_title="LUNG",outcome="rejected"}',
        'rejections_total{ae_title="",cause="tls"}',
        'jobs_ended_total{ae_title="LUNG",outcome="faulted",submitter="platform"}',
        'job_retries_total{ae_title="LUNG",submitter="platform"}',
        'lane_turn_seconds_count{ae_title="LUNG"}',
    ):
        assert f"dicom_adapter_{name} 0.0\n" in text


def test_the_buckets_of_a_histogram_are_cumulative(client: TestClient[Any]) -> None:
    text = client.get("/metrics").text
    buckets = re.findall(r'dicom_adapter_store_response_seconds_bucket\{ae_title="LUNG",le="(.*)"\} (.*)', text)
    assert [("0.0005", "1.0"), ("0.001", "3.0"), ("0.0025", "3.0")] == buckets[:3]
    assert [("10.0", "3.0"), ("+Inf", "8.0")] == buckets[-2:]
    assert 'dicom_adapter_store_response_seconds_count{ae_title="LUNG"} 8.0\n' in text
    assert 'dicom_adapter_store_response_seconds_sum{ae_title="LUNG"} 9.0\n' in text


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (f"{OPENMETRICS};q=0.5,text/plain;version=0.0.4;q=0.2", "application/openmetrics-text", parse_openmetrics),
    ],
)
def test_the_header_accept_selects_the_format(
    client: TestClient[Any], accept: str, content_type: str, parse: Any
) -> None:
    response = client.get("/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith(content_type)
    names = {family.name for family in parse(response.text)}
    assert {one.name for one in (*MEASURES, *GAUGES)} == names


def test_labels_have_configured_names_or_words_of_fixed_sets() -> None:
    """Labels with UIDs, addresses or names of patients would be patient data, and without a limit."""
    assert {label for metric in (*MEASURES, *GAUGES) for label in metric.labels} == FIXED | WORDS


def test_texts_are_sentences_and_names_are_unique() -> None:
    metrics = [*MEASURES, *GAUGES]
    assert len(metrics) == len({metric.name for metric in metrics})
    assert all(metric.text[0].isupper() or metric.text[0].isdigit() for metric in metrics)
    assert all(metric.text.endswith(".") for metric in metrics)


@pytest.mark.prometheus
def test_promtool_finds_nothing(client: TestClient[Any]) -> None:
    promtool = required(shutil.which("promtool"), "prometheus", "promtool of Prometheus is not installed")
    text = client.get("/metrics").text
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (0, "") == (checked.returncode, checked.stdout + checked.stderr)
