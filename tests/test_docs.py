"""The documentation: names everything that there is, and its examples work."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import pytest
import tomli
import typer.main
from attrs import frozen

import dicom_adapter
from dicom_adapter import config, hookspecs, model
from dicom_adapter.cli import app
from dicom_adapter.config import tables
from dicom_adapter.flow.association import Rejection
from dicom_adapter.flow.store import Status
from dicom_adapter.flow.submit import NEXT
from dicom_adapter.plugins import discover
from dicom_adapter.synthetic import make_instance
from dicom_adapter.testing import Plugin
from dicom_adapter.testing.fixtures import MakeAdapter
from dicom_adapter_aetitle import AeTitleSettings
from dicom_adapter_cache.settings import CacheSettings
from dicom_adapter_clara_client import FakeSettings, Fault
from dicom_adapter_clara_client.emulator.faults import FaultKind
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings, ClaraTls
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
SOURCES = [*(ROOT / "core" / "src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
LOGGED = re.compile(r"\blog\.(?:debug|info|warning|error)\(\s*\"([^\"]+)\"")

# The classes that tables of the file become, by their headings in docs/configuration.md.
SECTIONS: dict[str, type] = {
    "The top of the file": config.Config,
    "[dicom]": config.Dicom,
    "[dicom.tls]": config.Tls,
    "[http]": config.Http,
    "[storage]": config.Storage,
    "[ledger]": config.Ledger,
    "[log]": config.Log,
    r"[submitters.\<name\>]": config.SubmitterConfig,
    'type = "clara-grpc"': ClaraGrpcSettings,
    'type = "clara-rest"': ClaraRestSettings,
    'type = "fake"': FakeSettings,
    r"[ae-titles.\<AE title\>]": config.AeTitleConfig,
    'processor = "aetitle"': AeTitleSettings,
    'processor = "cache"': CacheSettings,
}
PARTS = {
    config.Caller: r"[ae-titles.\<AE title\>]",
    ClaraTls: 'type = "clara-grpc"',
    Fault: 'type = "fake"',
}


@frozen
class Block:
    """A fenced block: its page, its info string (a language, perhaps a name), its text."""

    page: Path
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.info}"


def blocks(language: str, pages: list[Path] = PAGES) -> list[Block]:
    """All fenced blocks of a language."""
    found = (Block(page, info, text) for page in pages for info, text in BLOCK.findall(read(page)))
    return [block for block in found if block.info.split()[:1] == [language]]


def block(info: str, page: Path = DOCS / "plugins.md") -> Block:
    """The one block of a page with this info string."""
    [found] = [block for block in blocks(info.split()[0], [page]) if block.info == info]
    return found


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def section(page: Path, heading: str) -> str:
    """A section's text, up to the next heading of any level."""
    parts = re.split(r"^(#+ .*)$", read(page), flags=re.MULTILINE)
    found = [text for title, text in zip(parts[1::2], parts[2::2], strict=True) if title.lstrip("# ") == heading]
    assert 1 == len(found), f"{page.name} has no section '{heading}'"
    return found[0]


# --- everything has its place ---------------------------------------------------------------------------------------


HOOKS = [name for name in vars(hookspecs) if name.startswith("dicom_adapter_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_specification_and_an_example(hook: str) -> None:
    """The guide has a row with each hook, and an implementation of it."""
    assert f"| `{hook}` |" in section(DOCS / "plugins.md", "All hooks")
    assert any(f"def {hook}(" in example.text for example in blocks("python"))


def settings() -> Iterator[tuple[str, Any]]:
    for heading, cls in [*SECTIONS.items(), *((heading, cls) for cls, heading in PARTS.items())]:
        for field in tables.settable(cls):
            yield heading, field


@pytest.mark.parametrize(("heading", "field"), list(settings()), ids=lambda value: getattr(value, "name", str(value)))
def test_every_key_is_described_with_its_default(heading: str, field: Any) -> None:
    """The reference has a row with each key in the section of its table, with the default in force."""
    rows = section(DOCS / "configuration.md", heading).splitlines()
    mine = [row.split(" | ") for row in rows if row.startswith(f"| `{tables.key_of(field)}` |")]
    assert 1 == len(mine), tables.key_of(field)
    assert default_of(field) in (None, mine[0][2])


def default_of(field: Any) -> str | None:
    """A default as the reference writes it; None when words say it better."""
    if field.default is attrs.NOTHING:  # an enumeration's member itself
        return None
    value = field.default.value if isinstance(field.default, Enum) else field.default
    if value is None or isinstance(value, attrs.Factory):  # type: ignore[arg-type] # a class
        return None
    if isinstance(value, float):
        return f"`{value:.15g}`"
    return "`[]`" if value == () else f"`{json.dumps(value)}`"


def commands(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)


def brought() -> typer.Typer:
    """The commands that the installed plugins bring."""
    found = typer.Typer()
    found.callback()(lambda: None)
    for command in discover().commands(lambda plugin, hook, failure: pytest.fail(f"{plugin}: {hook}: {failure}")):
        if isinstance(command, typer.Typer):
            found.add_typer(command)
        else:
            found.command()(command)
    return found


COMMANDS = dict(commands(typer.main.get_command(app))) | dict(commands(typer.main.get_command(brought())))


def test_plugins_that_come_along_bring_their_commands() -> None:
    """The commands above are all that there are, not only those of the core."""
    assert {"emulate-platform", "cache compose"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_its_options_are_described(name: str) -> None:
    """The reference has a section for each command, in which each option occurs."""
    text = section(DOCS / "commands.md", name)
    options = [param.opts[0] for param in COMMANDS[name].params if param.param_type_name == "option"]
    assert [] == [option for option in options if option != "--help" and option not in text]
    assert f"dicom-adapter {name}" in text or hasattr(COMMANDS[name], "commands")


@pytest.mark.parametrize("kind", FaultKind, ids=lambda kind: kind.value)
def test_every_kind_of_fault_is_described(kind: FaultKind) -> None:
    """Whoever tries the adapter on the emulator finds what can go wrong there."""
    assert f"| `{kind.value}` |" in section(DOCS / "commands.md", "emulate-platform")


def logged() -> set[str]:
    literal = {event for source in SOURCES for event in LOGGED.findall(read(source))}
    steps = {"job_" + state.value.replace("-", "_") for state in NEXT.values()}
    return literal | steps | {"job_attempt_failed", "job_cancelled", "job_faulted"}


def test_every_log_event_is_described_and_no_other() -> None:
    """Operators find each event that the code logs in one table, and none that it does not."""
    text = "".join(section(DOCS / "operation.md", heading) for heading in ("Service", "Receiver", "Host"))
    assert sorted(logged()) == sorted(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))


def test_every_status_and_rejection_is_described() -> None:
    """The DICOM page has a row with each status and each rejection."""
    statuses = re.findall(r"^\| (0x[0-9A-F]{4}) ", section(DOCS / "dicom.md", "C-STORE"), re.MULTILINE)
    assert sorted(f"0x{status:04X}" for status in Status) == sorted(statuses)
    rows = re.findall(r"\| (\d) [^|]*\| (\d) [^|]*\| (\d) [^|]*\|$", section(DOCS / "dicom.md", "Associations"), re.M)
    assert {rejection.value for rejection in Rejection} == {tuple(map(int, row)) for row in rows}


def test_every_job_state_is_described() -> None:
    """The states that can be asked for are listed."""
    text = section(DOCS / "commands.md", "jobs list")
    assert [] == [state.value for state in model.JobState if f"`{state.value}`" not in text]


# --- examples work --------------------------------------------------------------------------------------------------


def plain_toml() -> list[Block]:
    return [found for found in blocks("toml") if found.info == "toml"]


@pytest.mark.parametrize("example", plain_toml(), ids=str)
def test_configurations_load(example: Block, tmp_path: Path) -> None:
    """A TOML block without further words is a configuration without problems."""
    loaded = config.load(example.text, folder=tmp_path, catalogue=discover().catalogue())
    assert () == loaded.problems


def test_a_wrong_configuration_has_the_problems_that_are_shown(tmp_path: Path) -> None:
    """The problems in the reference are what `check` says."""
    page = DOCS / "configuration.md"
    wrong = block("toml wrong", page)
    loaded = config.load(wrong.text, folder=tmp_path, catalogue=discover().catalogue())
    assert block("text", page).text.splitlines() == [str(problem) for problem in loaded.problems]


@pytest.mark.parametrize("example", blocks("json"), ids=str)
def test_json_examples_are_json(example: Block) -> None:
    """What is shown as JSON can be read as JSON."""
    assert json.loads(example.text)


@pytest.mark.parametrize("example", blocks("python"), ids=str)
def test_python_examples_compile_and_import_only_what_is_public(example: Block) -> None:
    """A plugin imports `dicom_adapter`, and for its tests `dicom_adapter.testing`, synthetic instances, an emulator."""
    compile(example.text, str(example), "exec", dont_inherit=True)
    imported = set(re.findall(r"^from (dicom_adapter[\w.]*) import", example.text, re.MULTILINE))
    for_tests = {"dicom_adapter.testing", "dicom_adapter.synthetic", "dicom_adapter_clara_client.emulator"}
    for_clients = {"dicom_adapter_cache.wire.cache_pb2", "dicom_adapter_cache.wire.cache_pb2_grpc"}
    assert imported <= {"dicom_adapter", *for_tests, *for_clients}


def test_the_projects_entry_point_is_one_that_the_adapter_finds() -> None:
    """The example's pyproject.toml names the entry-point group of the plugin host."""
    assert hookspecs.PROJECT in tomli.loads(block("toml pyproject").text)["project"]["entry-points"]


@pytest.fixture
def module_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., types.ModuleType]:
    """Make a module of examples of a page, of the plugin guide if none is named."""

    def make(*infos: str, page: Path = DOCS / "plugins.md") -> types.ModuleType:
        module = types.ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", module)  # attrs looks types up there
        for info in infos:
            code = compile(block(info, page).text, f"docs/{page.name}: {info}", "exec", dont_inherit=True)
            exec(code, vars(module))
        return module

    return make


def guide_tests(*where: Any) -> list[str]:
    return re.findall(r"^def (test_\w+)\(", block(*where).text, re.MULTILINE)


@pytest.mark.parametrize("name", guide_tests("python processor test"))
def test_the_guides_own_tests_pass(
    name: str, module_of: Callable[..., types.ModuleType], request: pytest.FixtureRequest
) -> None:
    """The tests that the guide shows pass with the processor that it shows."""
    run_test(getattr(module_of("python processor", "python processor test"), name), request)


@pytest.mark.parametrize("name", guide_tests("python emulator test", DOCS / "clara.md"))
def test_the_emulators_example_passes(
    name: str, module_of: Callable[..., types.ModuleType], request: pytest.FixtureRequest
) -> None:
    """The test that the page on the Clara Platform shows passes."""
    run_test(getattr(module_of("python emulator test", page=DOCS / "clara.md"), name), request)


def run_test(test: Any, request: pytest.FixtureRequest) -> None:
    fixtures = test.__code__.co_varnames[: test.__code__.co_argcount]
    test(**{fixture: request.getfixturevalue(fixture) for fixture in fixtures})


def test_the_example_processor_runs_as_configured(
    module_of: Callable[..., types.ModuleType], make_adapter: MakeAdapter
) -> None:
    """The configuration beside the processor is one that it takes."""
    adapter = make_adapter(block("toml processor").text, Plugin(module_of("python processor")))
    adapter.receive(make_instance(), make_instance(series_uid="1.2.3"), ae_title="ONCO")
    adapter.advance(600)
    assert 2 == len(adapter.jobs)  # two studies, neither complete


def test_the_example_that_is_asked_composes_a_job(
    module_of: Callable[..., types.ModuleType], make_adapter: MakeAdapter
) -> None:
    """Over HTTP, in the lane of its AE title."""
    module = module_of("python asking")
    adapter = make_adapter(
        '[submitters.p]\ntype = "fake"\n[ae-titles.KEEP]\nprocessor = "on-demand"', Plugin(module, name="on-demand")
    )
    adapter.receive(make_instance(), make_instance(), ae_title="KEEP")
    job_id = adapter.ask("KEEP", lambda processor: processor.compose("pipeline-1"))
    assert [(job_id, 2)] == [(job.job_id, job.instance_count) for job in adapter.jobs]
    assert ["compose"] == [handler.handler_name for handler in adapter.host.brought("dicom_adapter_http")["on-demand"]]


def test_the_example_submitter_puts_jobs_into_its_folder(
    module_of: Callable[..., types.ModuleType], make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """A known pipeline's job arrives whole, one of an unknown pipeline is faulted."""
    adapter = make_adapter(block("toml submitter").text, Plugin(module_of("python submitter")))
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert ["submitted", "faulted"] == [job.state.value for job in adapter.jobs]
    [folder] = (tmp_path / "jobs").iterdir()
    assert ["00000.dcm", "metadata.json", "ready"] == sorted(path.name for path in folder.iterdir())
    assert {"Source": "LUNG (aetitle)", "Instances": "1"} == json.loads((folder / "metadata.json").read_bytes())


def test_every_call_of_the_example_submitter_can_be_repeated(
    module_of: Callable[..., types.ModuleType], make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step taken twice gives what it gives once."""
    module = module_of("python submitter")
    for name in ("create_job", "add_metadata", "upload", "start"):
        monkeypatch.setattr(module.DropFolder, name, twice(getattr(module.DropFolder, name)))
    adapter = make_adapter(block("toml submitter").text, Plugin(module))
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert "submitted" == adapter.jobs[0].state.value


def twice(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        first, second = method(*arguments), method(*arguments)
        assert first == second
        return second

    return call


def test_the_example_storage_backend_keeps_and_gives_back(
    module_of: Callable[..., types.ModuleType], make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Instances go through it to the platform, survive a restart on the way, and leave nothing behind."""
    adapter = make_adapter(block("toml storage backend").text, Plugin(module_of("python storage backend")))
    adapter.receive(make_instance(), make_instance(), ae_title="LUNG")
    adapter.restart()
    assert 2 == len(list(adapter.storage.keys()))
    adapter.advance(5)
    assert ["submitted"] * 2 == [job.state.value for job in adapter.jobs]
    assert [] == list((tmp_path / "data" / "instances").iterdir())


def test_the_example_observers_are_told(module_of: Callable[..., types.ModuleType], make_adapter: MakeAdapter) -> None:
    """Each observer hook of the guide is called."""
    module = module_of("python observers")
    adapter = make_adapter('[submitters.p]\ntype = "fake"\n[ae-titles.A.settings]\npipeline-a = "1"', Plugin(module))
    adapter.receive(make_instance(), make_instance(), ae_title="A")
    adapter.advance(5)
    assert {"stored": 2, "submitted": 2, "reclaimed": 2} == module.counts


# --- pages hold together --------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings: lower case, without marks, hyphens for spaces."""
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in HEADING.findall(read(page))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    """Each link to a file names one that is there, and each anchor a heading of it."""
    text = BLOCK.sub("", read(page))
    for link in LINK.findall(text):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_page_can_be_reached_from_the_readme(page: Path) -> None:
    """The README links each page of the documentation."""
    assert f"(docs/{page.name})" in read(ROOT / "README.md")


def test_everything_public_is_documented_where_authors_look() -> None:
    """Each public class or function of `dicom_adapter` has a docstring."""
    public = [getattr(dicom_adapter, name) for name in dicom_adapter.__all__]
    assert [] == [each.__name__ for each in public if hasattr(each, "__name__") and not each.__doc__]
