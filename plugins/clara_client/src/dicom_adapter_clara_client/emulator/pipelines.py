"""The pipelines of the platform: registered ones, or every id that a client names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import RLock

from attrs import evolve

from dicom_adapter_clara_client.emulator import rules
from dicom_adapter_clara_client.emulator.rules import Conflict, NotFound
from dicom_adapter_clara_client.emulator.store import PlatformStore
from dicom_adapter_clara_client.emulator.values import ClaraPipeline, PipelineFile
from dicom_adapter_clara_client.wire.codes import ClaraCode

METADATA_REFUSED = ClaraCode.PIPELINE_METADATA_REFUSED


class Pipelines:
    """All pipelines. With `any_id`, every well-formed id is accepted, but only registered pipelines are listed."""

    def __init__(self, store: PlatformStore, lock: RLock, known: Iterable[ClaraPipeline], *, any_id: bool) -> None:
        self._store = store
        self._lock = lock
        self._any_id = any_id
        self._pipelines = {pipeline.pipeline_id: pipeline for pipeline in known}

    def create(
        self, pieces: Iterable[PipelineFile], metadata: Mapping[str, str] | None = None, pipeline_id: str = ""
    ) -> ClaraPipeline:
        """Register a pipeline, under the client's id or a new one."""
        key = _identifier(pipeline_id) if pipeline_id else rules.new_id()
        validated = rules.with_metadata({}, (metadata or {}).items(), METADATA_REFUSED)
        pipeline = rules.pipeline(key, pieces, validated)
        with self._lock:
            if key in self._pipelines:
                raise Conflict(ClaraCode.PIPELINE_NOT_STORED, f"pipeline {key} exists already: update it")
            return self._save(pipeline)

    def update(self, pipeline_id: str, pieces: Iterable[PipelineFile]) -> ClaraPipeline:
        """Replace the definition of a pipeline."""
        with self._lock:
            present = self.details(pipeline_id)
            return self._save(rules.pipeline(present.pipeline_id, pieces, present.metadata))

    def details(self, pipeline_id: str) -> ClaraPipeline:
        """Return one pipeline with its definition."""
        key = _identifier(pipeline_id)
        with self._lock:
            if key in self._pipelines:
                return self._pipelines[key]
        if self._any_id:
            return ClaraPipeline(pipeline_id=key, name=key)
        raise NotFound(ClaraCode.NO_SUCH_PIPELINE, f"no pipeline {key}")

    def list(self) -> tuple[ClaraPipeline, ...]:
        """Return the registered pipelines in order of registration."""
        with self._lock:
            return tuple(self._pipelines.values())

    def remove(self, pipeline_id: str) -> None:
        """Delete a pipeline. Its jobs do not change."""
        with self._lock:
            key = self.details(pipeline_id).pipeline_id
            self._store.delete_pipeline(key)
            self._pipelines.pop(key, None)

    def add_metadata(self, pipeline_id: str, metadata: Mapping[str, str]) -> ClaraPipeline:
        """Add to a pipeline's metadata: all entries or none."""
        with self._lock:
            present = self.details(pipeline_id)
            validated = rules.with_metadata(present.metadata, metadata.items(), METADATA_REFUSED)
            return self._save(evolve(present, metadata=validated))

    def remove_metadata(self, pipeline_id: str, keys: Iterable[str]) -> ClaraPipeline:
        """Remove from a pipeline's metadata."""
        with self._lock:
            present = self.details(pipeline_id)
            return self._save(evolve(present, metadata=rules.without_metadata(present.metadata, keys)))

    def _save(self, pipeline: ClaraPipeline) -> ClaraPipeline:
        self._store.save_pipeline(pipeline)
        self._pipelines[pipeline.pipeline_id] = pipeline
        return pipeline


def _identifier(text: str) -> str:
    return rules.identifier(text, "pipeline", ClaraCode.PIPELINE_ID_MALFORMED)
