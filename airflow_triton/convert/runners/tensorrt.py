"""TensorRT plans, by TensorRT on this process's GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.convert.base import Arrays, Run
from airflow_triton.convert.tensorrt import available, engine
from airflow_triton.convert.tensorrt.bfloat16 import from_bfloat16, to_bfloat16
from airflow_triton.convert.tensorrt.build_log import LOG_FILE, BuildLog
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.tensors import NUMPY_TYPES

if TYPE_CHECKING:
    import numpy as np
    import tensorrt as trt


def load(folder: Path, servable: Servable) -> Run:
    """See `base.Runner.load`; of several plans, the one for this GPU."""
    machine = available.require()
    mine = folder / f"model_{machine.compute_capability.replace('.', '_')}.plan"
    path = mine if mine.is_file() else folder / servable.default_model_filename
    with tempfile.TemporaryDirectory(prefix="airflow-triton-") as scratch:
        log = BuildLog(Path(scratch, LOG_FILE))
        loaded = engine.load(path, engine.logger(log))
    context = loaded.create_execution_context()

    def run(inputs: Arrays) -> Arrays:
        with _memory() as copy:
            for spec in servable.inputs:
                array = _plain(inputs[spec.name], spec)
                if not context.set_input_shape(spec.name, array.shape):
                    raise ConversionError(f"{path}: the shape {list(array.shape)} of {spec.name!r} is outside of the plan's profile")
                context.set_tensor_address(spec.name, copy.to_gpu(array))
            places = {spec.name: _place(context, spec, copy) for spec in servable.outputs}
            if not context.execute_async_v3(copy.stream):
                raise ConversionError(f"{path}: TensorRT could not run the plan: {log.errors or 'it gives no reason'}")
            return {spec.name: _answer(copy.from_gpu(*places[spec.name]), spec) for spec in servable.outputs}

    return run


def _plain(array: np.ndarray[Any, Any], spec: TensorSpec) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.ascontiguousarray(to_bfloat16(array) if spec.datatype == "BF16" else array)


def _answer(array: np.ndarray[Any, Any], spec: TensorSpec) -> np.ndarray[Any, Any]:
    return from_bfloat16(array) if spec.datatype == "BF16" else array


def _place(context: trt.IExecutionContext, spec: TensorSpec, copy: _Copies) -> tuple[int, np.ndarray[Any, Any]]:
    """Memory on the GPU for an output, and an array of its shape for what will be there."""
    import numpy as np

    shape = engine.sizes(context.get_tensor_shape(spec.name))
    if -1 in shape:
        raise ConversionError(f"the size of the output {spec.name!r} {list(shape)} depends on values, which cannot be compared here")
    array = np.empty(shape, dtype="uint16" if spec.datatype == "BF16" else NUMPY_TYPES[spec.datatype])
    address = copy.room(array.nbytes)
    context.set_tensor_address(spec.name, address)
    return address, array


class _Copies:
    """Memory on the GPU and copies to and from it, all in one stream."""

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        self._held: list[int] = []
        self.stream = int(available.called(runtime.cudaStreamCreate()))

    def room(self, count: int) -> int:
        address = int(available.called(self._cuda.cudaMalloc(max(count, 1))))
        self._held.append(address)
        return address

    def to_gpu(self, array: np.ndarray[Any, Any]) -> int:
        address = self.room(array.nbytes)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        available.called(self._cuda.cudaMemcpy(address, array.ctypes.data, array.nbytes, kind))
        return address

    def from_gpu(self, address: int, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        available.called(self._cuda.cudaStreamSynchronize(self.stream))
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        available.called(self._cuda.cudaMemcpy(array.ctypes.data, address, array.nbytes, kind))
        return array

    def free(self) -> None:
        for address in self._held:
            self._cuda.cudaFree(address)
        self._cuda.cudaStreamDestroy(self.stream)


@contextmanager
def _memory() -> Iterator[_Copies]:
    copies = _Copies(available.cuda())
    try:
        yield copies
    finally:
        copies.free()
