"""A real Prometheus collects the metrics of a real service, and its alerts fire when a test causes their reasons."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from dicom_adapter.dicom import synthetic
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send
from support.certificates import Pki
from support.prometheus import Prometheus, rules, wait_for
from support.requestor import associate, rejection

pytestmark = pytest.mark.prometheus

QUOTA = 100_000  # bytes
LARGE = 300  # rows and columns of an image that uses more than the quota
CONFIGURATION = (
    STORAGE.replace("reserve = 0", f'reserve = "{{reserve}}"\nquarantine-quota = {QUOTA}')
    + """
[http]
port = 0

[submitters.away]
type = "clara-grpc"
endpoint = "127.0.0.1:{closed}"

[submitters.away.tls]
ca-file = "{authority}"
client-certificate = "{certificate}"
client-key = "{key}"

[submitters.local]
type = "command"
status-every = 0.2

[submitters.local.pipelines.fails]
command = ["/bin/false"]

[submitters.local.pipelines.reports]
command = ["/bin/sh", "-c", 'echo "{{{{}}}}" > "$1/report.json"', "sh", "{{output}}"]

[submitters.drop]
type = "folder"
path = "drop"

[ae-titles.AWAY]
submitter = "away"
[ae-titles.AWAY.settings]
pipeline-a = "pipeline-1"

[ae-titles.BAD]
submitter = "platform"
[ae-titles.BAD.settings]
group-by = "AdmissionID"
pipeline-a = "pipeline-1"

[ae-titles.FAILS]
submitter = "local"
[ae-titles.FAILS.settings]
pipeline-a = "fails"

[ae-titles.LUNG]
submitter = "local"
[ae-titles.LUNG.settings]
pipeline-a = "reports"
[ae-titles.LUNG.results]
to = ["drop"]
"""
)
# A test cannot wait for days, or fill disks: these alerts have another threshold, beyond what a test causes.
SHORTENED = {
    "DicomAdapterSilent": ("4 * 86400", "1"),
    "DicomAdapterJobsOld": ("4 * 3600", "1"),
    "DicomAdapterResponsesSlow": ("> 1", "> 0.0001"),
    "DicomAdapterLedgerDiskFull": ("1e9", "1e18"),
    "DicomAdapterDeliveriesSlow": ("> 600", "> 0.1"),
}
# The reasons of these alerts are caused in `test_alerts_of_hangs.py`: a disk and a job processor that hang.
CAUSED_ELSEWHERE = {"DicomAdapterMetricsOld", "DicomAdapterGroupsLate"}
FROM_THE_START = {"DicomAdapterCertificateExpires", "DicomAdapterLedgerDiskFull"}


class Site:
    """The service and its Prometheus."""

    def __init__(self, folder: Path, launch_service: LaunchService) -> None:
        pki = Pki(folder / "pki")
        expires = datetime.now(timezone.utc) + timedelta(days=5)
        issued = pki.ca.issue_cert("adapter.example", not_after=expires)
        certificate, key = folder / "client.pem", folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        self._values = {"closed": 1, "authority": pki.authority, "certificate": certificate, "key": key}
        self._folder = folder
        (folder / "service" / "drop").mkdir(parents=True)
        self.service: LaunchedService = launch_service(CONFIGURATION.format(reserve="0 MB", **self._values))
        self.service.port()
        self.http = self.service.wait_for("http_listening")["port"]
        self.prometheus = Prometheus(folder / "prometheus", self.http, rules(SHORTENED))

    def send(self, ae_title: str, name: str, size: int = 8) -> None:
        """Send a study of one image."""
        path = self._folder / f"{name}.dcm"
        synthetic.write(synthetic.make_instance(rows=size, columns=size), path)
        assert [True] == [result.ok for result in send([path], self.service, ae_title)]

    def send_without_study(self) -> None:
        """Send an instance without a Study Instance UID, which is refused."""
        data_set = synthetic.make_instance(rows=8, columns=8)
        del data_set.StudyInstanceUID
        association = associate(self.service.port(), "LUNG")
        assert 0xA900 == association.send_c_store(data_set).Status
        association.release()

    def use_up_descriptors(self) -> None:
        """Limit the open files of the receiver to the number that it has, until Prometheus has noticed."""
        receiver = self.service.pids()[-1]
        limits = resource.prlimit(receiver, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{receiver}/fd").iterdir()))
        resource.prlimit(receiver, resource.RLIMIT_NOFILE, (used + 1, limits[1]))
        self.prometheus.wait_until_firing("DicomAdapterOpenFiles")
        resource.prlimit(receiver, resource.RLIMIT_NOFILE, limits)

    def kill_receiver(self) -> None:
        """Kill the receiver, and wait until Prometheus has seen its successor."""
        query = 'dicom_adapter_process_start_time_seconds{process="receiver"}'
        (before,) = wait_for(lambda: self.prometheus.values(query), "the receiver is measured")
        listening = len(self.service.logged("receiver_listening"))
        os.kill(self.service.pids()[-1], signal.SIGKILL)
        self.service.wait_for("receiver_listening", times=listening + 1)
        wait_for(lambda: self.prometheus.values(query) not in ([before], []), "the new receiver is measured")

    def reload(self, reserve: str) -> None:
        self.service.configuration.write_text(CONFIGURATION.format(reserve=reserve, **self._values), encoding="utf-8")
        os.kill(self.service.pids()[0], signal.SIGHUP)
        self.service.wait_for("reload_applied")


@pytest.fixture
def site(tmp_path: Path, launch_service: LaunchService) -> Iterator[Site]:
    made = Site(tmp_path, launch_service)
    yield made
    made.prometheus.close()


@pytest.mark.slow
@pytest.mark.timeout(300)  # on a busy machine
def test_each_alert_fires_when_its_reason_is_caused(site: Site) -> None:
    """The reasons: a killed receiver, refused and rejected senders, a platform that is away, failed jobs, and others.

    Before, only the alerts fire whose reasons exist from the start.
    """
    wait_for(lambda: FROM_THE_START <= site.prometheus.firing(), "the first alerts fire")
    assert FROM_THE_START | {"DicomAdapterYellow"} >= site.prometheus.firing()

    site.send("AWAY", "away")
    site.send("FAILS", "fails")
    site.send("BAD", "bad", size=LARGE)
    site.send_without_study()
    for _number in range(12):
        assert rejection(site.service.port(), "UNKNOWN")
    site.send("LUNG", "lung 1")
    site.prometheus.wait_until_firing(
        "DicomAdapterSilent",
        "DicomAdapterJobsOld",
        "DicomAdapterJobsFailing",
        "DicomAdapterJobsHeld",
        "DicomAdapterQuarantine",
        "DicomAdapterQuarantineFull",
        "DicomAdapterInstancesRefused",
        "DicomAdapterAssociationsRejected",
        "DicomAdapterResponsesSlow",
        "DicomAdapterYellow",
        "DicomAdapterRed",
    )
    wait_for(lambda: site.prometheus.values("dicom_adapter_result_to_delivery_seconds_count"), "a result is delivered")
    site.send("LUNG", "lung 2")
    site.use_up_descriptors()
    for _number in range(3):
        site.kill_receiver()
    site.reload("1000 TB")
    site.prometheus.wait_until_firing(
        "DicomAdapterDeliveriesSlow",
        "DicomAdapterRestarts",
        "DicomAdapterRefusesAssociations",
        "DicomAdapterStorageFillsUp",
    )
    assert 0 == site.service.stop()
    site.prometheus.wait_until_firing(*{rule["alert"] for rule in rules({})} - CAUSED_ELSEWHERE)
    assert {"DicomAdapterDown"} <= site.prometheus.firing()
