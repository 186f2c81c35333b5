"""The builder itself: an ONNX graph becomes a plan, by the `tensorrt` Python API of 10.x and 11.x.

This is the one module of the package that calls TensorRT, with `engine`; both need a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.convert.tensorrt import engine, timing_cache
from airflow_triton.convert.tensorrt.build_log import BuildLog, Progress
from airflow_triton.convert.tensorrt.parser_errors import ParserFailure, told
from airflow_triton.convert.tensorrt.plan import Order
from airflow_triton.errors import ConversionError
from airflow_triton.servable import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

MIB = 2**20


def build(
    graph: Path, plan: Path, order: Order, *, log: BuildLog, cache: Path | None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Build the plan of a graph, and write it; answer the engine's inputs and outputs.

    Args:
        graph: the ONNX file, its weights beside it.
        plan: the file to write.
        order: what the builder is told.
        log: where its progress and its log go.
        cache: the file of the timing cache; None: none.

    Raises:
        ConversionError: TensorRT cannot parse the graph (naming node and operator), refuses the profiles, or cannot build it.

    """
    import tensorrt as trt

    logger = engine.logger(log)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        failures = [ParserFailure.of(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ConversionError(told(graph, failures, log.errors))
    config = _configured(builder, network, order)
    config.progress_monitor = monitor = _monitor(log)
    measured = _measured(config, cache, log)
    made: Any = builder.build_serialized_network(network, config)  # None, where the stubs know no None
    del monitor
    if made is None:
        raise ConversionError(f"{graph}: TensorRT {trt.__version__} could not build a plan: {log.errors or 'it gives no reason'}")
    with plan.open("wb") as file:
        file.write(made)
    if cache is not None:
        _keep(config, measured, cache, log)
    return engine.tensors(engine.load(plan, logger))


def _configured(builder: trt.Builder, network: trt.INetworkDefinition, order: Order) -> trt.IBuilderConfig:
    import tensorrt as trt

    config = builder.create_builder_config()
    if order.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_mib * MIB)
    if order.optimization_level is not None:
        config.builder_optimization_level = order.optimization_level
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.__members__[order.hardware_compatibility.upper()]
    if order.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if order.precision != "tf32":
        config.clear_flag(trt.BuilderFlag.TF32)  # TensorRT allows it unless it is told not to
    _add_profile(builder, network, config, order)
    return config


def _add_profile(builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, order: Order) -> None:
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise ConversionError(f"the input {tensor.name!r} is a shape for TensorRT, and such plans are not supported; use `to: onnx`")
    if not order.profiles:
        return
    profile = builder.create_optimization_profile()
    for name, shapes in order.profiles.items():
        sizes: list[Any] = [shapes.min, shapes.opt, shapes.max]
        try:
            profile.set_shape(name, *sizes)
        except ValueError as error:
            raise ConversionError(f"TensorRT refuses the profile of the input {name!r} ({shapes}): {error}") from error
    if config.add_optimization_profile(profile) < 0:
        raise ConversionError(f"TensorRT refuses the profiles {order.profiles}")


def _monitor(log: BuildLog) -> trt.IProgressMonitor:
    import tensorrt as trt

    progress = Progress(log)

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._top: set[str] = set()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._top.add(phase_name)
            progress.started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.done(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            progress.finished(phase_name, top=phase_name in self._top)

    return Monitor()


def _measured(config: trt.IBuilderConfig, path: Path | None, log: BuildLog) -> Any:
    """The timing cache that the build uses, with what earlier builds measured; what TensorRT does not accept is left out."""
    if path is None:
        return None
    content = timing_cache.read(path)
    log.write("info", f"timing cache {path}: {len(content)} bytes")
    cache: Any = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        log.write("warning", f"TensorRT does not accept the timing cache {path}, and starts with an empty one")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _keep(config: trt.IBuilderConfig, measured: Any, path: Path, log: BuildLog) -> None:
    """Put what was measured into the file, beside what others have put there meanwhile; a plan does not fail for it."""
    import filelock

    def merged(present: bytes) -> bytes:
        others: Any = config.create_timing_cache(present) if present else None
        if others is not None:
            measured.combine(others, ignore_mismatch=False)
        return bytes(measured.serialize())

    try:
        timing_cache.update(path, merged)
    except (OSError, filelock.Timeout) as error:
        log.write("warning", f"the timing cache {path} could not be kept: {error}")
