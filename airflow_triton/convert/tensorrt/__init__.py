"""An ONNX model becomes a TensorRT plan, on a GPU worker; or is served as it is, and TensorRT accelerates it on the server.

`build_plan` makes one plan on the GPU of this worker; `combined` makes one version of the plans of several kinds of GPU; `config` is what
its config.pbtxt has to say of them. `acceleration.config` is the way without a GPU. Nothing heavy is imported here.
"""

from __future__ import annotations

from airflow_triton.convert.tensorrt import acceleration
from airflow_triton.convert.tensorrt.build_log import LOG_FILE
from airflow_triton.convert.tensorrt.building import build_plan, check, tools_here
from airflow_triton.convert.tensorrt.comparison import compare_plan
from airflow_triton.convert.tensorrt.plan import PLAN_FILE, RECORD_FILE, Order, Plan, read
from airflow_triton.convert.tensorrt.version import combined, config

__all__ = [
    "LOG_FILE",
    "PLAN_FILE",
    "RECORD_FILE",
    "Order",
    "Plan",
    "acceleration",
    "build_plan",
    "check",
    "combined",
    "compare_plan",
    "config",
    "read",
    "tools_here",
]
