"""The examples of the documentation work: configurations load, and code does what the pages say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli

from dicom_adapter import config
from dicom_adapter.api import hookspecs
from dicom_adapter.plugins.registry import discover
from dicom_adapter.testing import Plugin, make_instance
from dicom_adapter.testing.fixtures import MakeAdapter
from support.pages import DOCS, Block, block, blocks

CLARA, PLUGINS, FROM_CLARA = DOCS / "clara.md", DOCS / "plugins.md", DOCS / "coming-from-clara.md"
GROUPING, PLATFORM, STORAGE, TESTING = (
    DOCS / "how-to" / f"{name}.md" for name in ("grouping-rule", "platform", "storage", "testing")
)
MADE_ON_THE_PAGE = {"dicom_adapter_by_accession", "dicom_adapter_drop_folder", "dicom_adapter_plain_folder"}


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
    """A plugin imports `dicom_adapter`; its tests import `dicom_adapter.testing` and the emulator of the platform."""
    compile(example.text, str(example), "exec", dont_inherit=True)
    imported = set(re.findall(r"^from (dicom_adapter[\w.]*) import", example.text, re.MULTILINE))
    public = {"dicom_adapter", "dicom_adapter.testing"}
    of_plugins = {
        "dicom_adapter_clara_client.emulator",
        "dicom_adapter_cache.wire.cache_pb2",
        "dicom_adapter_cache.wire.cache_pb2_grpc",
    }
    assert imported <= public | of_plugins | MADE_ON_THE_PAGE


def test_the_projects_entry_point_is_one_that_the_adapter_finds() -> None:
    """The example's pyproject.toml names the entry-point group of the plugin host."""
    assert hookspecs.PROJECT in tomli.loads(block("toml pyproject", GROUPING).text)["project"]["entry-points"]


ModuleOf = Callable[..., types.ModuleType]


@pytest.fixture
def module_of(monkeypatch: pytest.MonkeyPatch) -> ModuleOf:
    """Make a module of examples."""

    def make(*examples: Block) -> types.ModuleType:
        module = types.ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", module)  # attrs looks types up there
        for example in examples:
            exec(compile(example.text, str(example), "exec", dont_inherit=True), vars(module))
        return module

    return make


def guide_tests(*where: Any) -> list[str]:
    return re.findall(r"^def (test_\w+)\(", block(*where).text, re.MULTILINE)


@pytest.mark.parametrize("name", guide_tests("python processor test", TESTING))
def test_the_guides_own_tests_pass(name: str, module_of: ModuleOf, request: pytest.FixtureRequest) -> None:
    """The tests that the guide shows pass with the processor that it shows."""
    run_test(
        getattr(module_of(block("python processor", GROUPING), block("python processor test", TESTING)), name), request
    )


@pytest.mark.parametrize("name", guide_tests("python emulator test", CLARA))
def test_the_emulators_example_passes(name: str, module_of: ModuleOf, request: pytest.FixtureRequest) -> None:
    """The test that the page on the Clara Platform shows passes."""
    run_test(getattr(module_of(block("python emulator test", CLARA)), name), request)


def run_test(test: Any, request: pytest.FixtureRequest) -> None:
    fixtures = test.__code__.co_varnames[: test.__code__.co_argcount]
    test(**{fixture: request.getfixturevalue(fixture) for fixture in fixtures})


def test_the_example_processor_runs_as_configured(module_of: ModuleOf, make_adapter: MakeAdapter) -> None:
    """The configuration beside the processor is one that it takes."""
    adapter = make_adapter(
        block("toml processor", GROUPING).text, Plugin(module_of(block("python processor", GROUPING)))
    )
    adapter.receive(make_instance(), make_instance(series_uid="1.2.3"), ae_title="ONCO")
    adapter.advance(600)
    assert 2 == len(adapter.jobs)  # two studies, neither complete


def test_the_example_that_is_asked_composes_a_job(module_of: ModuleOf, make_adapter: MakeAdapter) -> None:
    """Over HTTP, in the lane of its AE title."""
    module = module_of(block("python asking", GROUPING))
    adapter = make_adapter(
        '[submitters.p]\ntype = "fake"\n[ae-titles.KEEP]\nprocessor = "on-demand"', Plugin(module, name="on-demand")
    )
    adapter.receive(make_instance(), make_instance(), ae_title="KEEP")
    job_id = adapter.ask("KEEP", lambda processor: processor.compose("pipeline-1"))
    assert [(job_id, 2)] == [(job.job_id, job.instance_count) for job in adapter.jobs]
    assert ["compose"] == [handler.handler_name for handler in adapter.host.brought("dicom_adapter_http")["on-demand"]]


def test_the_example_submitter_puts_jobs_into_its_folder(
    module_of: ModuleOf, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """A known pipeline's job arrives whole, one of an unknown pipeline is faulted."""
    adapter = make_adapter(
        block("toml submitter", PLATFORM).text, Plugin(module_of(block("python submitter", PLATFORM)))
    )
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert ["submitted", "faulted"] == [job.state.value for job in adapter.jobs]
    [folder] = (tmp_path / "jobs").iterdir()
    assert ["00000.dcm", "metadata.json", "ready"] == sorted(path.name for path in folder.iterdir())
    assert {"Source": "LUNG (aetitle)", "Instances": "1"} == json.loads((folder / "metadata.json").read_bytes())


def test_every_call_of_the_example_submitter_can_be_repeated(
    module_of: ModuleOf, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step taken twice gives what it gives once."""
    module = module_of(block("python submitter", PLATFORM))
    for name in ("create_job", "add_metadata", "upload", "start"):
        monkeypatch.setattr(module.DropFolder, name, twice(getattr(module.DropFolder, name)))
    adapter = make_adapter(block("toml submitter", PLATFORM).text, Plugin(module))
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
    module_of: ModuleOf, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Instances go through it to the platform, survive a restart on the way, and leave nothing behind."""
    adapter = make_adapter(
        block("toml storage backend", STORAGE).text, Plugin(module_of(block("python storage backend", STORAGE)))
    )
    adapter.receive(make_instance(), make_instance(), ae_title="LUNG")
    adapter.restart()
    assert 2 == len(list(adapter.storage.keys()))
    adapter.advance(5)
    assert ["submitted"] * 2 == [job.state.value for job in adapter.jobs]
    assert [] == list((tmp_path / "data" / "instances").iterdir())


def test_the_example_observers_are_told(module_of: ModuleOf, make_adapter: MakeAdapter) -> None:
    """Each observer hook of the guide is called."""
    module = module_of(block("python observers", PLUGINS))
    adapter = make_adapter('[submitters.p]\ntype = "fake"\n[ae-titles.A.settings]\npipeline-a = "1"', Plugin(module))
    adapter.receive(make_instance(), make_instance(), ae_title="A")
    adapter.advance(5)
    assert {"stored": 2, "submitted": 2, "reclaimed": 2} == module.counts


def test_the_processor_of_those_who_come_from_clara_makes_its_jobs(
    module_of: ModuleOf, make_adapter: MakeAdapter
) -> None:
    """One of each instance that it takes; the others are held."""
    configuration = """
    [ae-titles.MINE]
    processor = "my-custom-job-processor"
    [ae-titles.MINE.settings]
    pipeline = "pipeline-1"
    sop-class = "1.2.840.10008.5.1.4.1.1.2"
    """
    adapter = make_adapter(configuration, Plugin(module_of(block("python clara processor", FROM_CLARA))))
    adapter.receive(make_instance(), make_instance(), make_instance(modality="MR"))
    assert (2, {"quarantined": 1, "reclaimed": 2}) == (len(adapter.jobs), adapter.states)


@pytest.mark.timeout(600)  # a whole suite, beside everything else that runs
@pytest.mark.parametrize(
    ("page", "kind", "package"),
    [(PLATFORM, "submitter", "dicom_adapter_drop_folder"), (STORAGE, "storage backend", "dicom_adapter_plain_folder")],
    ids=["drop folder", "plain folder"],
)
def test_the_examples_keep_the_adapters_rules(page: Path, kind: str, package: str, tmp_path: Path) -> None:
    """They pass the conformance suite as the page shows it, nothing of it left out but platforms that are down."""
    for name, info in ((package, f"python {kind}"), ("test_example", f"python {kind} test")):
        (tmp_path / f"{name}.py").write_text(block(info, page).text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-W", "error", "test_example.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert [] == [line for line in skipped if "`unreachable`" not in line]
