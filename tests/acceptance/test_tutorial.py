"""Pages that are followed to the letter, as somebody does who has nothing but them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import DOCS, blocks_of
from support.template import generate
from support.walkthrough import Walkthrough

pytestmark = pytest.mark.slow

TUTORIAL = DOCS / "tutorial" / "first-processor.md"
PUBLISHING = DOCS / "how-to" / "publishing.md"


@pytest.fixture
def walkthrough(tmp_path: Path) -> Iterator[Walkthrough]:
    """An empty folder beside a checkout, and an environment in which the adapter is installed."""
    made = Walkthrough(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(600)  # the plugin's suite twice, beside everything else that runs
def test_the_first_processor_does_its_job(walkthrough: Walkthrough) -> None:
    """Every file is written and every command typed, in the page's order; the order of two studies becomes one job.

    Tried: without the line that cancels the timer, the page's own tests fail.
    """
    steps = [block for block in blocks_of(TUTORIAL) if "tutorial" in block.info.split()]
    assert len(blocks_of(TUTORIAL)) == len(steps), "a block of the tutorial is not followed"
    outputs = [walkthrough.follow(step) for step in steps]
    assert "by-accession" in walkthrough.output
    assert "ORDERS-lung-" in outputs[-1]
    assert "LUNG-lung-" not in outputs[-1]
    assert 12 == outputs[-1].count(".dcm")


@pytest.mark.timeout(600)
def test_a_plugin_is_built_and_installed_as_the_page_says(walkthrough: Walkthrough) -> None:
    """From the folder that the template has made to the list of plugins of an adapter."""
    made = generate(walkthrough.folder, "observer", "Told")
    walkthrough.type(f"cd {made}")
    steps = [block for block in blocks_of(PUBLISHING) if block.info == "sh publish"]
    outputs = [walkthrough.follow(step) for step in steps]
    assert ["dicom_adapter_told-0.1.0-py3-none-any.whl", "dicom_adapter_told-0.1.0.tar.gz"] == sorted(
        path.name for path in (made / "dist").iterdir()
    )
    assert "dicom-adapter-told" in outputs[-1]
