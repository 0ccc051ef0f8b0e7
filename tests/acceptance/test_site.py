"""The documentation site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from manual.pages import generated_pages
from support.pages import DOCS, HAND_WRITTEN_PAGES

pytestmark = pytest.mark.slow

LOADS = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "srcset"}
PASSIVE = {"canonical", "index", "next", "prev", "search"}  # relations of links that a browser does not load


class LoadedAddresses(HTMLParser):
    """The addresses that a browser loads with a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        address = attributes.get(LOADS.get(tag, ""))
        if address and attributes.get("rel") not in PASSIVE:
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation site as `make docs` builds it: the folder DICOM_ADAPTER_TESTS_SITE, or a new build."""
    if built := os.environ.get("DICOM_ADAPTER_TESTS_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fresh-env", "--fail-on-warning", "--keep-going"]
    done = subprocess.run([*command, DOCS, folder], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return folder


def page_paths() -> Iterator[Path]:
    yield from (page.relative_to(DOCS) for page in HAND_WRITTEN_PAGES)
    yield from (Path("reference", path) for path, _ in generated_pages())


@pytest.mark.timeout(300)  # Sphinx builds all pages
def test_every_page_exists_and_loads_nothing_from_other_hosts(site: Path) -> None:
    """The site works without internet access: no script, style, font or image is remote.

    Verified to fail when site.css uses a web font.
    """
    for path in page_paths():
        page = (site / path).with_suffix(".html")
        loaded = LoadedAddresses(page).addresses
        assert [] == [address for address in loaded if re.match(r"(\w+:)?//", address)], page.name
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    assert [] == re.findall(r"(?:url\(|@import)[\s\"']*(?:\w+:)?//[^)\s]*", styles)
