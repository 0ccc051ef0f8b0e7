"""The AE titles of the host. An AE title that can be served has a lane; other AE titles are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from attrs import define, field, frozen

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.lane import LaneHandle
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.config.model import Config
from dicom_adapter.flow.process.handle import Handle
from dicom_adapter.flow.process.lane import Lane
from dicom_adapter.flow.process.settings import LaneSettings
from dicom_adapter.flow.process.turn import Committed
from dicom_adapter.flow.reclaim.quota import describe_unconfigured
from dicom_adapter.ledger import lanes
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.plugins.isolation import describe_settings, list_notices
from dicom_adapter.plugins.pipelines import find_unknown_pipelines
from dicom_adapter.plugins.registry import PROCESSOR, Plugins
from dicom_adapter.runtime.parts import Part, PartWork, lane_part
from dicom_adapter.runtime.resources import Resources

Close = Callable[[], None]


@frozen(kw_only=True)
class AeTitleDecisions:
    """The served and the refused AE titles of a configuration."""

    served: Mapping[str, str] = field(factory=dict)  # served AE titles, with the processors' descriptions of settings
    notices: Mapping[str, Sequence[str]] = field(factory=dict)  # notices of processors about settings, by AE title
    refused: Mapping[str, str] = field(factory=dict)  # refused AE titles, with the reasons


@define
class _LaneEntry:
    settings: LaneSettings
    lane: Lane
    handle: LaneHandle


class Lanes:
    """The lanes of the host. Another configuration changes only the lanes whose settings differ."""

    def __init__(
        self,
        resources: Resources,
        on_commit: Callable[[Committed], None],
        wake: Callable[[Part], None],
    ) -> None:
        self._resources = resources
        self._ledger, self._clock = resources.ledger, resources.clock
        self._on_commit = on_commit
        self._wake = wake
        self._served: Mapping[str, _LaneEntry] = {}  # replaced as a whole, because other threads read it
        self.decisions = AeTitleDecisions()

    def announce(self, config: Config, decisions: AeTitleDecisions) -> None:
        """Record the served AE titles in the ledger. Receivers read this before they accept an association."""
        now = self._clock.now()
        with self._ledger.write() as transaction:
            describe_unconfigured(transaction, config.ae_titles, now)
            for name in decisions.served.keys() - self._served.keys():
                lanes.save(transaction, LaneReport(ae_title=name, state=LaneState.RUNNING, reason="", since=now))
            for name, reason in decisions.refused.items():
                lanes.save(transaction, LaneReport(ae_title=name, state=LaneState.STOPPED, reason=reason, since=now))

    def apply(
        self, config: Config, decisions: AeTitleDecisions, plugins: Plugins, submitters: Collection[str]
    ) -> tuple[dict[Part, Close], dict[str, Future[None]]]:
        """Serve these AE titles from now on.

        Return a function for each removed lane, which closes it, and a future for each lane that gets other
        settings, which is done when these settings are in use.
        """
        served: dict[str, _LaneEntry] = {}
        changed: dict[str, Future[None]] = {}
        for name in decisions.served:
            settings, before = _lane_settings(config, plugins, name, submitters), self._served.get(name)
            if before is None:
                lane = Lane(settings, self._resources, self._on_commit)
                served[name] = _LaneEntry(settings, lane, self._handle(settings, lane))
            elif before.settings != settings:
                changed[name] = before.lane.exchange(settings)
                served[name] = _LaneEntry(settings, before.lane, self._handle(settings, before.lane))
            else:
                served[name] = before
        removed = {lane_part(name): old.lane.close for name, old in self._served.items() if name not in served}
        for name, old in self._served.items():
            if name not in served:
                old.lane.refuse_requests()
        self._served, self.decisions = served, decisions
        for name in changed:
            self._wake(lane_part(name))
        return removed, changed

    def _handle(self, settings: LaneSettings, lane: Lane) -> LaneHandle:
        wake = partial(self._wake, lane_part(settings.ae_title))
        return Handle(settings, lane, self._resources, settings.processor.caller, wake)

    @property
    def lanes(self) -> dict[str, Lane]:
        """The lanes by AE title."""
        return {name: served.lane for name, served in self._served.items()}

    @property
    def handles(self) -> dict[str, LaneHandle]:
        """The handles of the lanes, by AE title, for plugins."""
        return {name: served.handle for name, served in self._served.items()}

    def overriding(self, method: str) -> list[str]:
        """Return the AE titles whose processors override this method: only these processors have to be called."""
        base = getattr(JobProcessorBase, method)
        return [name for name, served in self._served.items() if getattr(served.settings.processor.cls, method) != base]

    def parts(self) -> dict[Part, PartWork]:
        """Return the work of each lane."""
        return {lane_part(name): PartWork(served.lane.step) for name, served in self._served.items()}


def decide_ae_titles(
    config: Config, plugins: Plugins, broken: Mapping[str, str], pipelines: Mapping[str, Collection[str]]
) -> AeTitleDecisions:
    """Decide which AE titles can be served.

    `broken` are the submitters that cannot be created, with the reasons. `pipelines` are the ids of pipelines by
    submitter. An AE title with an unknown pipeline is served, because its jobs can be retried after a correction.
    """
    served, notices, refused = {}, {}, {}
    for name in config.ae_titles:
        reason = config.unavailable(name) or _first_reason(broken, config.submitters_of(name))
        if not reason:
            try:
                notices[name] = [
                    *list_notices(config, plugins, name),
                    *find_unknown_pipelines(config, name, pipelines),
                ]
                served[name] = describe_settings(config, plugins, name)
            except Refused as refusal:
                reason = str(refusal)
        if reason:
            refused[name] = reason
    return AeTitleDecisions(served=served, notices=notices, refused=refused)


def _first_reason(broken: Mapping[str, str], submitters: Iterable[str]) -> str:
    return next((broken[name] for name in submitters if name in broken), "")


def _lane_settings(config: Config, plugins: Plugins, ae_title: str, submitters: Collection[str]) -> LaneSettings:
    table = config.ae_titles[ae_title]
    return LaneSettings(
        ae_title=ae_title,
        processor=plugins.factory(PROCESSOR, table.processor, lane_part(ae_title)),
        settings=table.settings,
        submitter=config.submitter_for(ae_title),
        submitters=submitters,
        data_folder=config.storage.path / "processors" / ae_title.encode().hex(),
    )
