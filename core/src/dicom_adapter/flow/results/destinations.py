"""Step 6 (`results`) of the flow: decide to which submitters results are delivered. All functions are pure.

The configuration names the destinations, and with `to-sender` also the senders of a job's instances. The address of a
sender is known from a submitter that sends to a DICOM node with this AE title.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from dicom_adapter.api.submitter import Submitter
from dicom_adapter.config.results import ResultsConfig


@frozen(kw_only=True)
class DestinationFacts:
    """The properties of a submitter that decide which results it can deliver."""

    node_ae_title: str | None = None  # of the DICOM node to which it sends; None: not to a DICOM node
    takes_attachments: bool = False


KnownDestinations = Mapping[str, DestinationFacts]  # by the name of the submitter, in the order of the configuration


@frozen(kw_only=True)
class Destinations:
    """The destinations of the results of a job."""

    submitters: Sequence[str]
    unknown_senders: Sequence[str] = ()  # calling AE titles that get no results, because no submitter sends to them


def known_destinations(submitters: Mapping[str, Submitter[Any]]) -> KnownDestinations:
    """Return what is known of these submitters."""
    return {
        name: DestinationFacts(
            node_ae_title=submitter.node_ae_title, takes_attachments=bool(submitter.takes_attachments)
        )
        for name, submitter in submitters.items()
    }


def choose(settings: ResultsConfig, senders: Sequence[str], known: KnownDestinations) -> Destinations:
    """Return the destinations of results. `senders`: the calling AE titles that have sent the instances of the job."""
    chosen: list[str] = list(settings.to)
    if not settings.to_sender:
        return Destinations(submitters=chosen)
    by_ae_title = _submitters_by_ae_title(known)
    unknown = []
    for sender in senders:
        able = by_ae_title.get(sender, [])
        if not able:
            unknown.append(sender)
        elif not set(able) & set(chosen):
            chosen.append(able[0])
    return Destinations(submitters=chosen, unknown_senders=unknown)


def list_sender_notices(settings: ResultsConfig, known: KnownDestinations) -> list[str]:
    """Return what an operator should know about `to-sender`; an empty list if it is not set."""
    if not settings.to_sender:
        return []
    by_ae_title = _submitters_by_ae_title(known)
    if not by_ae_title:
        return [
            "to-sender = true has no effect, because no submitter sends to a DICOM node: add a [submitters.<name>] "
            'table for each sender, such as type = "dicom" with the AE title, host and port of the sender'
        ]
    return [
        f"results for the sender {ae_title} go to the submitter {able[0]}, the first that sends to this AE title "
        f"(there are {', '.join(able)}). To choose another one, name it in `to` or change the order of the tables"
        for ae_title, able in by_ae_title.items()
        if len(able) > 1 and not set(able) & set(settings.to)
    ]


def _submitters_by_ae_title(known: KnownDestinations) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, facts in known.items():
        if facts.node_ae_title is not None:
            found.setdefault(facts.node_ae_title, []).append(name)
    return found
