"""`python -m dicom_adapter_pipelines.container run|end <job folder>`: the program that the runner of a job starts.

`run` ends with the exit status of the container's process. If the process did not run, it ends with status 125, and the
report has the reason. `end` removes the container of the job in any state.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from attrs import evolve

from dicom_adapter_pipelines.container.arguments import GPU_LABEL, EngineCall, run_container
from dicom_adapter_pipelines.container.engine import Engine, EngineFailure, Image, missing_image
from dicom_adapter_pipelines.container.gpu_slots import GpuSlot, record_holder, take_gpu
from dicom_adapter_pipelines.container.map_manifest import PATHS, ManifestProblem, MapManifest, parse_manifest
from dicom_adapter_pipelines.container.plan import ContainerPlan, ContainerReport, plan_of
from dicom_adapter_pipelines.contracts import Contract
from dicom_adapter_pipelines.job_folder import JobFolder

NOT_RUN = 125  # exit status of podman and docker if the container could not be run
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # exit statuses of podman, docker and shells for a command
KILLED = 128 + signal.SIGKILL


class CannotRun(Exception):
    """The container cannot be run; the message has the reason and the next step."""


class ContainerRun:
    """Runs the container of a plan."""

    def __init__(self, plan: ContainerPlan) -> None:
        self._plan = plan
        self._engine = Engine(plan.engine)
        self._report = ContainerReport()
        self._is_ended = False  # SIGTERM was received: nothing new is started

    def run(self) -> int:
        """Run the container and return its exit status."""
        signal.signal(signal.SIGTERM, self._end)
        self._save()  # replaces the report of an interrupted run
        try:
            image = self._image()
            self._save(digest=image.digest)
            manifest = self._manifest(image) if self._plan.contract is Contract.MAP else None
            with self._gpu() as slot:
                status = self._run(image, manifest, slot)
        except InterruptedError:
            return 128 + signal.SIGTERM
        except (CannotRun, EngineFailure, ManifestProblem) as problem:
            if self._is_ended:
                return 128 + signal.SIGTERM
            self._save(problem=str(problem))
            print(f"[dicom-adapter] {problem}", file=sys.stderr)  # noqa: T201 - the log of the job
            return NOT_RUN
        return status

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        """Note a SIGTERM. The client of the engine gets it too, and passes it to the container's process."""
        self._is_ended = True

    def _save(self, **changes: str) -> None:
        self._report = evolve(self._report, **changes)
        self._report.save(self._plan.folder)

    def _image(self) -> Image:
        reference = self._plan.image
        image = self._engine.image(reference)
        if image is None and self._plan.pull:
            self._engine.pull(reference)
            image = self._engine.image(reference)
        if image is None:
            raise CannotRun(missing_image(self._plan.engine.kind.value, reference))
        return image

    def _manifest(self, image: Image) -> MapManifest:
        found = self._engine.read_file(image, PATHS, f"{self._plan.name}-manifest")
        if found is None:
            raise CannotRun(
                f"image '{self._plan.image}' has none of the files {', '.join(PATHS)}, so it is not a MAP: correct "
                "`image`, or remove `contract`"
            )
        manifest = parse_manifest(*found)
        if not (self._plan.command or manifest.command):
            raise ManifestProblem(f"{found[0]} in the image has no command: set `command` of the pipeline")
        return manifest

    @contextmanager
    def _gpu(self) -> Iterator[GpuSlot | None]:
        """Take a GPU, if the plan has any, and remove a container that still uses it after a crash."""
        gpus, folder = self._plan.gpus, Path(self._plan.gpu_folder)
        taken = take_gpu(folder, gpus, self._keep_waiting) if gpus else nullcontext()
        with taken as slot:
            if slot is not None:
                self._plan.folder.waiting_file.unlink(missing_ok=True)
                if slot.previous and self._engine.label_of(slot.previous, GPU_LABEL) == slot.gpu:
                    self._engine.remove(slot.previous)
                record_holder(slot, self._plan.name)
                self._save(gpu=slot.gpu)
            yield slot

    def _keep_waiting(self) -> bool:
        """Return whether to wait for a GPU, and record that the run waits: its time limit does not count the wait."""
        self._plan.folder.waiting_file.touch()
        return not self._is_ended

    def _run(self, image: Image, manifest: MapManifest | None, slot: GpuSlot | None) -> int:
        self._engine.remove(self._plan.name)  # of an interrupted run
        give_folders(self._plan)
        call = run_container(self._plan, image, manifest, "" if slot is None else slot.gpu)
        if self._is_ended:
            raise InterruptedError
        try:
            status = _call(call, () if slot is None else (slot.descriptor,))
            if status and not self._is_ended:
                self._explain(status)
            return status
        finally:
            self._remove(slot)

    def _remove(self, slot: GpuSlot | None) -> None:
        """Remove the container that has ended. A failure does not change the result: `end` tries it again."""
        try:
            self._engine.remove(self._plan.name)
        except EngineFailure as failure:
            print(f"[dicom-adapter] {failure}", file=sys.stderr)  # noqa: T201 - the log of the job
            return
        if slot is not None:
            record_holder(slot, "")

    def _explain(self, status: int) -> None:
        """Add the reason to the report if the engine or the kernel caused the exit status."""
        plan, end = self._plan, self._engine.end_of(self._plan.name)
        name = plan.engine.kind.value
        word = next(iter(plan.entrypoint or plan.command), "")
        if not end.has_run and status == NOT_EXECUTABLE:
            # The status is the same if the runtime of the engine lacks a permission to start a container.
            raise CannotRun(
                f"{name} has no permission to start image '{plan.image}', or {word or 'its command'} is not "
                "executable: see the engine's message in the log of the job"
            )
        if not end.has_run and status == NOT_FOUND:
            raise CannotRun(
                f"image '{plan.image}' has no executable command {word or 'of its own'}: correct `command` or "
                "`entrypoint`; the engine's message is in the log of the job"
            )
        if not end.has_run:
            raise CannotRun(f"{name} could not run the container (status {status}): see the log of the job")
        if plan.memory is not None and (end.out_of_memory or status == KILLED):
            limit = plan.memory / 1e6
            self._save(
                problem=f"killed, probably at its memory limit of {limit:.0f} MB: raise `memory` of the pipeline"
            )


def give_folders(plan: ContainerPlan) -> None:
    """Let the user of the container read the input and write its folders, if it is not the user of the service.

    The modes admit nobody else, because only the user of the service can enter the folder of the job. In a user
    namespace of podman, the user of the container is the user of the service.
    """
    user, group = map(int, plan.user.split(":"))
    if user == os.geteuid() or plan.user_namespace:
        return
    for folder in (plan.folder.output, plan.folder.work):
        os.chown(folder, user, group)
    plan.folder.input.chmod(0o755)
    plan.folder.manifest.chmod(0o644)


def _call(call: EngineCall, descriptors: Sequence[int]) -> int:
    """Run the client of the engine in the foreground. It inherits the descriptors."""
    environment = {**os.environ, **call.variables}
    with subprocess.Popen(  # noqa: S603 - no shell
        call.arguments, stdin=subprocess.DEVNULL, pass_fds=descriptors, env=environment
    ) as client:
        status = client.wait()
    return status if status >= 0 else 128 - status


def main(arguments: Sequence[str]) -> int:
    action, path = arguments
    launch = JobFolder(Path(path)).launch()
    if launch is None:
        return 0  # the job was cleaned up
    plan = plan_of(launch)
    if action == "run":
        return ContainerRun(plan).run()
    engine = Engine(plan.engine)
    try:
        engine.remove(plan.name)
        if plan.contract is Contract.MAP:
            engine.remove(f"{plan.name}-manifest")
    except EngineFailure as failure:
        print(failure, file=sys.stderr)  # noqa: T201 - the log of the job
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
