"""Completeness of the documentation, and the links between its pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attrs import frozen

import dicom_adapter
from dicom_adapter import setting
from dicom_adapter.api import hookspecs, values
from dicom_adapter.config import Config, tables
from dicom_adapter.flow.submit.steps import NEXT
from dicom_adapter.net.associate import PROVIDER_REJECTIONS
from dicom_adapter.net.codes import REJECT_REASON, CStoreStatus
from dicom_adapter_clara_client.emulator.faults import CallFaultKind
from manual import api, command_line, hooks
from manual.pages import generated_pages, write
from manual.tables import headings, row, sections, updated
from support.pages import BLOCK, DOCS, GENERATED, HAND_WRITTEN_PAGES, PAGES, ROOT, blocks, read, section

SOURCES = [*(ROOT / "core" / "src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
GENERATED_PAGES = dict(generated_pages())

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
LOGGED = re.compile(r"\blog\.(?:debug|info|warning|error)\(\s*\"([^\"]+)\"")


# --- everything is documented ---------------------------------------------------------------------------------------


HOOKS = [name for name in vars(hookspecs) if name.startswith("dicom_adapter_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_page_with_its_specification_and_an_example(hook: str) -> None:
    """The page is generated from the hook's docstring. `plugins.md` lists the hook, and some page implements it."""
    page = GENERATED_PAGES[f"hooks/{hook}.md"]
    assert f"def {hook}(" in page.partition("## Example")[0]
    assert f"def {hook}(" in page.partition("## Example")[2]
    assert f"| `{hook}` |" in section(DOCS / "plugins.md", "All hooks")
    assert any(f"def {hook}(" in example.text for example in blocks("python"))


def test_the_list_of_hooks_links_the_page_of_each_hook() -> None:
    assert [] == [hook for hook in HOOKS if f"[`{hook}`]({hook}.md)" not in GENERATED_PAGES["hooks/index.md"]]
    assert list(hooks.hooks()) == HOOKS


def test_the_tables_of_keys_match_the_settings_classes() -> None:
    """Each key has a row with type, default, rule and meaning. `make reference` writes the tables."""
    written = read(DOCS / "configuration.md")
    assert updated(written) == written, "docs/configuration.md is out of date: run `make reference`"


def test_every_table_of_the_configuration_has_a_section() -> None:
    """Each table of the core and of the built-in plugins has a section."""
    documented = sections(headings(read(DOCS / "configuration.md")))
    assert {"The top of the file", *(f"[{name}]" for name in ("dicom", "dicom.tls", "storage"))} <= documented.keys()
    assert {'type = "fake"', 'processor = "aetitle"', 'processor = "cache"'} <= documented.keys()


def test_a_missing_section_or_table_is_an_error_that_names_it() -> None:
    """`make reference` cannot update a page that has no such section, or no table in it."""
    written, text = read(DOCS / "configuration.md"), section(DOCS / "configuration.md", "[log]")
    with pytest.raises(ValueError, match=r"docs/configuration\.md has no section '\[log\]'"):
        updated(written.replace(f"## [log]{text}", ""))
    with pytest.raises(ValueError, match=r"docs/configuration\.md, section '\[log\]', needs a table of keys .* Log"):
        updated(written.replace(text, "\n\nNothing.\n\n"))


def test_a_row_shows_key_type_default_rule_and_meaning() -> None:
    """The rule is the first line of the validator's docstring."""

    @frozen(kw_only=True)
    class Example:
        quick_walk: float | None = setting(default=2.5, validator=dicom_adapter.between(1, 3, "m/s"), help="How fast.")
        dogs: tuple[str, ...] = setting(default=(), validator=dicom_adapter.not_empty, help="Their names.")

    rows = [
        "| `quick-walk` | number | `2.5` | 1 to 3 m/s | How fast. |\n",
        "| `dogs` | list of texts | `[]` | not empty | Their names. |\n",
    ]
    assert rows == [row(field) for field in tables.settable(Example)]


def test_every_setting_has_a_help_sentence() -> None:
    classes = [cls for listed in sections(headings(read(DOCS / "configuration.md"))).values() for cls in listed]
    rows = [row(field) for cls in classes for field in tables.settable(cls)]
    assert Config in classes
    assert [] == [each for each in rows if not each.endswith(". |\n")]


COMMANDS = command_line.commands()


def test_the_commands_of_the_built_in_plugins_are_included() -> None:
    assert {"emulate-platform", "cache compose"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_its_options_are_described(name: str) -> None:
    """`commands.md` has a section for each command, which names all its options.

    The page generated from `--help` has such a section, too.
    """
    text = section(DOCS / "commands.md", name)
    generated = GENERATED_PAGES["command-line.md"].partition(f"# {name}\n")[2].partition("\n#")[0]
    options = [param.opts[0] for param in COMMANDS[name].params if param.param_type_name == "option"]
    options = [option for option in options if option != "--help"]
    assert [] == [option for option in options if option not in text]
    assert [] == [option for option in options if option not in generated]
    is_group = hasattr(COMMANDS[name], "commands")  # a group is not called
    assert f"dicom-adapter {name}" in text or is_group
    assert f"dicom-adapter {name}" in generated


@pytest.mark.parametrize("kind", CallFaultKind, ids=lambda kind: kind.value)
def test_every_kind_of_fault_of_the_emulator_is_described(kind: CallFaultKind) -> None:
    assert f"| `{kind.value}` |" in section(DOCS / "commands.md", "emulate-platform")


def logged() -> set[str]:
    literal = {event for source in SOURCES for event in LOGGED.findall(read(source))}
    steps = {"job_" + state.value.replace("-", "_") for state in NEXT.values()}
    return literal | steps | {"job_attempt_failed", "job_cancelled", "job_failed", "job_faulted"}


def test_exactly_the_logged_events_are_described() -> None:
    """The tables of events list each event that the code logs, and no other event."""
    text = "".join(
        section(DOCS / "operation.md", heading) for heading in ("Every process", "Service", "Receiver", "Host")
    )
    assert sorted(logged()) == sorted(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))


def test_every_status_and_rejection_is_described() -> None:
    """The DICOM page has a row for each status and each rejection."""
    statuses = re.findall(r"^\| (0x[0-9A-F]{4}) ", section(DOCS / "dicom.md", "C-STORE"), re.MULTILINE)
    assert sorted(f"0x{status:04X}" for status in CStoreStatus) == sorted(statuses)
    rows = re.findall(r"\| (\d) [^|]*\| (\d) [^|]*\| (\d) [^|]*\|$", section(DOCS / "dicom.md", "Associations"), re.M)
    assert {*REJECT_REASON.values(), *PROVIDER_REJECTIONS} == {tuple(map(int, row)) for row in rows}


def test_every_job_state_is_listed_as_a_value_of_the_option() -> None:
    text = section(DOCS / "commands.md", "jobs list")
    assert [] == [state.value for state in values.JobState if f"`{state.value}`" not in text]


@pytest.mark.parametrize(("page", "module"), api.PUBLIC.items(), ids=list(api.PUBLIC))
def test_every_public_name_has_an_entry_and_a_docstring(page: str, module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined] # it is a module that defines __all__
    assert [] == [
        name for name in names if not re.search(rf"^\.\. auto\w+:: {name}$", GENERATED_PAGES[f"{page}.rst"], re.M)
    ]
    assert [] == [name for name in names if not getattr(module, name).__doc__]


# Settings of NVIDIA's adapter, from its documentation of appsettings.json and its settings classes (version 0.8.2).
CLARA_SETTINGS = [
    "dicom.scp.port",
    "dicom.scp.maximumNumberOfAssociations",
    "dicom.scp.verification.enabled",
    "dicom.scp.verification.transferSyntaxes",
    "dicom.scp.rejectUnknownSources",
    "dicom.scp.logDimseDatasets",
    "dicom.scu.aeTitle",
    "dicom.scu.logDimseDatasets",
    "dicom.scu.logDataPDUs",
    "dicom.scu.maximumNumberOfAssociations",
    "dicom.scu.export.maximumRetries",
    "dicom.scu.export.failureThreshold",
    "dicom.scu.export.pollFrequencyMs",
    "dicom.scu.export.agent",
    "services.platform.endpoint",
    "services.platform.parallelUploads",
    "services.platform.maxRetries",
    "services.platform.retryDelaySeconds",
    "services.platform.uploadMetadata",
    "services.platform.metadataDicomSource",
    "services.resultsServiceEndpoint",
    "storage.temporary",
    "storage.watermarkPercent",
    "storage.reserveSpaceGB",
    "ConnectionStrings.DicomAdapterDatabase",
    "Logging.LogLevel",
    "Logging.Console",
    "AllowedHosts",
    "name",
    "aeTitle",
    "overwriteSameInstance",
    "ignoredSopClasses",
    "processor",
    "processorSettings",
    "hostIp",
    "timeout",
    "priority",
    "groupBy",
    "jobRetryDelay",
    "pipeline-*",
]
CLARA_CLASSES = [
    "JobProcessorBase",
    "HandleInstance",
    "SubmitPipelineJob",
    "RemoveInstances",
    "IJobProcessorValidator",
    "ProcessorValidationAttribute",
    "InstanceStorageInfo",
    "IInstanceStoredNotificationService",
    "IInstanceCleanupQueue",
    "IJobRepository",
    "IJobs",
    "IPayloads",
    "IResultsService",
    "InferenceJob",
    "ClaraApplicationEntity",
    "SourceApplicationEntity",
    "DestinationApplicationEntity",
    "InstanceNotSupportedException",
    "MissingRequiredTagException",
]


@pytest.mark.parametrize("name", [*CLARA_SETTINGS, *CLARA_CLASSES])
def test_every_setting_and_class_of_claras_adapter_is_mapped(name: str) -> None:
    """Each name occurs on the page, outside of its code blocks."""
    text = BLOCK.sub("", read(DOCS / "coming-from-clara.md"))
    assert re.search(rf"`(?:\w+\.)*{re.escape(name)}\b|`{re.escape(name)}`", text)


# --- links between pages --------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings: lower case, no punctuation, hyphens for spaces."""
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in HEADING.findall(read(page))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_have_targets(page: Path) -> None:
    """Each link names an existing file, and each anchor a heading of it, in the repository and on the site."""
    text = BLOCK.sub("", read(page))
    for link in LINK.findall(text):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert GENERATED not in target.resolve().parents, (
                f"{link} is generated: it is on the site, not in the repository"
            )
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_the_readme_links_every_page(page: Path) -> None:
    assert f"(docs/{page.name})" in read(ROOT / "README.md")


@pytest.mark.parametrize(
    "page", [*HAND_WRITTEN_PAGES, *(GENERATED / path for path in GENERATED_PAGES)], ids=lambda page: page.name
)
def test_the_sites_table_of_contents_has_every_page(page: Path) -> None:
    """Pages of hooks are in the list of hooks. Pages of decisions are included by a pattern."""
    lists = "".join(each.text for each in blocks("{toctree}", [DOCS / "index.md"])) + GENERATED_PAGES["hooks/index.md"]
    name = page.relative_to(DOCS).with_suffix("").as_posix()
    listed = {name, page.stem} & set(lists.split()) or page.parent.name == "decisions"
    assert listed or page == DOCS / "index.md"


def test_pages_of_removed_hooks_are_deleted(tmp_path: Path) -> None:
    """Pages that an earlier build wrote are not on the site."""
    removed = tmp_path / "hooks" / "dicom_adapter_removed.md"
    removed.parent.mkdir()
    removed.touch()
    write(tmp_path)
    assert set(GENERATED_PAGES) == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
