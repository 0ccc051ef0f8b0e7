"""The senders request a refused association again, and record the reason."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random

import pytest
from pydicom.uid import JPEGBaseline8Bit
from pynetdicom import AE, AllStoragePresentationContexts, evt

from faults.clients import Client
from faults.records import Records, read
from faults.senders import NO_CONTEXT, SENT_AGAIN
from faults.studies import TRANSFER_SYNTAXES, Delivery, End, deliveries
from support.restartable import free_ports

SECONDS = 60.0
NAME = "SENDER"


class Site:
    """A sender, and the system to which it sends. The first association of the sender is released."""

    def __init__(self, folder: Path) -> None:
        seed, self.first = next(
            (seed, first)
            for seed in map(str, count())
            # With this seed, the sender would not repeat the first association if it were only lost.
            if Random(f"{seed}/{NAME}/pauses").random() >= SENT_AGAIN
            and (first := _first_delivery(folder / seed, f"{seed}/{NAME}/0")).end is End.RELEASE
        )
        [self.port] = free_ports(1)
        self._client = Client("senders", folder, NAME, seed)

    @contextmanager
    def sending(self) -> Iterator[None]:
        self._client.start(self.port)
        try:
            yield
        finally:
            self._client.end()

    @contextmanager
    def serving(self, ae_title: str, transfer_syntaxes: Sequence[str] = TRANSFER_SYNTAXES) -> Iterator[None]:
        """Accept associations with this called AE title, and presentation contexts with these transfer syntaxes."""
        entity = AE(ae_title)
        entity.require_called_aet = True
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, list(transfer_syntaxes))
        store = (evt.EVT_C_STORE, lambda _event: 0x0000)
        server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[store])
        try:
            yield
        finally:
            server.shutdown()

    def wait_for(self, condition: Callable[[Records], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not (self._client.record.exists() and condition(read([self._client.record]))):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for_refusal(self, reason: str) -> None:
        self.wait_for(lambda records: reason in records.not_established)


def _first_delivery(folder: Path, seed: str) -> Delivery:
    folder.mkdir()
    return deliveries(folder, seed)[0][1]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_delivery_is_sent_when_the_system_listens(site: Site) -> None:
    """Verified to fail when a refused association is only requested again with the probability SENT_AGAIN."""
    with site.sending():
        site.wait_for_refusal("not listening")
        with site.serving(site.first.ae_title):
            expected = {instance.digest for instance in site.first.instances}
            site.wait_for(lambda records: expected <= {sent.digest for sent in records.sent if sent.is_acknowledged})


def test_rejection_is_recorded_with_its_reason(site: Site) -> None:
    with site.serving("ANOTHER"), site.sending():
        site.wait_for_refusal("rejected: Called AE title not recognised")


def test_association_without_an_accepted_presentation_context_is_recorded(site: Site) -> None:
    with site.serving(site.first.ae_title, [JPEGBaseline8Bit]), site.sending():
        site.wait_for_refusal(NO_CONTEXT)


def test_connection_that_is_closed_without_a_response_is_recorded(site: Site) -> None:
    with socket.create_server(("127.0.0.1", site.port)) as server, site.sending():
        threading.Thread(target=_close_connections, args=[server], daemon=True).start()
        site.wait_for_refusal("closed or no response")


def _close_connections(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return  # the test has ended
