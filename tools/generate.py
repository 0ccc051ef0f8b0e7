"""Generate the Python modules of the plugins' gRPC APIs from their `.proto` files.

    pip install grpcio-tools==1.62.3 mypy-protobuf==3.6.0 "setuptools<81"
    python tools/generate.py [FOLDER]

Without FOLDER, the checked-in modules are overwritten. The pinned versions are old on purpose: their output runs with
every grpcio from 1.60 and every protobuf from 4.25 on. The output of newer versions would require an equally new
runtime. The pinned versions need protobuf 4, so install them in a separate environment.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
WIRES = {  # source folder of a plugin -> folder of its `.proto` files and generated modules, in the source folder
    PLUGINS / "cache" / "src": Path("dicom_adapter_cache", "wire"),
    PLUGINS / "clara_client" / "src": Path("dicom_adapter_clara_client", "wire"),
}
PINS = {"grpcio-tools": "1.62.3", "mypy-protobuf": "3.6.0"}  # the packages that determine the generated text
# grpcio-tools imports pkg_resources, which newer versions of setuptools do not have.
REQUIREMENTS = [*(f"{name}=={version}" for name, version in PINS.items()), "setuptools<81"]


def missing() -> list[str]:
    """Return the pinned packages of which this environment does not have the pinned version."""
    return [f"{name}=={version}" for name, version in PINS.items() if _installed(name) != version]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def generate(sources: Path, target: Path) -> None:
    """Write the modules of one plugin below `target`."""
    import grpc_tools
    from grpc_tools import protoc

    protos = sorted(str(path) for path in (sources / WIRES[sources]).glob("*.proto"))
    plugins = [f"--plugin={path}" for path in sorted(Path(sys.executable).parent.glob("protoc-gen-mypy*"))]
    kinds = [f"--{kind}_out={target}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    google = Path(grpc_tools.__file__).with_name("_proto")  # the standard types of protoc
    paths = [f"--proto_path={sources}", f"--proto_path={google}"]
    target.mkdir(parents=True, exist_ok=True)
    if protoc.main(["protoc", *paths, "--mypy_opt=quiet", "--mypy_grpc_opt=quiet", *plugins, *kinds, *protos]):
        raise SystemExit("protoc failed: see its messages above")
    for module in (target / WIRES[sources]).glob("common_pb2_grpc.py*"):
        module.unlink()  # the `.proto` file has no services


def main() -> None:
    if absent := missing():
        raise SystemExit(f"this environment lacks {' and '.join(absent)}: see the top of {Path(__file__).name}")
    for sources in WIRES:
        generate(sources, Path(sys.argv[1]) if len(sys.argv) > 1 else sources)


if __name__ == "__main__":
    main()
