"""The compose file and the files that it mounts: each is valid, and they fit each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_adapter import config
from dicom_adapter.plugins.registry import discover
from support.pages import DOCS, ROOT, block
from support.requirements import required

DEPLOY, PAGE = ROOT / "deploy", DOCS / "how-to" / "container.md"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# The keys of the Compose Specification that `compose.yaml` uses.
TOP_LEVEL = {"name", "services", "secrets", "volumes", "x-defaults"}
OF_SERVICE = {
    *("build", "cap_drop", "environment", "image", "init", "logging", "ports", "read_only", "restart", "secrets"),
    *("security_opt", "stop_grace_period", "tmpfs", "volumes"),
}
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+")
STOP_MARGIN_S = 60  # a stop takes at most this much longer than `drain-timeout`


def mounts() -> list[tuple[str, str, str]]:
    """Return service, source and target of each volume."""
    return [(name, *text.split(":")[:2]) for name, service in SERVICES.items() for text in service["volumes"]]


def mounted(service: str, target: str) -> Path:
    """Return the file that a service sees at a path."""
    [source] = [source for name, source, path in mounts() if (name, path) == (service, target)]
    return DEPLOY / source


@pytest.fixture
def adapter_config(tmp_path: Path) -> config.Config:
    """Return the loaded configuration of the adapter, with secrets that are created as on the page."""
    subprocess.run(["sh", "-euc", block("sh compose secrets", PAGE).text], cwd=tmp_path, check=True)
    text = mounted("adapter", "/etc/dicom-adapter/dicom-adapter.toml").read_text(encoding="utf-8")
    text = text.replace("/run/secrets", str(tmp_path / "deploy/compose/secrets"))
    loaded = config.load(text, folder=DEPLOY, catalogue=discover().catalogue())
    assert loaded.config is not None, loaded.problems
    return loaded.config


def test_the_file_has_only_known_keys() -> None:
    assert set() == set(COMPOSE) - TOP_LEVEL
    assert {} == {name: set(service) - OF_SERVICE for name, service in SERVICES.items() if set(service) - OF_SERVICE}


def test_images_are_pinned_to_versions() -> None:
    assert [] == [service["image"] for service in SERVICES.values() if not PINNED.fullmatch(service["image"])]


def test_mounted_files_exist_and_volumes_and_secrets_are_declared() -> None:
    """Otherwise the engine would create an empty folder in place of a file."""
    files = [source for _name, source, _target in mounts() if source.startswith(".")]
    assert [] == [source for source in files if not (DEPLOY / source).is_file()]
    named = {source for _name, source, _target in mounts() if not source.startswith(".")}
    assert set(COMPOSE["volumes"]) == named
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert set(COMPOSE["secrets"]) == used
    build = SERVICES["adapter"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_only_dicom_is_open_to_other_machines() -> None:
    published = [text for service in SERVICES.values() for text in service["ports"]]
    assert ["11112:11112", "4242:4242"] == [text for text in published if not text.startswith("127.0.0.1:")]
    host_ports = [text.split(":")[-2] for text in published]
    assert len(host_ports) == len(set(host_ports))


def test_the_adapter_is_confined_and_has_time_to_stop(adapter_config: config.Config) -> None:
    adapter = SERVICES["adapter"]
    assert (True, ["ALL"], ["no-new-privileges"]) == (
        adapter["read_only"],
        adapter["cap_drop"],
        adapter["security_opt"],
    )
    grace = int(adapter["stop_grace_period"].removesuffix("s"))
    assert grace >= adapter_config.dicom.drain_timeout + STOP_MARGIN_S


def test_the_configuration_of_the_adapter_fits_the_other_services(adapter_config: config.Config) -> None:
    """Addresses, ports, AE titles and tokens are the same on both sides."""
    orthanc = json.loads(mounted("orthanc", "/etc/orthanc/orthanc.json").read_text(encoding="utf-8"))
    text = mounted("adapter", "/etc/dicom-adapter/dicom-adapter.toml").read_text(encoding="utf-8")
    assert f'host = "orthanc"\nport = {orthanc["DicomPort"]}\nae-title = "{orthanc["DicomAet"]}"' in text
    lung = orthanc["DicomModalities"]["lung"]
    assert ("LUNG", "adapter", adapter_config.dicom.port) == (lung["AET"], lung["Host"], lung["Port"])
    assert adapter_config.storage.path.is_relative_to("/var/lib/dicom-adapter")
    assert set(SERVICES["adapter"]["secrets"]) == set(re.findall(r"/run/secrets/([a-z-]+)", text))
    prometheus = yaml.safe_load(mounted("prometheus", "/etc/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    [scrape] = prometheus["scrape_configs"]
    assert adapter_config.http is not None
    assert [{"targets": [f"adapter:{adapter_config.http.port}"]}] == scrape["static_configs"]
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/viewer-token"


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """The paths in containers are replaced."""
    promtool = required(shutil.which("promtool"), "prometheus", "promtool is not installed")
    (tmp_path / "viewer-token").write_text("token", encoding="utf-8")
    text = mounted("prometheus", "/etc/prometheus/prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("/run/secrets", str(tmp_path)).replace("/etc/prometheus", str(DEPLOY / "prometheus"))
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    done = subprocess.run([promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, check=False)
    assert 0 == done.returncode, done.stderr


def test_grafana_finds_its_data_source_and_the_dashboard() -> None:
    [source] = yaml.safe_load((DEPLOY / "compose/grafana/data-source.yml").read_text(encoding="utf-8"))["datasources"]
    assert ("prometheus", "http://prometheus:9090") == (source["type"], source["url"])
    [provider] = yaml.safe_load((DEPLOY / "compose/grafana/dashboards.yml").read_text(encoding="utf-8"))["providers"]
    [dashboard] = [target for name, _source, target in mounts() if name == "grafana" and target.endswith(".json")]
    assert provider["options"]["path"] == str(Path(dashboard).parent)


def test_the_page_creates_all_secrets_and_names_all_addresses() -> None:
    created = re.findall(r"for name in (.*); do", block("sh compose secrets", PAGE).text)
    assert [set(COMPOSE["secrets"])] == [set(names.split()) for names in created]
    text = PAGE.read_text(encoding="utf-8")
    for published in (text for service in SERVICES.values() for text in service["ports"]):
        address, _, port = published.rpartition(":")[0].rpartition(":")
        assert (f"`http://{address}:{port}`" if address else f"port {port} |") in text
