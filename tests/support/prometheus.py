"""A real Prometheus that collects the metrics of a service every second and evaluates the alerts."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from support.pages import DOCS
from support.requirements import required

ALERTS = DOCS.parent / "deploy" / "prometheus" / "alerts.yml"
SECONDS = 60.0  # time limit of each wait
POLL = 0.2  # seconds; Prometheus has no notification of a change


def rules(shortened: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the rules of `alerts.yml` without their waits; of the named alerts with another text in the expression."""
    found: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
    for rule in found:
        rule.pop("for", None)
        old, new = shortened.get(rule["alert"], ("", ""))
        assert old in rule["expr"], f"the expression of {rule['alert']} has no {old!r}"
        rule["expr"] = rule["expr"].replace(old, new) if old else rule["expr"]
    return found


class Prometheus:
    """A Prometheus with its own data folder, on a free port."""

    def __init__(self, folder: Path, port_of_service: int, used_rules: list[dict[str, Any]]) -> None:
        program = required(shutil.which("prometheus"), "prometheus", "Prometheus is not installed")
        folder.mkdir()
        (folder / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": used_rules}]}))
        scrape = {"job_name": "dicom-adapter", "static_configs": [{"targets": [f"127.0.0.1:{port_of_service}"]}]}
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self._log = folder / "log"
        options = [
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
            "--log.format=json",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([program, *options], stdout=log, stderr=log)
        self._address = wait_for(self._listening, "Prometheus listens")

    def _listening(self) -> str:
        assert self._process.poll() is None, self._log.read_text()
        for line in self._log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if str(entry.get("msg")).lower() == "listening on":
                return str(entry["address"])
        return ""

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query: for each series its labels and its value."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://{self._address}/api/v1/query?{query}", timeout=SECONDS) as response:
                found: list[dict[str, Any]] = json.load(response)["data"]["result"]
                return found
        except urllib.error.HTTPError as failure:
            if failure.code == 503:  # it starts
                return []
            raise

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {each["metric"]["alertname"] for each in self.query('ALERTS{alertstate="firing"}')}

    def wait_until_firing(self, *names: str) -> None:
        """Wait until all these alerts have fired, now or since the start."""
        missing: set[str] = set()

        def have_fired() -> bool:
            query = 'max_over_time(ALERTS{alertstate="firing"}[1h])'
            missing.clear()
            missing.update(set(names) - {each["metric"]["alertname"] for each in self.query(query)})
            return not missing

        try:
            wait_for(have_fired, "the alerts fire")
        except AssertionError as failure:
            raise AssertionError(f"alerts that have not fired: {sorted(missing)}") from failure

    def values(self, expression: str) -> list[float]:
        return [float(each["value"][1]) for each in self.query(expression)]

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(SECONDS)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition is true, and return its value."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {SECONDS:g} seconds: {what}"
        time.sleep(POLL)  # the pause of a loop that has a condition
    return value
