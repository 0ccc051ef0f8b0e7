"""Images that keep the contracts of MAPs and of mercure modules, built from scratch with shell scripts."""

from __future__ import annotations

import json

import pytest

from support.container_jobs import Containers

pytestmark = pytest.mark.podman

APPLICATION = """#!/bin/sh
cat "$HOLOSCAN_INPUT_PATH"/*/*.dcm > "$HOLOSCAN_OUTPUT_PATH/joined" || exit 4
pwd > "$HOLOSCAN_OUTPUT_PATH/folder"
echo "$MODE" > "$HOLOSCAN_OUTPUT_PATH/mode"
exit ${STATUS:-0}
"""
ENTRY_SCRIPT = """#!/bin/sh
/opt/app
exit 0
"""


def build_map(containers: Containers, layout: str, **changes: object) -> str:
    manifest = {
        "apiVersion": "1.0.0",
        "command": '["/opt/app"]',
        "environment": {"MODE": "of the image"},
        "input": {"path": "input/", "formats": None},
        "output": {"path": "output/", "format": None},
        "workingDirectory": f"/var/{layout}/",
        **changes,
    }
    files = {
        f"/etc/{layout}/app.json": json.dumps(manifest),
        "/opt/app": APPLICATION,
        f"/var/{layout}/tools": ENTRY_SCRIPT,
    }
    return containers.podman.build(f"localhost/map-{layout}", f'ENTRYPOINT ["/var/{layout}/tools"]', files)


@pytest.mark.parametrize("layout", ["holoscan", "monai"])
def test_map_runs_its_command_in_its_folders(containers: Containers, layout: str) -> None:
    containers.configure(image=build_map(containers, layout), contract="map")
    job = containers.start(files=2)
    assert containers.end(job).succeeded
    output = containers.of(job).output
    expected = {"joined": "01", "folder": f"/var/{layout}\n", "mode": "of the image\n"}
    assert expected == {path.name: path.read_text() for path in output.iterdir()}
    assert [] == containers.podman.names()


def test_failure_of_a_map_is_seen(containers: Containers) -> None:
    """The entry script of a MAP ends with status 0 even then. Verified to fail with the image's own entry point."""
    status = containers.run(image=build_map(containers, "holoscan"), contract="map", environment={"STATUS": "9"})
    assert not status.succeeded
    assert "exit status 9" in status.detail


def test_image_without_manifest_is_no_map(containers: Containers) -> None:
    status = containers.run("touch /output/a", contract="map")
    assert not status.succeeded
    assert "has none of the files /etc/holoscan/app.json, /etc/monai/app.json, so it is not a MAP" in status.detail


def test_unusable_manifest_is_named(containers: Containers) -> None:
    image = build_map(containers, "holoscan", command=[])
    status = containers.run(image=image, contract="map")
    assert "/etc/holoscan/app.json in the image has no command: set `command` of the pipeline" in status.detail


MODULE = """#!/bin/sh
cd "$MERCURE_IN_DIR"
for file in *.dcm; do
  [ -e "${file%.dcm}.tags" ] || exit 5
  cp "$file" "$MERCURE_OUT_DIR/$file"
done
cp task.json "$MERCURE_OUT_DIR/"
sed -n 's/.*"color": *"\\([a-z]*\\)".*/\\1/p' task.json > "$MERCURE_OUT_DIR/result.json"
"""


def test_mercure_module_finds_files_tags_and_settings(containers: Containers) -> None:
    image = containers.podman.build("localhost/module", 'ENTRYPOINT ["/module"]', {"/module": MODULE})
    containers.configure(image=image, contract="mercure", settings={"color": "red"})
    job = containers.start(files=2)
    assert containers.end(job).succeeded, containers.log()
    names = [result.name for result in containers.submitter().results(job)]
    assert ["1.2.5#1.2.3.0.dcm", "1.2.5#1.2.3.1.dcm", "result.json"] == names  # not the copy of task.json
    assert "red\n" == (containers.of(job).output / "result.json").read_text()
