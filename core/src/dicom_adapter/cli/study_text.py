"""Output of `explain` if several studies or jobs match, and if none matches: what was rejected or refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dicom_adapter.api.counts import counted
from dicom_adapter.cli.times import Times
from dicom_adapter.cli.wrapping import wrapped
from dicom_adapter.ledger.series import ArrivedSeries
from dicom_adapter.ledger.studies import StudySummary
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.operations.documents.studies import printable, values_of
from dicom_adapter.operations.look_up import Matches, NotReceived, RefusedInstances
from dicom_adapter.operations.senders import describe, name_of

TITLES = {  # by field of ArrivedSeries, for the text
    "patient_id": "Patient ID",
    "accession_number": "Accession Number",
    "study_date": "Study Date",
    "study_description": "Study Description",
    "series_description": "Series Description",
}


def match_lines(matches: Matches, times: Times, options: str, *, shows_patient: bool) -> Iterator[str]:
    """Yield the lines of several matches, each with the next command. `options`: what to add to the command."""
    yield "Several match:"
    if matches.job:
        yield ""
        yield f"Job {matches.job}"
        yield from wrapped(f"`dicom-adapter explain {matches.job}{options}`")
    for study in matches.studies:
        yield ""
        yield from _study_lines(study, times, options, shows_patient=shows_patient)
    if matches.are_more:
        yield ""
        yield "There are more studies; filters such as --since narrow the search."


def _study_lines(study: StudySummary, times: Times, options: str, *, shows_patient: bool) -> Iterator[str]:
    yield f"Study {study.study_instance_uid}"
    count = counted(study.instances, "instance")
    modalities = f" ({', '.join(map(printable, study.modalities))})" if study.modalities else ""
    senders, ae_titles = ", ".join(study.calling_ae_titles), ", ".join(study.ae_titles)
    yield from wrapped(f"{count}{modalities} from {senders} to {ae_titles}")
    yield from wrapped(f"arrived {times.full(study.first_at)} to {times.full(study.last_at)}")
    jobs = ", ".join(f"{number} {state}" for state, number in sorted(study.jobs.items()))
    yield from wrapped(f"jobs: {jobs or 'none'}")
    if shows_patient:
        for line in patient_lines(study.series):
            yield from wrapped(line)
    yield from wrapped(f"`dicom-adapter explain {study.study_instance_uid}{options}`")


def patient_lines(series: Sequence[ArrivedSeries]) -> Iterator[str]:
    """Yield the values of the attributes that identify a patient or study, each with its name."""
    for name, title in TITLES.items():
        values = values_of(series, name)
        if values:
            yield f"{title}: {', '.join(values)}"


def not_received_lines(not_received: NotReceived, times: Times, sender: str | None, options: str = "") -> Iterator[str]:
    """Yield what was rejected and refused, or that nothing was."""
    of_sender = f" from {sender}" if sender else ""
    since, until = times.full(not_received.since), times.full(not_received.until)
    yield from wrapped(
        f"From {since} to {until}, these were rejected or refused{of_sender}:",
        "",
        "",
    )
    for rejected in not_received.rejected:
        name = name_of(rejected.calling_ae_title, [rejected.peer_address] if rejected.peer_address else [])
        text = f"{name}: rejected {describe(rejected)}; last {times.full(rejected.last_at)}"
        yield from wrapped(times.in_text(text))
    for refused in not_received.refused:
        yield from wrapped(f"{_refusal(refused)}; last {times.full(refused.last_at)}")
    if not (not_received.rejected or not_received.refused):
        yield from wrapped("nothing")
    yield from wrapped(
        f"`dicom-adapter senders{options}` shows what each sender has sent, why it was rejected, and for how long it "
        "has been silent.",
        "",
        "",
    )


def _refusal(refused: RefusedInstances) -> str:
    name = name_of(refused.calling_ae_title, [refused.peer_address])
    count = counted(refused.count, "instance")
    status = f"0x{CStoreStatus[refused.status]:04X} ({refused.status.lower().replace('_', ' ')})"
    return f"{name}: {count} refused at {refused.ae_title} with {status}"
