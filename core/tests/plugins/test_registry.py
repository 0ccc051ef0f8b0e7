"""The plugin registry: plugins are found; broken plugins are refused with a reason and affect no other plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import frozen

from dicom_adapter import Job, JobProcessorBase, NoSettings, Submitter, hookimpl
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.plugins.registry import PROCESSOR, SUBMITTER, Plugins, discover, load
from dicom_adapter.testing import Plugin


@frozen
class Distribution:
    name: str
    version: str = "1.0"


class Good(JobProcessorBase[NoSettings]):
    name = "good"

    def handle_instance(self, instance: object) -> None: ...


class GoodPlugin:
    @hookimpl
    def dicom_adapter_processors(self) -> list[type]:
        return [Good]


def plugin_providing(*classes: Any, hook: str = "dicom_adapter_processors") -> object:
    """Return a plugin whose registration hook returns these classes."""
    return plugin_calling(lambda: list(classes), hook)


def plugin_calling(function: Callable[..., Any], hook: str = "dicom_adapter_processors") -> object:
    """Return a plugin with one hook."""
    return SimpleNamespace(**{hook: hookimpl(function)})


def named(name: str, **members: Any) -> type:
    """Return a valid processor class."""
    return type("Named", (Good,), {"name": name, **members})


def point(plugin: object, name: str, version: str = "1.0") -> Plugin:
    """Return an entry point of a distribution dicom-<name>."""
    return Plugin(plugin, name=name, value=name, dist=Distribution(f"dicom-{name}", version))


class Failing(Plugin):
    """An entry point whose import raises."""

    def __init__(self, name: str, failure: BaseException) -> None:
        super().__init__(failure, name=name, value=name, dist=Distribution(f"dicom-{name}"))

    def load(self) -> object:
        assert isinstance(self.plugin, BaseException)
        raise self.plugin


def problems_next_to_a_valid_plugin(broken: Plugin) -> list[str]:
    """Return the problems of `broken`, and check that a valid plugin is usable if it is loaded before or after it."""
    loaded = load([point(GoodPlugin(), "a-good"), broken, point(plugin_providing(named("also-good")), "z-good")])
    assert {"good", "also-good"} == set(loaded.catalogue().processors)
    assert tuple(loaded.problems) == loaded.catalogue().broken
    return loaded.problems


# --- found ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with the layout that `pip install` creates."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(site: Path, distribution: str, module: str, code: str, version: str = "2.1") -> None:
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[dicom_adapter]\n{module.replace('_', '-')} = {module}\n")
    (site / f"{module}.py").write_text(code)


THIRD_PARTY = """
from dicom_adapter import JobProcessorBase, hookimpl

class WholePatient(JobProcessorBase):
    name = "whole-patient"

    def handle_instance(self, instance): ...

@hookimpl
def dicom_adapter_processors():
    return [WholePatient]
"""


def test_an_installed_third_party_plugin_is_found_through_its_entry_point(site: Path) -> None:
    """After the installation of its distribution, a component can be selected by name."""
    install(site, "acme-dicom", "acme_patients_plugin", THIRD_PARTY)
    plugins = discover()
    assert "WholePatient" == plugins.catalogue().processors["whole-patient"].__name__
    assert "acme-patients-plugin" == plugins.provider(PROCESSOR, "whole-patient")
    assert {"by-study", "whole-patient"} <= set(plugins.catalogue().processors)


def test_an_installed_plugin_is_described_with_its_distribution(site: Path) -> None:
    """An operator needs name, distribution and version to find the plugin."""
    install(site, "acme-dicom", "acme_broken_plugin", "import nothing_like_this")
    assert [
        "plugin 'acme-broken-plugin' of acme-dicom 2.1: failed to load: "
        "ModuleNotFoundError: No module named 'nothing_like_this'"
    ] == discover().problems


def test_only_the_named_entry_points_are_loaded(site: Path) -> None:
    """A process that needs one plugin does not import other plugins."""
    install(site, "acme-dicom", "acme_unwanted_plugin", "raise SystemExit('imported')")
    plugins = discover(only=["local-storage"])
    assert ["local-storage"] == [info.name for info in plugins.infos]
    assert "acme_unwanted_plugin" not in sys.modules


def test_the_plugins_of_the_core_have_no_problems() -> None:
    """Built-in plugins use the same plugin interface."""
    plugins = discover()
    assert [] == plugins.problems
    assert {"local", "files"} == set(plugins.catalogue().storage_backends)


# --- cannot be loaded -----------------------------------------------------------------------------------------------


def test_a_failing_import_is_reported() -> None:
    """The report has the message of the exception. The other plugins are loaded."""
    problems = problems_next_to_a_valid_plugin(Failing("tape", ImportError("no tape")))
    assert ["plugin 'tape' of dicom-tape 1.0: failed to load: ImportError: no tape"] == problems


def test_a_plugin_that_exits_while_it_is_imported_is_reported() -> None:
    """A script that exits on import does not end the adapter."""
    problems = problems_next_to_a_valid_plugin(Failing("tape", SystemExit(2)))
    assert ["plugin 'tape' of dicom-tape 1.0: failed to load: SystemExit: 2"] == problems


def test_a_keyboard_interrupt_during_an_import_is_not_a_broken_plugin() -> None:
    """Ctrl-C during a slow import ends the command."""
    with pytest.raises(KeyboardInterrupt):
        load([Failing("tape", KeyboardInterrupt())])


def test_an_unknown_hook_is_reported() -> None:
    """A typing error in the name of a hook must not look like success."""
    misspelt = plugin_providing(named("tape"), hook="dicom_adapter_procesors")
    assert [
        "plugin 'tape' of dicom-tape 1.0: implements unknown hooks: dicom_adapter_procesors"
    ] == problems_next_to_a_valid_plugin(point(misspelt, "tape"))


def test_a_wrong_hook_signature_is_reported() -> None:
    """The unknown parameter is named, and the plugin is not registered at all."""
    (problem,) = problems_next_to_a_valid_plugin(
        point(plugin_calling(lambda job, colour: None, "dicom_adapter_job_changed"), "tape")
    )
    assert problem.startswith("plugin 'tape' of dicom-tape 1.0: failed to load: PluginValidationError: ")
    assert "colour" in problem


def test_a_plugin_with_one_wrong_hook_is_ignored_with_all_its_hooks() -> None:
    """The observers of the plugin are not called, and its components cannot be selected."""
    half = SimpleNamespace(
        dicom_adapter_instance_stored=hookimpl(lambda instance: None),
        dicom_adapter_processors=hookimpl(lambda: [named("half")]),
        dicom_adapter_job_changed=hookimpl(lambda colour: None),
    )
    loaded = load([point(half, "half")])
    assert [] == loaded.observers
    assert {} == loaded.catalogue().processors


# --- registration ---------------------------------------------------------------------------------------------------


def raising(failure: BaseException) -> Callable[[], Any]:
    def hook() -> Any:
        raise failure

    return hook


def interrupted_generator() -> Any:
    yield named("first")
    raise RuntimeError("no second")


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (raising(OSError("no licence")), "OSError: no licence"),
        (raising(SystemExit("no licence")), "SystemExit: no licence"),
        (interrupted_generator, "RuntimeError: no second"),
        (lambda: None, "TypeError: "),
        (lambda: 7, "TypeError: "),
        (lambda: Good, "TypeError: "),
        (lambda: "good", "which is not a class that extends JobProcessorBase"),
        (lambda: [Good(NoSettings(), SimpleNamespace())], "which is not a class that extends JobProcessorBase"),
        (lambda: [int], "which is not a class that extends JobProcessorBase"),
        (lambda: [Submitter], "which is not a class that extends JobProcessorBase"),
        (lambda: [named("")], "Named has no `name`, by which the configuration selects it"),
        (lambda: [type("Nameless", (JobProcessorBase,), {})], "Nameless has no `name`"),
        (lambda: [named(7)], "Named has no `name`"),  # type: ignore[arg-type] # the mistake under test
    ],
)
def test_a_registration_hook_that_raises_or_returns_invalid_values_is_reported(
    hook: Callable[[], Any], reason: str
) -> None:
    """The report names plugin and distribution. The plugin is ignored completely."""
    (problem,) = problems_next_to_a_valid_plugin(point(plugin_calling(hook), "tape"))
    assert problem.startswith("plugin 'tape' of dicom-tape 1.0: a registration hook failed: ")
    assert reason in problem


def test_observers_of_a_plugin_whose_registration_fails_are_not_called() -> None:
    broken = SimpleNamespace(
        dicom_adapter_processors=hookimpl(raising(OSError("no licence"))),
        dicom_adapter_instance_stored=hookimpl(lambda instance: None),
    )
    assert [] == load([point(broken, "tape")]).observers


def test_missing_methods_are_named_and_other_components_of_the_plugin_stay_usable() -> None:
    unfinished = type("Unfinished", (JobProcessorBase,), {"name": "unfinished"})
    loaded = load([point(plugin_providing(unfinished, named("finished")), "tape")])
    assert [
        "plugin 'tape' of dicom-tape 1.0: processor 'unfinished' does not implement handle_instance"
    ] == loaded.problems
    assert ["finished"] == list(loaded.catalogue().processors)


# --- duplicates -----------------------------------------------------------------------------------------------------


def test_a_name_that_two_plugins_provide_cannot_be_selected() -> None:
    """Both plugins are reported, each with the distribution of the other. Their other names can be selected."""
    loaded = load(
        [point(plugin_providing(named("x"), named("y")), "one"), point(plugin_providing(named("x")), "two", "3.0")]
    )
    assert [
        "plugin 'one' of dicom-one 1.0: processor 'x' is also provided by dicom-two 3.0",
        "plugin 'two' of dicom-two 3.0: processor 'x' is also provided by dicom-one 1.0",
    ] == loaded.problems
    assert ["y"] == list(loaded.catalogue().processors)
    assert loaded.provider(PROCESSOR, "x") is None


def test_components_of_different_kinds_may_share_a_name() -> None:
    """A processor and a submitter are selected by different keys."""
    submitter = type("Mine", (Submitter,), dict.fromkeys(Submitter.__abstractmethods__) | {"name": "mine"})
    processor_plugin, submitter_plugin = (
        plugin_providing(named("mine")),
        plugin_providing(submitter, hook="dicom_adapter_submitters"),
    )
    loaded = load([point(processor_plugin, "one"), point(submitter_plugin, "two")])
    assert [] == loaded.problems
    assert ("one", "two") == (loaded.provider(PROCESSOR, "mine"), loaded.provider(SUBMITTER, "mine"))


def test_the_first_of_two_plugins_with_one_name_is_used_and_the_second_reported() -> None:
    """Entry points of two distributions may have the same name."""
    points = [
        Plugin(plugin_providing(named(distribution)), name="tape", value=distribution, dist=Distribution(distribution))
        for distribution in ("a-tape", "b-tape")
    ]
    loaded = load(reversed(points))
    assert [
        "plugin 'tape' of b-tape 1.0: another distribution has a plugin of the same name; uninstall one of them"
    ] == loaded.problems
    assert ["a-tape"] == list(loaded.catalogue().processors)


def test_a_duplicate_name_among_plugins_of_a_test_is_reported() -> None:
    """A test that passes two plugins without names gets an error; otherwise only one plugin would be used."""
    loaded = load([Plugin(plugin_providing(named("one"))), Plugin(plugin_providing(named("two")))])
    assert ["one"] == list(loaded.catalogue().processors)
    assert 1 == len(loaded.problems)


def test_a_distribution_that_is_on_the_path_twice_counts_once() -> None:
    """The first distribution on the path is imported, and its version is shown."""
    loaded = load([point(GoodPlugin(), "tape", "2.0"), point(GoodPlugin(), "tape", "1.0")])
    assert ["plugin 'tape' of dicom-tape 2.0"] == [str(info) for info in loaded.infos]
    assert [] == loaded.problems


# --- observers ------------------------------------------------------------------------------------------------------


def unexpected(plugin: object, hook: str, failure: BaseException) -> None:
    raise AssertionError(f"{plugin} failed in {hook}: {failure!r}")


def observing(calls: list[str], name: str, failure: BaseException | None = None) -> Plugin:
    def observe(job: object) -> None:
        calls.append(f"{name} {job}")
        if failure is not None:
            raise failure

    return point(plugin_calling(observe, "dicom_adapter_job_changed"), name)


def test_every_observer_is_called_with_the_parameters_that_it_declares() -> None:
    """A hook may omit parameters that it does not need."""
    calls: list[str] = []
    careless = point(plugin_calling(lambda: calls.append("careless"), "dicom_adapter_job_changed"), "careless")
    loaded = load([careless, observing(calls, "curious")])
    for observer in loaded.observers:
        loaded.notify(observer, "dicom_adapter_job_changed", unexpected, job="job 1")
    assert ["careless", "curious job 1"] == sorted(calls)
    assert [("dicom_adapter_job_changed",)] * 2 == [info.observes for info in loaded.infos]


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit("no")])
def test_an_observer_that_raises_is_reported_and_affects_no_other(failure: BaseException) -> None:
    """Each observer is called, and each failure is reported with its plugin and hook."""
    calls: list[str] = []
    failures: list[tuple[str, str, BaseException]] = []
    loaded: Plugins = load(
        [observing(calls, "a"), observing(calls, "b", failure), observing(calls, "c"), observing(calls, "d", failure)]
    )
    for observer in loaded.observers:
        loaded.notify(
            observer,
            "dicom_adapter_job_changed",
            lambda *what: failures.append((str(what[0]), *what[1:])),
            job="1",
        )
    assert ["a 1", "b 1", "c 1", "d 1"] == sorted(calls)
    assert {
        ("plugin 'b' of dicom-b 1.0", "dicom_adapter_job_changed", failure),
        ("plugin 'd' of dicom-d 1.0", "dicom_adapter_job_changed", failure),
    } == set(failures)


def test_an_observer_that_always_raises_is_still_notified_of_every_change(
    make_adapter: Callable[..., Any],
) -> None:
    """The observer causes only lines in the log, and the job continues."""
    seen: list[str] = []

    def observe(job: Job) -> None:
        seen.append(job.state.value)
        raise ValueError("no")

    adapter = make_adapter(
        '[ae-titles.LUNG]\nprocessor = "by-study"\nsettings = { pipeline-one = "p1" }\n',
        Plugin(plugin_calling(observe, "dicom_adapter_job_changed")),
    )
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(10)
    assert ["queued", "created", "metadata-sent", "uploaded", "submitted"] == seen
