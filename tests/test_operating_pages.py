"""The pages about operating the service: their commands exist, their systemd units are valid, their scripts work."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dicom_adapter import config
from dicom_adapter.plugins.registry import discover
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from manual import command_line
from support import STORAGE, send, write_study
from support.pages import DOCS, PAGES, ROOT, Block, block, blocks
from support.requirements import required

INSTALL, MONITOR, BACK_UP, UPGRADE, CONTAINER = (
    DOCS / "how-to" / f"{name}.md" for name in ("install", "monitor", "back-up", "upgrade", "container")
)
CONFIG = "/etc/dicom-adapter/dicom-adapter.toml"  # in the commands of the pages
PROGRAM = "dicom-adapter"
STOP_MARGIN_S = 60  # from drain-timeout to the end of a stop: 30 seconds for running steps, and time to end
SERVICE = (
    STORAGE
    + """
[http]
port = 0

[ae-titles.LUNG]
settings = { group-by = "study", timeout = 600, pipeline-a = "pipeline-1" }
"""
)
COMMANDS = command_line.commands()


# --- commands -------------------------------------------------------------------------------------------------------


def shown_commands() -> list[str]:
    """Return the arguments of each call of the adapter in the shell blocks of all pages, without repetitions."""
    commands = {}
    for example in [*blocks("sh", PAGES), *blocks("bash", PAGES)]:
        for line in example.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if PROGRAM in line else []
            # After -u, the name is that of the service's user.
            calls = [n for n, word in enumerate(words) if Path(word).name == PROGRAM and words[n - 1] != "-u"]
            if calls and (calls[0] == 0 or words[0] == "sudo" or words[:2] == ["podman", "exec"]):
                commands[shlex.join(words[calls[-1] + 1 :])] = True
    return list(commands)


@pytest.mark.parametrize("text", shown_commands())
def test_every_command_that_a_page_shows_exists_with_its_options(text: str) -> None:
    arguments = shlex.split(text)
    name = next((name for count in (2, 1) if (name := " ".join(arguments[:count])) in COMMANDS), None)
    parameters = COMMANDS[name].params if name else []
    known = {option for each in parameters for option in [*each.opts, *each.secondary_opts]}
    given = [word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)]
    assert [] == [option for option in given if option not in known | {"--help", "-h", "--version"}]
    assert name or given, f"there is no command {text}"


# --- systemd units --------------------------------------------------------------------------------------------------


def unit(block: Block) -> configparser.ConfigParser:
    """Parse a systemd unit, without interpolation; keep upper case in keys. A repeated key is an error."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment] # as the module's documentation describes
    parser.read_string(block.text)
    return parser


SYSTEMD = ROOT / "deploy" / "systemd"
UNIT = Block(INSTALL, "ini dicom-adapter.service", (SYSTEMD / "dicom-adapter.service").read_text(encoding="utf-8"))
UNITS = [UNIT, *blocks("ini", [MONITOR, BACK_UP])]
DROP_INS = [None, *sorted(SYSTEMD.glob("*.conf"))]
EXPOSURE = 2.0  # of systemd-analyze(1): from 0, fully confined, to 10


@pytest.mark.parametrize("example", UNITS, ids=str)
def test_units_have_programs_with_full_paths_that_exist_after_the_installation(example: Block) -> None:
    program = "/opt/dicom-adapter/bin/dicom-adapter"
    for section in unit(example).values():
        for key, command in section.items():
            if key.startswith("Exec"):
                path, *words = command.split(maxsplit=1)
                assert path == program or Path(path).parent in (Path("/bin"), Path("/usr/bin")), command
                assert PROGRAM not in path or words[0].split()[0] in COMMANDS


@pytest.mark.parametrize("example", UNITS, ids=str)
def test_systemd_accepts_the_units(example: Block, tmp_path: Path) -> None:
    """The program is replaced by one that exists here."""
    analyze("verify", example, tmp_path)


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.name if path else "unchanged")
def test_the_unit_is_confined(drop_in: Path | None, tmp_path: Path) -> None:
    """Verified to fail when the unit has no SystemCallFilter."""
    if drop_in is not None:
        (tmp_path / "dicom-adapter.service.d").mkdir()
        shutil.copy(drop_in, tmp_path / "dicom-adapter.service.d")
        assert f"/etc/systemd/system/dicom-adapter.service.d/{drop_in.name}: " in drop_in.read_text(encoding="utf-8")
    analyze("verify", UNIT, tmp_path)
    analyze("security", UNIT, tmp_path, "--offline=true", f"--threshold={EXPOSURE * 10:.0f}")


def analyze(command: str, example: Block, folder: Path, *options: str) -> None:
    """Check a unit with systemd-analyze, in a folder with all units. Skip the test if the program is not installed."""
    program = required(shutil.which("systemd-analyze"), "systemd", "systemd-analyze is not installed")
    for other in UNITS:
        text = other.text.replace("/opt/dicom-adapter/bin/dicom-adapter", "/bin/true")
        (folder / other.info.split()[1]).write_text(text, encoding="utf-8")
    (folder / "alarm@.service").write_text("[Service]\nExecStart=/bin/true\n", encoding="utf-8")
    path = folder / example.info.split()[1]
    environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"}
    arguments = [program, command, "--man=no", "--no-pager", *options, path]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if str(folder) in line or PROGRAM in line]
    assert (0, []) == (done.returncode, ours), done.stdout + done.stderr


def test_the_unit_fits_the_configuration_of_its_page(tmp_path: Path) -> None:
    """The service may write its data folder, waits for its disk, and has more time to stop than drain-timeout.

    With another KillMode, systemd would end the runners of commands with the service.
    """
    example = block("toml", INSTALL)
    loaded = config.load(example.text, folder=tmp_path, catalogue=discover().catalogue()).config
    assert loaded is not None
    sections = unit(UNIT)
    assert Path(sections["Service"]["ReadWritePaths"]) in loaded.storage.path.parents
    assert sections["Service"]["ReadWritePaths"] == sections["Unit"]["RequiresMountsFor"]
    assert int(sections["Service"]["TimeoutStopSec"]) >= loaded.dicom.drain_timeout + STOP_MARGIN_S
    assert sections["Service"]["ExecStart"].endswith(f"dicom-adapter run {CONFIG}")
    assert "process" == sections["Service"]["KillMode"]


def test_the_container_keeps_its_data_in_a_volume(tmp_path: Path) -> None:
    """The configuration of the page, its command and the Containerfile name the same paths."""
    loaded = config.load(block("toml container", CONTAINER).text, folder=tmp_path, catalogue=discover().catalogue())
    assert loaded.config is not None
    volumes = re.findall(r"--volume=\S+?:([^:\s]+)", block("sh container run", CONTAINER).text)
    containerfile = (ROOT / "deploy" / "container" / "Containerfile").read_text(encoding="utf-8")
    [folder] = re.findall(r"^VOLUME (\S+)$", containerfile, re.MULTILINE)
    assert volumes == [str(Path(CONFIG).parent), folder]
    assert f"DICOM_ADAPTER_CONFIG={CONFIG}\n" in containerfile
    assert Path(folder) in loaded.config.storage.path.parents


# --- with a service -------------------------------------------------------------------------------------------------


class Shell:
    """A shell in which `dicom-adapter` is this program, and paths and port of the pages are replaced."""

    def __init__(self, folder: Path, replacements: dict[str, str]) -> None:
        self._replacements = replacements
        program = folder / "bin" / PROGRAM
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dicom_adapter "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        self.programs = program.parent
        self._environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "COLUMNS": "200"}

    def run(self, text: str, status: int = 0) -> str:
        """Run commands until one fails, check the exit status, and return the output."""
        for shown, real in self._replacements.items():
            text = text.replace(shown, real)
        command = ["sh", "-euc", text]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        assert status == done.returncode, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def service(launch_service: LaunchService, tmp_path: Path) -> LaunchedService:
    """A service with a pending instance."""
    launched = launch_service(SERVICE)
    assert all(result.ok for result in send(write_study(tmp_path / "study", instances=1), launched, "LUNG"))
    return launched


@pytest.fixture
def shell(service: LaunchedService, tmp_path: Path) -> Shell:
    (tmp_path / "backups").mkdir()
    port = service.wait_for("http_listening")["port"]
    return Shell(
        tmp_path,
        {CONFIG: str(service.configuration), "/mnt/backup": str(tmp_path / "backups"), ":8042": f":{port}"},
    )


@pytest.mark.slow
@pytest.mark.timeout(600)  # many commands, on a busy machine
def test_the_commands_for_backups_and_upgrades_work_in_their_order(service: LaunchedService, shell: Shell) -> None:
    """The data folder is moved away before each restore, as the pages describe."""
    shell.run(block("sh backup", BACK_UP).text)
    assert 0 == service.stop()
    backup, inspections = (each.text for each in blocks("sh", [UPGRADE]) if each.info == "sh upgrade")
    shell.run(backup)
    shell.run(inspections, status=3)  # the service is not running
    folder = service.configuration.parent
    for number, restore in enumerate(
        [
            "\n".join(each.text for each in blocks("sh", [BACK_UP]) if each.info == "sh restore"),
            block("sh upgrade restore", UPGRADE).text,
        ]
    ):
        (folder / "data").rename(folder / f"away {number}")
        assert "1 stored instance" in shell.run(restore)


@pytest.mark.slow
@pytest.mark.timeout(600)  # many commands, on a busy machine
def test_the_scripts_for_monitoring_report_the_health(service: LaunchedService, shell: Shell) -> None:
    """The check of Nagios, and the expression of the blackbox_exporter for yellow health."""
    program = shell.programs / "check_dicom_adapter"
    program.write_text(block("sh check_dicom_adapter", MONITOR).text, encoding="utf-8")
    program.chmod(0o755)
    check = f"check_dicom_adapter {CONFIG}"
    modules = yaml.safe_load(block("yaml blackbox", MONITOR).text)["modules"]
    [yellow] = modules["dicom_adapter_yellow"]["http"]["fail_if_body_matches_regexp"]
    watch, ask = (each.text for each in blocks("sh", [MONITOR]) if each.info == "sh monitor")
    assert "green" in shell.run(watch)
    assert "OK" == shell.run(check).splitlines()[0]
    body = shell.run(ask)
    assert re.search(yellow, body.replace("green", "yellow"))
    assert not re.search(yellow, body)
    assert 0 == service.stop()
    assert "CRITICAL" == shell.run(check, status=2).splitlines()[0]


def test_the_events_to_alarm_on_are_documented() -> None:
    text, known = MONITOR.read_text(encoding="utf-8"), (DOCS / "operation.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text) if not name.startswith("node_")}
    exceptions = {"check_dicom_adapter", "blackbox_exporter"}
    assert [] == [name for name in sorted(named - exceptions) if f"| `{name}` |" not in known]
