"""`python receive_minimal.py PORT FOLDER ASSOCIATIONS`: the shortest receiver with pynetdicom.

The receiver writes each data set unchanged, without a sync.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # defined when the module is loaded

SUCCESS = 0x0000


def main(port: str, folder: str, associations: str) -> None:
    """Serve until the process is ended."""

    def store(event: evt.Event) -> int:
        assert isinstance(event.request, C_STORE)
        path = Path(folder, f"{event.request.AffectedSOPInstanceUID}.dcm")
        path.write_bytes(event.encoded_dataset())
        return SUCCESS

    entity = AE()
    entity.maximum_associations = int(associations)
    entity.supported_contexts = AllStoragePresentationContexts
    entity.add_supported_context(Verification)
    entity.start_server(("127.0.0.1", int(port)), evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(*sys.argv[1:])
