"""One or more plans as the files of one version, and what its config has to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow_triton.convert.tensorrt.plan import PLAN_FILE, Plan, read
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

BACKEND = "tensorrt"


def file_of(plan: Plan, *, alone: bool) -> str:
    """The plan's file in a version: `model.plan`, or one that names the compute capability, such as `model_8_6.plan`."""
    return PLAN_FILE if alone else f"model_{plan.machine.compute_capability.replace('.', '_')}.plan"


def config(plans: Sequence[Plan]) -> dict[str, Any]:
    """What the config.pbtxt has to say beside the servable, as `model_config.build` takes it in `overrides`: which GPU loads which file."""
    if len(plans) == 1:
        return {}
    return {"cc_model_filenames": {plan.machine.compute_capability: file_of(plan, alone=False) for plan in plans}}


def combined(folders: Sequence[Path], servable: Servable, into: VersionFolder) -> Servable:
    """Copy the plans of one or more builds into a version directory, and describe them as what Triton serves.

    Several plans lie side by side, each for the GPUs of its compute capability (`config` tells Triton which). The first is also the
    default, which a GPU of any other kind would try to load.

    Args:
        folders: the folders of the builds (`build_plan`), all of one ONNX model.
        servable: the ONNX model.
        into: the version directory.

    Raises:
        ConversionError: the plans are not of one model, one TensorRT and one precision; or two are for the same compute capability.

    """
    plans = [read(folder) for folder in folders]
    _check(plans)
    alone = len(plans) == 1
    for folder, plan in zip(folders, plans, strict=True):
        into.copy(folder / PLAN_FILE, file_of(plan, alone=alone))
    return described(plans, servable)


def described(plans: Sequence[Plan], servable: Servable) -> Servable:
    """The servable of one or more plans that fit together; inputs and outputs are the engine's, in the ONNX model's order."""
    first = plans[0]
    default = file_of(first, alone=len(plans) == 1)
    where = ", ".join(f"{plan.machine.gpu} (compute capability {plan.machine.compute_capability})" for plan in plans)
    note = f"the plan was built by TensorRT {first.machine.tensorrt} in {first.order.precision} on {where}; it runs on no other kind of GPU"
    if first.order.hardware_compatibility != "none":
        note = note.rpartition(";")[0] + f", with hardware compatibility {first.order.hardware_compatibility}"
    return servable.model_copy(
        update={
            "backend": BACKEND,
            "default_model_filename": default,
            "entry": default,
            "inputs": _ordered(first.inputs, servable.inputs),
            "outputs": _ordered(first.outputs, servable.outputs),
            "converter": "tensorrt",
            "tools": {**servable.tools, **first.tools},
            "notes": (*servable.notes, note),
        }
    )


def _ordered(made: Sequence[TensorSpec], served: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    specs = {spec.name: spec for spec in made}
    if set(specs) != {spec.name for spec in served}:
        names = ", ".join(spec.name for spec in served)
        raise ConversionError(f"the engine has the tensors {', '.join(specs)}, and the ONNX model {names}: the plan is of another model")
    return tuple(specs[spec.name] for spec in served)


def _check(plans: Sequence[Plan]) -> None:
    facts: dict[str, set[Any]] = {
        "ONNX models": {tuple(file.sha256 for file in plan.source) for plan in plans},
        "versions of TensorRT": {plan.machine.tensorrt for plan in plans},
        "precisions": {plan.order.precision for plan in plans},
        "inputs or outputs": {frozenset((*plan.inputs, *plan.outputs)) for plan in plans},
    }
    if not plans:
        raise ConversionError("no plan was built")
    if different := [what for what, found in facts.items() if len(found) > 1]:
        raise ConversionError(
            f"the plans of one version must be alike but for the GPU, and these have several {', '.join(different)}; build them with the "
            "same environment, of the same version of the model"
        )
    kinds = [plan.machine.compute_capability for plan in plans]
    if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        gpus = ", ".join(plan.machine.gpu for plan in plans if plan.machine.compute_capability in twice)
        raise ConversionError(
            f"two plans are for the compute capability {', '.join(twice)} ({gpus}), and Triton tells GPUs apart by nothing else: name one "
            "of these kinds in `convert.tensorrt.gpus`, and set `hardware_compatibility: same_compute_capability`"
        )
