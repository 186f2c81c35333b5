"""The real tritonserver on this machine, for the demo, the tests and `airflow-triton serve`: no Docker, no GPU.

The binary comes from the wheel `nvidia-pytriton`, which has one compiled backend: `python`. Python-based backends stand in
for the compiled ONNX and TorchScript ones (`backends/`), so a model and its config.pbtxt are those of a production server.
"""

from __future__ import annotations

from airflow_triton.local_triton.install import Installation, install
from airflow_triton.local_triton.process import LocalTriton, free_port

__all__ = ["Installation", "LocalTriton", "free_port", "install"]
