"""What runs in the child process of `build_plan`, on a GPU worker, perhaps in another Python; JSON on both sides."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from airflow_triton.convert.tensorrt import available, builder, graph, plan, precision, timing_cache
from airflow_triton.convert.tensorrt.build_log import LOG_FILE, BuildLog
from airflow_triton.repository.manifest import FileDigest, sha256
from airflow_triton.servable import Servable
from airflow_triton.versions import installed


def tools() -> dict[str, str]:
    """See `airflow_triton.convert.tensorrt.tools_here`."""
    return {**available.require().model_dump(), **installed(("nvidia-modelopt", "onnx"))}


def build(
    *, onnx_folder: str, servable: dict[str, Any], into: str, order: dict[str, Any], calibration: str | None, cache: str | None
) -> dict[str, Any]:
    """See `airflow_triton.convert.tensorrt.build_plan`; `into` must exist, and gets the plan, its record and the log."""
    machine = available.require()
    served, told = Servable.model_validate(servable), plan.Order.model_validate(order)
    source, home = graph.path_of(Path(onnx_folder), served), Path(into)
    with BuildLog(home / LOG_FILE) as log, tempfile.TemporaryDirectory(dir=home, prefix="graph-") as scratch:
        log.write("info", f"{machine!r} {told!r}")
        started = time.monotonic()
        log.write("progress", f"precision {told.precision}")
        read = precision.prepare(
            source, Path(scratch), told.precision, inputs=served.inputs, calibration=Path(calibration) if calibration else None
        )
        prepared = time.monotonic()
        file = timing_cache.file_for(Path(cache), machine) if cache else None
        path = home / plan.PLAN_FILE
        inputs, outputs = builder.build(read, path, told, log=log, cache=file)
        built = time.monotonic()
        log.write("progress", f"built in {built - prepared:.0f} s")
        made = plan.Plan(
            file=FileDigest(path=path.name, size=path.stat().st_size, sha256=sha256(path)),
            machine=machine,
            order=told,
            inputs=inputs,
            outputs=outputs,
            source=graph.digests(source),
            graph=graph.digests(read),
            modelopt=None if read == source else precision.modelopt_version(),
            seconds={"precision": round(prepared - started, 3), "build": round(built - prepared, 3)},
        )
    (home / plan.RECORD_FILE).write_text(made.model_dump_json(indent=1), encoding="utf-8")
    return made.model_dump(mode="json")


def clear(into: Path) -> None:
    """Remove what a build left, all but its log."""
    for path in into.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOG_FILE:
            path.unlink(missing_ok=True)
