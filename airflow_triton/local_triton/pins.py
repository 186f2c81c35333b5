"""What the local Triton is made of. Each version is one that was seen to work together with the others; this is the one place."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from airflow_triton.local_triton.extras import Extra

SERVER = "nvidia-pytriton==0.7.0"
"""The wheel that carries tritonserver 2.51.0. Its own Python dependencies are not installed: the server needs none of them."""

NUMPY = "numpy==1.26.4"
"""The server's Python stub predates numpy 2: with numpy 2 it answers with empty output tensors and says nothing."""

TORCH = "torch==2.13.0"

TENSORFLOW = "tensorflow-cpu==2.21.0"
"""Works with numpy 1.26, which the server needs."""

PYTHONS = ((3, 12), (3, 11), (3, 10))
"""The Pythons that the server can run its backends with, best first: those that have a stub in the wheel and a numpy 1 wheel."""


def onnxruntime(python: tuple[int, int]) -> str:
    """The pin of onnxruntime for that Python; 1.23 is the last one for 3.10, and reads ONNX files up to IR version 11."""
    return "onnxruntime==1.23.2" if python < (3, 11) else "onnxruntime==1.32.0"


def digest(python: tuple[int, int], with_: Collection[Extra] = ()) -> str:
    """A short name for the environment that these pins make: it changes when a pin, the Python or an extra does."""
    parts = [SERVER, NUMPY, onnxruntime(python), TORCH if "torch" in with_ else "", "{}.{}".format(*python)]
    parts += [TENSORFLOW] if "tensorflow" in with_ else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
