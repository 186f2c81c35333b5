"""The real tritonserver on this machine, for the demo, the tests and `airflow-triton serve`: no Docker, no GPU.

The binary comes from the wheel `nvidia-pytriton`, which has one compiled backend: `python`. Python-based backends stand in
for the compiled ONNX, TorchScript and TensorFlow ones (`backends/`), so a model and its config.pbtxt are those of a production server.
"""

from __future__ import annotations

from airflow_triton.local_triton.extras import EXTRAS, Extra, extras_for
from airflow_triton.local_triton.install import Installation, install
from airflow_triton.local_triton.process import LocalTriton, free_port

__all__ = ["EXTRAS", "Extra", "Installation", "LocalTriton", "extras_for", "free_port", "install"]
