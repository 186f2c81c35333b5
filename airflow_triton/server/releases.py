"""What NVIDIA's Triton containers are made of, as far as it is published where it can be checked; nothing here is a guess.

Sources, column by column (the container is `nvcr.io/nvidia/tritonserver:YY.MM-py3`):

- `server`, `container`, `onnxruntime`: the version map at the top of `build.py` in the release's tag or branch of
  https://github.com/triton-inference-server/server (v2.42.0 to v2.71.0, r26.08).
- `python`: `docs/introduction/compatibility.md` there: Ubuntu 22.04's 3.10 up to 24.10, Ubuntu 24.04's 3.12 from 24.11 on.
- `cuda`: the sentence "Release YY.MM is based on CUDA ..." in NVIDIA's release notes of that release.
- `tensorrt`: 24.03, server issue 7188; 24.04 to 24.08, `docs/compatibility.md` as it was in the 24.08 release; 24.12, the row of the
  release notes; 25.01, 25.03, 25.06, 25.10 and 25.12, the images that `docs/introduction/compatibility.md` lists with that month's CUDA and
  framework stack. Other releases: None, since no text was found that says it.
- `ONNX_LIMITS`: measured, by loading graphs into the onnxruntime wheel of each of these versions.
"""

from __future__ import annotations

from typing import NamedTuple

from airflow_triton.errors import ConversionError

SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"


class Release(NamedTuple):
    """One release of Triton; None: not known. `python` is that of its Python backend."""

    server: str
    container: str
    onnxruntime: str
    python: str
    tensorrt: str | None = None
    cuda: str | None = None


RELEASES = (
    Release("2.42.0", "24.01", "1.16.3", "3.10"),
    Release("2.43.0", "24.02", "1.16.3", "3.10"),
    Release("2.44.0", "24.03", "1.17.2", "3.10", "8.6.3"),
    Release("2.45.0", "24.04", "1.17.3", "3.10", "8.6.3"),
    Release("2.46.0", "24.05", "1.18.0", "3.10", "10.0.1.6"),
    Release("2.47.0", "24.06", "1.18.0", "3.10", "10.1.0"),
    Release("2.48.0", "24.07", "1.18.1", "3.10", "10.2.0.19"),
    Release("2.49.0", "24.08", "1.19.0", "3.10", "10.3.0.26"),
    Release("2.50.0", "24.09", "1.19.2", "3.10"),
    Release("2.51.0", "24.10", "1.19.2", "3.10"),
    Release("2.52.0", "24.11", "1.19.2", "3.12"),
    Release("2.53.0", "24.12", "1.20.1", "3.12", "10.7.0.23", "12.6.3"),
    Release("2.54.0", "25.01", "1.20.1", "3.12", "10.8.0.43"),
    Release("2.55.0", "25.02", "1.20.1", "3.12"),
    Release("2.56.0", "25.03", "1.21.0", "3.12", "10.9.0.34", "12.8.1.012"),
    Release("2.57.0", "25.04", "1.21.0", "3.12"),
    Release("2.58.0", "25.05", "1.22.0", "3.12"),
    Release("2.59.0", "25.06", "1.22.0", "3.12", "10.11.0.33", "12.9.1.010"),
    Release("2.59.1", "25.07", "1.22.0", "3.12"),
    Release("2.60.0", "25.08", "1.23.0", "3.12", None, "13.0.0.044"),
    Release("2.61.0", "25.09", "1.23.0", "3.12"),
    Release("2.62.0", "25.10", "1.23.1", "3.12", "10.13.3.9", "13.0.2.006"),
    Release("2.63.0", "25.11", "1.23.2", "3.12"),
    Release("2.64.0", "25.12", "1.23.2", "3.12", "10.14.1.48"),
    Release("2.65.0", "26.01", "1.23.2", "3.12"),
    Release("2.66.0", "26.02", "1.24.1", "3.12", None, "13.1.1"),
    Release("2.67.0", "26.03", "1.24.2", "3.12"),
    Release("2.68.0", "26.04", "1.24.4", "3.12", None, "13.2.1"),
    Release("2.69.0", "26.05", "1.24.4", "3.12"),
    Release("2.70.0", "26.06", "1.24.4", "3.12", None, "13.3.0"),
    Release("2.71.0", "26.07", "1.27.0", "3.12"),
    Release("2.72.0", "26.08", "1.28.0", "3.12"),
)
"""Every release from 24.01 on, oldest first."""

ONNX_LIMITS = {
    "1.16": (19, 9),
    "1.17": (20, 9),
    "1.18": (21, 10),
    "1.19": (21, 10),
    "1.20": (21, 10),
    "1.21": (22, 10),
    "1.22": (22, 10),
    "1.23": (23, 11),
    "1.24": (25, 13),
    "1.27": (26, 13),
    "1.28": (26, 13),
}
"""The newest opset of the domain `ai.onnx` and the newest IR version that each onnxruntime loads."""

_ACROSS = {(8, 10), (10, 11)}
_BY_SERVER = {release.server: release for release in RELEASES}


def release_of(server_version: str) -> Release | None:
    """The release of a server that says it has this version, such as 2.59.0; None where it is not in the table."""
    return _BY_SERVER.get(server_version.strip())


def onnx_limits(release: Release | None) -> tuple[int, int] | None:
    """The newest opset (of `ai.onnx`) and the newest IR version that the release's onnxruntime reads; None: not known."""
    return ONNX_LIMITS.get(release.onnxruntime.rpartition(".")[0]) if release else None


def check_plan(release: Release | None, tensorrt_version: str, *, version_compatible: bool = False) -> str | None:
    """Compare the TensorRT that built a plan with that of the server which is to load it.

    A plan loads only in the very version that built it. One that is version compatible loads in that version and later ones of the same
    major version, and one of TensorRT 10 in 11 (8 in 10), on a server whose TensorRT backend was told to allow it (TensorRT's support
    matrix, "Engine Portability").

    Returns:
        None where they fit; else a sentence that says what could not be compared, or what the server must be told.

    Raises:
        ConversionError: they do not fit; it names both sides, and what to do.

    """
    if release is None or release.tensorrt is None:
        server = "this version of Triton" if release is None else f"Triton {release.server} ({release.container})"
        return (
            f"which TensorRT {server} has is not known here, so it was not compared with the {tensorrt_version} that built the plan; "
            f"see {SUPPORT_MATRIX}"
        )
    built, served = _numbers(tensorrt_version), _numbers(release.tensorrt)
    known = min(len(built), len(served))
    if built[:known] == served[:known]:
        return None
    theirs = f"Triton {release.server} ({release.container}) has TensorRT {release.tensorrt}"
    sides = f"the plan was built by TensorRT {tensorrt_version}, and {theirs}"
    if version_compatible and _runs(built[:known], served[:known]):
        return f"{sides}: start the server with --backend-config=tensorrt,version-compatible=true, or it refuses the plan"
    later = " (a version-compatible one: where it is not older, of the same major version or 11 after 10)" if version_compatible else ""
    remedy = f"build it with TensorRT {release.tensorrt} (the container {release.container} of nvcr.io/nvidia/tensorrt has it)"
    raise ConversionError(f"{sides}; a plan loads only where its own TensorRT is{later}: {remedy}")


def _runs(built: tuple[int, ...], served: tuple[int, ...]) -> bool:
    """Whether a later TensorRT runs a version-compatible plan."""
    return built < served and (built[0] == served[0] or (built[0], served[0]) in _ACROSS)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version; a suffix such as `.post1` ends them."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
