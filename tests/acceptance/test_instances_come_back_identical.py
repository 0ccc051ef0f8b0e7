"""Data sets reach the platform unchanged, in a readable file with the original transfer syntax."""

from __future__ import annotations

from pathlib import Path

import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicom_adapter.config.transfer_syntaxes import UNSUPPORTED_TRANSFER_SYNTAXES
from dicom_adapter.dicom.identity import UID_GRAMMAR
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, Run, send, wait_until_submitted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),  # some of these files are unusual on purpose
]

CONFIGURATION = STORAGE + "".join(
    f"""
[ae-titles.ANY{number}.settings]
pipeline-any = "any"
"""
    for number in range(10)
)
SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
WRONGLY_ENCODED = "SC_rgb_jpeg.dcm"  # in implicit VR, in spite of its transfer syntax


def data_set_of(path: Path) -> bytes:
    """Return the encoded data set of a Part 10 file, which follows the File Meta Information."""
    # The group length defines the end of the File Meta Information (PS3.10 section 7.1).
    header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).file_meta
    return path.read_bytes()[132 + 12 + header.FileMetaInformationGroupLength :]


def is_storage_instance(path: Path) -> bool:
    """Return whether a file is a Part 10 file with all UIDs of an instance, in a transfer syntax that is accepted."""
    try:
        data_set = dcmread(path, stop_before_pixels=True)
        wanted = [
            data_set.file_meta.TransferSyntaxUID,
            data_set.SOPClassUID,
            data_set.SOPInstanceUID,
            data_set.StudyInstanceUID,
            data_set.SeriesInstanceUID,
        ]
    except (InvalidDicomError, AttributeError, EOFError):
        return False
    return wanted[0] not in UNSUPPORTED_TRANSFER_SYNTAXES and all(UID_GRAMMAR.fullmatch(str(uid)) for uid in wanted)


def shipped_instances() -> dict[tuple[str, str], Path]:
    """Return pydicom's test files by AE title and SOP Instance UID. Files with one UID go to different AE titles."""
    paths: dict[tuple[str, str], Path] = {}
    files = sorted(path for path in SHIPPED.rglob("*") if path.is_file() and path.name != WRONGLY_ENCODED)
    for path in filter(is_storage_instance, files):
        uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        number = sum(other == uid for _ae_title, other in paths)
        paths[f"ANY{number}", uid] = path
    return paths


def test_every_test_file_of_pydicom_reaches_the_platform_unchanged(
    launch_service: LaunchService, platform: PlatformFolder
) -> None:
    """Each file is accepted in its transfer syntax, and its data set is identical on the platform."""
    service = launch_service(CONFIGURATION)
    sent = shipped_instances()
    for ae_title in sorted({ae_title for ae_title, _uid in sent}):
        results = send([path for (other, _uid), path in sent.items() if other == ae_title], service, ae_title)
        assert [] == [result for result in results if not result.ok]
    wait_until_submitted(service, len(sent))
    received = {
        (job["aeTitle"], entry["sopInstanceUid"]): file
        for job in platform.jobs
        for entry, file in zip(job["instances"], platform.files(job), strict=True)
    }
    assert sent.keys() == received.keys()
    for key, path in sent.items():
        assert data_set_of(path) == data_set_of(received[key]), path.name
        assert _transfer_syntax(path) == _transfer_syntax(received[key]), path.name


def test_a_file_in_another_encoding_than_its_transfer_syntax_is_refused(launch_service: LaunchService) -> None:
    """The response has the reason (as far as Error Comment is long enough)."""
    [result] = send([SHIPPED / WRONGLY_ENCODED], launch_service(CONFIGURATION), "ANY0")
    assert (False, 0xC000) == (result.ok, result.status)
    assert "encoded in implicit VR little endian" in result.message


@pytest.mark.dcmtk
def test_dcmtk_reads_the_files_on_the_platform(
    launch_service: LaunchService, platform: PlatformFolder, dcmtk: Run
) -> None:
    """DCMTK accepts the Part 10 header that the adapter writes."""
    service = launch_service(CONFIGURATION)
    dcmtk("storescu", "-aec", "ANY0", "127.0.0.1", service.port(), SHIPPED / "CT_small.dcm")
    service.wait_for("job_submitted")
    [job] = platform.jobs
    [file] = platform.files(job)
    dump = dcmtk("dcmdump", file).stdout
    assert "(0002,0016) AE [STORESCU]" in dump


def _transfer_syntax(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).file_meta.TransferSyntaxUID)
