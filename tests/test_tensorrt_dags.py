"""The TensorRT step of a DAG goes to the GPU workers that the spec names, as the serialised DAG shows; without a GPU it ends at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.serialization.serialized_objects import DagSerialization
from test_rollout import Make, run

from airflow_triton.dag_factory import deployment_dag, deployment_dags
from airflow_triton.errors import ConversionError
from airflow_triton.repository import Repository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.rollout import Rollout
from airflow_triton.spec import spec_from_mapping


def tasks(**tensorrt: Any) -> dict[str, dict[str, Any]]:
    """The tasks of the spec's DAG, as the scheduler reads them."""
    spec = spec_from_mapping({"name": "net", "model": "models:/net/1", "convert": {"to": "tensorrt", "tensorrt": tensorrt}})
    serialised = json.loads(json.dumps(DagSerialization.to_dict(deployment_dag(spec))))
    return {task["__var"]["task_id"]: task["__var"] for task in serialised["dag"]["tasks"]}


def test_a_celery_queue_and_a_pool() -> None:
    """Only the task that builds goes there."""
    found = tasks(queue="gpu", pool="a100s")

    assert (found["build_plan"]["queue"], found["build_plan"]["pool"]) == ("gpu", "a100s")
    assert {task_id for task_id, task in found.items() if task.get("queue") == "gpu"} == {"build_plan"}
    assert found["build_plan"]["downstream_task_ids"] == ["assemble"]
    assert sorted(found["convert"]["downstream_task_ids"]) == ["assemble", "build_plan"]
    assert sorted(found["assemble"]["downstream_task_ids"]) == ["configure", "stage"]


def test_an_executor() -> None:
    """By the alias that Airflow's configuration gives it."""
    assert tasks(executor="KubernetesExecutor")["build_plan"]["executor"] == "KubernetesExecutor"


def test_a_pod_override() -> None:
    """A pod as in a manifest, with the GPU that it asks for."""
    pod = {"spec": {"containers": [{"name": "base", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}

    override = tasks(pod_override=pod)["build_plan"]["executor_config"]["__var"]["pod_override"]

    assert override["__type"] == "k8s.V1Pod"
    assert override["__var"]["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def test_a_plan_for_each_kind_of_gpu() -> None:
    """Each is built where that kind is, and all of them come together."""
    found = tasks(pool="plans", gpus={"a10": {"queue": "gpu-a10"}, "h100": {"queue": "gpu-h100", "pool": "h100s"}})

    placed = {task_id: (task.get("queue"), task.get("pool")) for task_id, task in found.items() if task_id.startswith("build_plan")}
    assert placed == {"build_plan_a10": ("gpu-a10", "plans"), "build_plan_h100": ("gpu-h100", "h100s")}
    assert all(found[task_id]["downstream_task_ids"] == ["assemble"] for task_id in placed)


def test_triton_as_the_builder_needs_no_gpu_worker() -> None:
    """The DAG is that of an ONNX model."""
    assert not {"build_plan", "assemble"} & set(tasks(builder="triton"))


def test_a_pod_that_is_none_breaks_its_own_dag_only(tmp_path: Path) -> None:
    """With a reason that names the key."""
    spec = {"name": "net", "model": "models:/net/1", "convert": {"to": "tensorrt", "tensorrt": {"pod_override": {"spec": "gpu"}}}}
    (tmp_path / "net.json").write_text(json.dumps(spec))

    with pytest.warns(UserWarning, match="pod_override is no Kubernetes pod"):
        dags = deployment_dags(tmp_path)

    assert list(dags["deploy_net"].task_dict) == ["broken_spec"]


# The pipeline, on a machine without a GPU.


def test_without_a_gpu_nothing_is_even_converted(mapping: Make, repository: Repository) -> None:
    """It ends at once, naming all that is missing and the way without a GPU; nothing is left over."""
    told: list[str] = []

    def deployed(rollout: Rollout) -> Any:
        from airflow_triton.rollout import deploy

        rollout.progress = told.append
        return deploy(rollout)

    with pytest.raises(ConversionError, match=r"cannot be built here: .*tensorrt.*missing.*convert\.tensorrt\.builder: triton"):
        run(mapping(convert={"to": "tensorrt"}), deployed)

    assert [line.split(":")[0] for line in told] == ["resolve"]
    assert repository.folders(MODELS) == []
    assert repository.folders(WORK / "servables") == []


def test_several_kinds_of_gpu_need_airflow(mapping: Make) -> None:
    """One worker has not two kinds."""
    kinds = {"a10": {"queue": "gpu-a10"}, "h100": {"queue": "gpu-h100"}}

    with pytest.raises(ConversionError, match="names a10, h100: each plan is built by a worker that has that GPU"):
        run(mapping(convert={"to": "tensorrt", "tensorrt": {"gpus": kinds}}))


def test_the_onnx_model_of_a_plan_waits_for_the_gpu_worker_and_goes_at_the_end(mapping: Make, repository: Repository) -> None:
    """What the DAG's tasks do on their workers: convert here; the build says what is missing; the clean-up removes all."""

    def steps(rollout: Rollout) -> None:
        source = rollout.resolve()
        converted = rollout.convert(source)
        assert converted.servable.backend == "onnxruntime"
        assert len(repository.servables("blobs")) == 1
        assert rollout.convert(source) == converted
        with pytest.raises(ConversionError, match="a TensorRT plan cannot be built here"):
            rollout.build_plan(converted)
        rollout.clean_up(source)
        assert repository.folders(WORK / "servables") == []

    run(mapping(convert={"to": "tensorrt", "tensorrt": {"precision": "fp16"}}), steps)


def test_triton_as_the_builder_serves_the_onnx_model_with_the_accelerator(mapping: Make, repository: Repository) -> None:
    """Its config.pbtxt asks for TensorRT; an instance on a CPU ignores that, so it is validated here too."""
    outcome = run(mapping(convert={"to": "tensorrt", "tensorrt": {"builder": "triton", "precision": "fp16"}}))

    assert outcome.action == "promoted"
    released = repository.read_config("blobs")
    assert released is not None
    assert 'gpu_execution_accelerator {\n      name: "tensorrt"' in released.text
    assert 'value: "FP16"' in released.text
