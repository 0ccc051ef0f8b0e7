"""Host and receivers share a data folder; a repair has it for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dicom_adapter.runtime import data_folder
from dicom_adapter.runtime.data_folder import alone, is_used, share


def test_several_share_a_folder_and_none_has_it_alone(tmp_path: Path) -> None:
    """Until the last of them lets go."""
    folder = tmp_path / "data"
    first, second = share(folder), share(folder)
    assert first is not None
    assert second is not None
    first.close()
    assert is_used(folder)
    with alone(folder) as unused:
        assert not unused
    second.close()
    assert not is_used(folder)


def test_looking_makes_no_file(tmp_path: Path) -> None:
    """Whoever looks may be another user than the service's."""
    assert not is_used(tmp_path / "data")
    assert [] == list(tmp_path.iterdir())


def test_nobody_begins_while_somebody_has_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a process of the service nor another repair."""
    monkeypatch.setattr(data_folder, "PAUSE_S", 0)
    with alone(tmp_path) as unused, alone(tmp_path) as second:
        assert (True, False) == (unused, second)
        assert share(tmp_path) is None
    held = share(tmp_path)
    assert held is not None
    held.close()


def test_a_look_does_not_keep_the_service_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds the folder locked tries again for a moment. Tried: with a single try, a start fails."""
    looking = alone(tmp_path)
    looking.__enter__()
    monkeypatch.setattr("time.sleep", lambda _seconds: looking.__exit__(None, None, None))
    held = share(tmp_path)
    assert held is not None
    held.close()


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    """Nobody has to clean up."""
    code = (
        "from dicom_adapter.runtime.data_folder import share; "
        f"held = share(__import__('pathlib').Path({str(tmp_path)!r})); print(1)"
    )
    program = [sys.executable, "-c", code + "; input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # it is a pipe
        assert "1\n" == process.stdout.readline()
        assert is_used(tmp_path)
        process.kill()
        process.wait()
        assert not is_used(tmp_path)
