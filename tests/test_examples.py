"""The examples of the documentation: configurations load, and code behaves as the pages describe."""

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
MODULES_OF_EXAMPLES = {"dicom_adapter_by_accession", "dicom_adapter_drop_folder", "dicom_adapter_plain_folder"}


def plain_toml() -> list[Block]:
    return [block for block in blocks("toml") if block.info == "toml"]


@pytest.mark.parametrize("example", plain_toml(), ids=str)
def test_configurations_load(example: Block, tmp_path: Path) -> None:
    """A block whose info string is just `toml` is a valid configuration."""
    loaded = config.load(example.text, folder=tmp_path, catalogue=discover().catalogue())
    assert () == loaded.problems


def test_the_invalid_configuration_has_exactly_the_problems_shown(tmp_path: Path) -> None:
    page = DOCS / "configuration.md"
    wrong = block("toml wrong", page)
    loaded = config.load(wrong.text, folder=tmp_path, catalogue=discover().catalogue())
    assert block("text", page).text.splitlines() == [str(problem) for problem in loaded.problems]


@pytest.mark.parametrize("example", blocks("json"), ids=str)
def test_json_examples_are_valid(example: Block) -> None:
    assert json.loads(example.text)


@pytest.mark.parametrize("example", blocks("python"), ids=str)
def test_python_examples_compile_and_import_only_public_modules(example: Block) -> None:
    """Examples also import the public modules of plugins: the platform emulator and the messages of the cache."""
    compile(example.text, str(example), "exec", dont_inherit=True)
    imported = set(re.findall(r"^from (dicom_adapter[\w.]*) import", example.text, re.MULTILINE))
    public = {"dicom_adapter", "dicom_adapter.testing"}
    of_plugins = {
        "dicom_adapter_clara_client.emulator",
        "dicom_adapter_cache.wire.cache_pb2",
        "dicom_adapter_cache.wire.cache_pb2_grpc",
    }
    assert imported <= public | of_plugins | MODULES_OF_EXAMPLES


def test_the_example_project_uses_the_adapters_entry_point_group() -> None:
    assert hookspecs.PROJECT in tomli.loads(block("toml pyproject", GROUPING).text)["project"]["entry-points"]


ModuleOf = Callable[..., types.ModuleType]


@pytest.fixture
def module_of(monkeypatch: pytest.MonkeyPatch) -> ModuleOf:
    """Return a function that executes examples, one after the other, in a new module."""

    def make(*examples: Block) -> types.ModuleType:
        module = types.ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", module)  # attrs looks up types in this module
        for example in examples:
            exec(compile(example.text, str(example), "exec", dont_inherit=True), vars(module))
        return module

    return make


def guide_tests(*where: Any) -> list[str]:
    return re.findall(r"^def (test_\w+)\(", block(*where).text, re.MULTILINE)


@pytest.mark.parametrize("name", guide_tests("python processor test", TESTING))
def test_the_tests_shown_in_the_guide_pass(name: str, module_of: ModuleOf, request: pytest.FixtureRequest) -> None:
    """The tests run with the processor that the guide shows."""
    run_test(
        getattr(module_of(block("python processor", GROUPING), block("python processor test", TESTING)), name), request
    )


@pytest.mark.parametrize("name", guide_tests("python emulator test", CLARA))
def test_the_emulator_test_shown_on_the_clara_page_passes(
    name: str, module_of: ModuleOf, request: pytest.FixtureRequest
) -> None:
    run_test(getattr(module_of(block("python emulator test", CLARA)), name), request)


def run_test(test: Any, request: pytest.FixtureRequest) -> None:
    fixtures = test.__code__.co_varnames[: test.__code__.co_argcount]
    test(**{fixture: request.getfixturevalue(fixture) for fixture in fixtures})


def test_the_example_processor_runs_as_configured(module_of: ModuleOf, make_adapter: MakeAdapter) -> None:
    """The processor accepts the configuration that is shown with it."""
    adapter = make_adapter(
        block("toml processor", GROUPING).text, Plugin(module_of(block("python processor", GROUPING)))
    )
    adapter.receive(make_instance(), make_instance(series_uid="1.2.3"), ae_title="ONCO")
    adapter.advance(600)
    assert 2 == len(adapter.jobs)  # two studies, neither complete


def test_the_on_demand_example_creates_a_job_on_request(module_of: ModuleOf, make_adapter: MakeAdapter) -> None:
    """The HTTP handler of the example calls the processor in the lane of the AE title."""
    module = module_of(block("python asking", GROUPING))
    adapter = make_adapter(
        '[submitters.p]\ntype = "fake"\n[ae-titles.KEEP]\nprocessor = "on-demand"', Plugin(module, name="on-demand")
    )
    adapter.receive(make_instance(), make_instance(), ae_title="KEEP")
    job_id = adapter.ask("KEEP", lambda processor: processor.compose("pipeline-1"))
    assert [(job_id, 2)] == [(job.job_id, job.instance_count) for job in adapter.jobs]
    handlers = adapter.host.provided_by_plugins("dicom_adapter_http")["on-demand"]
    assert ["compose"] == [handler.handler_name for handler in handlers]


def test_the_example_submitter_writes_jobs_to_its_folder(
    module_of: ModuleOf, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """A job for a known pipeline is complete. A job for an unknown pipeline is faulted."""
    adapter = make_adapter(
        block("toml submitter", PLATFORM).text, Plugin(module_of(block("python submitter", PLATFORM)))
    )
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert ["running", "faulted"] == [job.state.value for job in adapter.jobs]
    [folder] = (tmp_path / "jobs").iterdir()
    assert ["00000.dcm", "metadata.json", "ready"] == sorted(path.name for path in folder.iterdir())
    assert {"Source": "LUNG (aetitle)", "Instances": "1"} == json.loads((folder / "metadata.json").read_bytes())


def test_every_call_of_the_example_submitter_can_be_repeated(
    module_of: ModuleOf, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that runs twice returns the same result both times."""
    module = module_of(block("python submitter", PLATFORM))
    for name in ("create_job", "add_metadata", "upload", "start"):
        monkeypatch.setattr(module.DropFolder, name, call_twice(getattr(module.DropFolder, name)))
    adapter = make_adapter(block("toml submitter", PLATFORM).text, Plugin(module))
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert "running" == adapter.jobs[0].state.value


def call_twice(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        first, second = method(*arguments), method(*arguments)
        assert first == second
        return second

    return call


def test_the_example_storage_backend_stores_and_returns_instances(
    module_of: ModuleOf, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Instances survive a restart, reach the platform, and are then deleted."""
    adapter = make_adapter(
        block("toml storage backend", STORAGE).text, Plugin(module_of(block("python storage backend", STORAGE)))
    )
    adapter.receive(make_instance(), make_instance(), ae_title="LUNG")
    adapter.restart()
    assert 2 == len(list(adapter.storage.keys()))
    adapter.advance(5)
    assert ["submitted"] * 2 == [job.state.value for job in adapter.jobs]
    assert [] == list((tmp_path / "data" / "instances").glob("*.segment"))


def test_each_observer_hook_of_the_guide_is_called(module_of: ModuleOf, make_adapter: MakeAdapter) -> None:
    module = module_of(block("python observers", PLUGINS))
    adapter = make_adapter('[submitters.p]\ntype = "fake"\n[ae-titles.A.settings]\npipeline-a = "1"', Plugin(module))
    adapter.receive(make_instance(), make_instance(), ae_title="A")
    adapter.advance(5)
    assert {"stored": 2, "submitted": 2, "reclaimed": 2} == module.counts


def test_the_processor_of_the_clara_migration_guide_creates_jobs(
    module_of: ModuleOf, make_adapter: MakeAdapter
) -> None:
    """Each accepted instance becomes a job. Other instances are quarantined."""
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


@pytest.mark.timeout(600)  # runs a whole suite, on a busy machine
@pytest.mark.parametrize(
    ("page", "kind", "package"),
    [(PLATFORM, "submitter", "dicom_adapter_drop_folder"), (STORAGE, "storage backend", "dicom_adapter_plain_folder")],
    ids=["drop folder", "plain folder"],
)
def test_the_examples_pass_the_conformance_suite(page: Path, kind: str, package: str, tmp_path: Path) -> None:
    """The suite is run as on the page. Only tests of an unreachable platform and of attachments are skipped."""
    for name, info in ((package, f"python {kind}"), ("test_example", f"python {kind} test")):
        (tmp_path / f"{name}.py").write_text(block(info, page).text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-W", "error", "test_example.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert [] == [line for line in skipped if not ("`unreachable`" in line or "takes_attachments = False" in line)]
