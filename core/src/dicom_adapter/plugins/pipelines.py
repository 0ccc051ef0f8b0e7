"""The pipelines to which AE titles refer, compared with those of the submitters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from dicom_adapter.config.model import Config
from dicom_adapter.config.references import referenced_pipelines
from dicom_adapter.config.suggest import listed, suggestion


def find_unknown_pipelines(config: Config, ae_title: str, known: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield a message for each pipeline of the AE title that its submitter does not have.

    `known`: the pipeline ids by submitter, for those submitters that know all of them.
    """
    for pipeline in referenced_pipelines(config.ae_titles[ae_title].settings):
        submitter = pipeline.submitter or config.submitter_for(ae_title)
        ids = known.get(submitter)
        if ids is not None and pipeline.id not in ids:
            yield (
                f"submitter '{submitter}' has no pipeline '{pipeline.id}'{suggestion(pipeline.id, ids)} (there are: "
                f"{listed(ids)}): its jobs would be faulted; correct the id, or configure the pipeline at the submitter"
            )
