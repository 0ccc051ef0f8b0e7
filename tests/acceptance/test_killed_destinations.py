"""The service and its destinations are killed while results are delivered: each destination has each result once.

The destinations are products: one Orthanc, over C-STORE and over STOW-RS, and DCMTK's storescp. A result that is sent
again, because its response was lost, is the same instance: Orthanc keeps the first one, storescp replaces its file.

Verified to fail when `dicom` reports an instance as delivered although the association was rejected or lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from io import BytesIO
from pathlib import Path

import pytest
from attrs import define, field, frozen
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_adapter.api.values import SOURCE_JOB, Job, JobState
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import jobs_in_ledger, send, write_study
from support.orthanc_archive import AE_TITLE as ORTHANC
from support.orthanc_archive import PASSWORD, USER, OrthancArchive, orthanc_archive
from support.results_site import RESULTS, CommandSite, wait_until
from support.storescp_node import AE_TITLE as STORESCP
from support.storescp_node import StorescpNode, storescp_node

pytestmark = [pytest.mark.slow, pytest.mark.dcmtk, pytest.mark.orthanc, pytest.mark.timeout(300)]
INSTANCES = 2  # of each study
DONE = Counter({JobState.SUCCEEDED: 1, JobState.SUBMITTED: 2})  # states of the command's job and its deliveries
DESTINATIONS = """
[submitters.orthanc]
type = "dicom"
host = "127.0.0.1"
port = {dicom_port}
ae-title = "{orthanc}"
retry-first = 0.1
retry-most = 0.5

[submitters.web]
type = "dicomweb"
url = "{url}"
user = "{user}"
password = {{ file = "{password}" }}
retry-first = 0.1
retry-most = 0.5

[submitters.storescp]
type = "dicom"
host = "127.0.0.1"
port = {port}
ae-title = "{storescp}"
retry-first = 0.1
retry-most = 0.5
"""


# Waits. The mapping has the numbers of instances and events before the job ended.
Moment = Callable[["Parties", str, Mapping[str, int]], object]
EVENTS = ("job_metadata_sent", "job_uploaded", "job_submitted")


class Destinations(Enum):
    """The state of the destinations before a job ends."""

    UP = "up"
    DOWN = "down"  # connections are refused
    PAUSED = "paused"  # connections are accepted, and nothing is answered


@define(kw_only=True)
class Parties:
    """The running parts of the test."""

    site: CommandSite
    orthanc: OrthancArchive
    storescp: StorescpNode
    launch: Callable[[], LaunchedService]
    service: LaunchedService

    def arrived(self) -> dict[str, int]:
        """Return the number of instances in Orthanc and in storescp."""
        statistics = json.loads(self.orthanc.call("/statistics"))
        return {"orthanc": statistics["CountInstances"], "storescp": len(self.storescp.files())}

    def count(self, ae_title: str) -> dict[str, int]:
        """Return the numbers of instances, and of events about jobs of an AE title in the log of this service."""
        events = {event: len(self.service.logged(event, ae_title=ae_title)) for event in EVENTS}
        return {**self.arrived(), **events}

    def disturb(self, destinations: Destinations) -> None:
        """Kill or pause Orthanc and storescp, or do nothing."""
        for process in (self.orthanc, self.storescp):
            if destinations is Destinations.DOWN:
                process.kill()
            elif destinations is Destinations.PAUSED:
                process.pause()

    def kill(self, victims: Sequence[str]) -> None:
        """Kill the victims. Then start again what is down, and resume what is paused."""
        processes = {"service": self.service, "orthanc": self.orthanc, "storescp": self.storescp}
        for victim in victims:
            processes[victim].kill()
        if "service" in victims:
            self.service = self.launch()
        for process in (self.orthanc, self.storescp):
            process.resume()
            if not process.is_running:
                process.start()
        self.orthanc.wait()


def logged(event: str, times: int = 1) -> Moment:
    """Return a moment: the service has logged an event about the deliveries of the AE title."""
    return lambda parties, ae_title, before: parties.service.wait_for(
        event, times=before[event] + times, ae_title=ae_title
    )


ATTEMPTED = logged("job_metadata_sent", 2)  # both deliveries send, and get no answer


def arrived(destination: str) -> Moment:
    """Return a moment: a destination has just stored the first result. Its response is on the way, or lost."""
    return lambda parties, _ae_title, before: wait_until(
        lambda: parties.arrived()[destination] > before[destination], f"a result in {destination}"
    )


def failed(parties: Parties, ae_title: str, _before: Mapping[str, int]) -> None:
    """Wait until the delivery to each destination has failed once, because it is down."""
    wait_until(
        lambda: [True, True] == [bool(job.last_error) for job in deliveries(parties.service, ae_title)],
        f"failures of the deliveries of {ae_title}",
    )


@frozen(kw_only=True)
class Kill:
    """A kill during the deliveries of one AE title."""

    to: str  # the destination besides storescp
    moment: Moment = field(repr=False)
    victims: tuple[str, ...] = ()
    destinations: Destinations = Destinations.UP  # both of them, before the deliveries begin


KILLS: Mapping[str, Kill] = {  # by AE title
    "DOWN-1": Kill(to="orthanc", destinations=Destinations.DOWN, moment=failed),
    "DOWN-2": Kill(to="web", destinations=Destinations.DOWN, moment=failed, victims=("service",)),
    "PAUSED-1": Kill(to="orthanc", destinations=Destinations.PAUSED, moment=ATTEMPTED, victims=("orthanc", "storescp")),
    "PAUSED-2": Kill(to="web", destinations=Destinations.PAUSED, moment=ATTEMPTED, victims=("orthanc", "storescp")),
    "PAUSED-3": Kill(to="web", destinations=Destinations.PAUSED, moment=ATTEMPTED, victims=("service",)),
    "ARRIVED-1": Kill(to="orthanc", moment=arrived("orthanc"), victims=("service",)),
    "ARRIVED-2": Kill(to="web", moment=arrived("orthanc"), victims=("service", "orthanc")),
    "UPLOADED": Kill(to="orthanc", moment=logged("job_uploaded"), victims=("service",)),
    "SUBMITTED": Kill(to="web", moment=logged("job_submitted"), victims=("service", "storescp")),
}


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[OrthancArchive]:
    yield from orthanc_archive(tmp_path / "orthanc")


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[StorescpNode]:
    yield from storescp_node(tmp_path / "storescp")


@pytest.fixture
def parties(launch_service: LaunchService, orthanc: OrthancArchive, storescp: StorescpNode, tmp_path: Path) -> Parties:
    (tmp_path / "password").write_text(PASSWORD)
    destinations = DESTINATIONS.format(
        dicom_port=orthanc.dicom_port,
        orthanc=ORTHANC,
        url=orthanc.url,
        user=USER,
        password=tmp_path / "password",
        port=storescp.port,
        storescp=STORESCP,
    )
    to = {name: (kill.to, "storescp") for name, kill in KILLS.items()}
    site = CommandSite(tmp_path, destinations, to, running=len(KILLS))
    return Parties(
        site=site,
        orthanc=orthanc,
        storescp=storescp,
        launch=lambda: launch_service(site.configuration),
        service=launch_service(site.configuration),
    )


def test_a_kill_of_the_service_or_of_a_destination_neither_loses_nor_changes_a_result(
    parties: Parties, tmp_path: Path
) -> None:
    """For each moment, a job of its own ends, and the kill follows. All commands wait until then.

    Orthanc gets the results of each AE title only over C-STORE or only over STOW-RS.
    """
    for name in KILLS:
        parties.site.hold(name)
        paths = write_study(tmp_path / "studies" / name, instances=INSTANCES, patient_id=name)
        assert [True] * INSTANCES == [result.ok for result in send(paths, parties.service, name)]
    for name, kill in KILLS.items():
        wait_until(lambda name=name: parties.site.runs("started")[name], f"the command of {name}")
        before = parties.count(name)
        parties.disturb(kill.destinations)
        parties.site.release(name)
        kill.moment(parties, name, before)
        parties.kill(kill.victims)
        wait_until(lambda name=name: is_done(parties.service, name), f"the end of the jobs of {name}")
    check_destinations(parties)


def deliveries(service: LaunchedService, ae_title: str) -> list[Job]:
    """Return the delivery jobs of an AE title."""
    return [job for job in jobs_in_ledger(service) if job.ae_title == ae_title and SOURCE_JOB in job.metadata]


def is_done(service: LaunchedService, ae_title: str) -> bool:
    """Return whether the jobs of an AE title have succeeded. A failed or faulted job is an error."""
    states = Counter(job.state for job in jobs_in_ledger(service) if job.ae_title == ae_title)
    assert not states.keys() & {JobState.FAILED, JobState.FAULTED, JobState.CANCELLED}, states
    return states == DONE


def check_destinations(parties: Parties) -> None:
    """Compare the results that the commands have made with those that the destinations have."""
    site = parties.site
    assert dict.fromkeys(KILLS, 1) == site.runs("started") == site.runs("ended")
    made = {name: by_uid(site.copies / f"{uid}.dcm" for uid in written(site, name)) for name in KILLS}
    assert [RESULTS] * len(KILLS) == list(map(len, made.values()))
    everything = {uid: data_set for results in made.values() for uid, data_set in results.items()}
    in_orthanc = [dcmread(BytesIO(content)) for content in parties.orthanc.instances()]
    assert len(everything) == len(in_orthanc) == len(parties.storescp.files())
    assert everything == {str(data_set.SOPInstanceUID): data_set for data_set in in_orthanc}
    assert everything == by_uid(parties.storescp.files())
    assert 0 == parties.service.stop()


def written(site: CommandSite, ae_title: str) -> list[str]:
    """Return the SOP Instance UIDs of the results that the command has made for an AE title."""
    return [entry["uid"] for entry in site.noted("written") if entry["aeTitle"] == ae_title]


def by_uid(paths: Iterable[Path]) -> dict[str, Dataset]:
    """Return the data sets of files by SOP Instance UID."""
    return {str(data_set.SOPInstanceUID): data_set for data_set in map(dcmread, paths)}
