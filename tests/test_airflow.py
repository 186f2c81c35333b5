"""The provider in a real Airflow."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("mlflow", "torch", "onnx", "onnxruntime", "great_expectations", "tritonclient", "pandas", "numpy", "sklearn")


@pytest.mark.parametrize(
    "module",
    [
        "airflow_triton.dag_factory",
        "airflow_triton.operators.approve",
        "airflow_triton.operators.data",
        "airflow_triton.operators.steps",
        "airflow_triton.operators.deploy",
        "airflow_triton.hooks.triton",
        "airflow_triton.sensors.ready",
        "airflow_triton.sensors.registry",
        "airflow_triton.triggers.ready",
        "airflow_triton.triggers.registry",
    ],
)
def test_nothing_heavy_is_imported_for_a_dag_file(module: str, tmp_path: Path) -> None:
    """What a DAG file imports adds none of the heavy libraries to what Airflow itself has loaded."""
    code = f"""
import sys
import airflow.sdk
before = set(sys.modules)
import {module}
print(sorted({{name.partition('.')[0] for name in set(sys.modules) - before}} & set({HEAVY!r})))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment(tmp_path))

    assert told.stdout.splitlines()[-1] == "[]"


def test_provider_info_fits_airflows_schema() -> None:
    """A wrong provider info would break the discovery of every provider, so it is held against Airflow's own schema."""
    import airflow
    import jsonschema

    from airflow_triton.provider_info import get_provider_info

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_what_the_provider_info_names_is_there() -> None:
    """Every module, class and function that Airflow would import by name; and every operator of ours is in a module that it names."""
    import importlib
    import pkgutil

    import airflow_triton.operators
    from airflow_triton.provider_info import get_provider_info

    info = get_provider_info()
    modules = [
        module for kind in ("operators", "sensors", "hooks", "triggers") for row in info.get(kind, []) for module in row["python-modules"]
    ]
    dotted = [*info["extra-links"], *(row["hook-class-name"] for row in info["connection-types"])]
    dotted += [row[key] for row in info["asset-uris"] for key in ("handler", "to_openlineage_converter")]
    for module in modules:
        importlib.import_module(module)
    for name in dotted:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    ours = {found.name for found in pkgutil.iter_modules(airflow_triton.operators.__path__, "airflow_triton.operators.")}
    assert ours - set(modules) == {f"airflow_triton.operators.{name}" for name in ("base", "links", "serving")}


def test_the_uri_of_a_served_model_is_checked() -> None:
    """Airflow asks our sanitizer: a model's asset is one URI, however it is written."""
    from airflow.sdk import Asset

    from airflow_triton.assets import served_model

    assert served_model("Iris_1").uri == "triton://models/Iris_1"
    assert Asset("triton://models/Iris_1/").uri == "triton://models/Iris_1"
    with pytest.raises(ValueError, match="no served model"):
        Asset("triton://elsewhere/iris")


def test_airflow_lists_the_provider_and_its_connection_type(tmp_path: Path) -> None:
    """`airflow providers` knows the provider, and the connection type with its hook."""
    told = _airflow(tmp_path, "providers", "list", "-o", "json")
    assert "airflow-provider-triton" in {row["package_name"] for row in json.loads(told)}
    hooks = {row["connection_type"]: row for row in json.loads(_airflow(tmp_path, "providers", "hooks", "-o", "json"))}
    assert hooks["triton"]["class"] == "airflow_triton.hooks.triton.TritonHook"
    full = _airflow(tmp_path, "providers", "get", "airflow-provider-triton", "--full", "-o", "json")
    assert "airflow_triton.operators.approve" in full
    links = _airflow(tmp_path, "providers", "links", "-o", "json")
    assert "airflow_triton.operators.links.TritonModelLink" in links


def _environment(home: Path, **more: str) -> dict[str, str]:
    import os

    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    return {**kept, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR", **more}


def _airflow(home: Path, *arguments: str) -> str:
    script = Path(sys.executable).parent / "airflow"
    told = subprocess.run([script, *arguments], capture_output=True, text=True, check=True, env=_environment(home), timeout=120)
    return told.stdout[told.stdout.index("[") :]


GOOD = "name: {name}\nmodel: models:/{name}/1\nrepository: /nowhere\nservers: [triton_default]\n"


def parsed(tmp_path: Path, **specs: str) -> dict[str, Any]:
    """What a real DagBag makes of the three-line DAG file over these specs."""
    folder = tmp_path / "dags" / "deployments"
    folder.mkdir(parents=True)
    (folder.parent / "file.py").write_text((ROOT / "dags" / "deployments.py").read_text())
    for name, text in specs.items():
        (folder / f"{name}.yaml").write_text(text)
    return parsed_folder(tmp_path, folder.parent)


def parsed_folder(tmp_path: Path, folder: Path) -> dict[str, Any]:
    """What a real DagBag makes of a folder of DAGs: no connection, no registry, no server is there."""
    code = f"""
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(folder)!r})
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & set({HEAVY!r}))
print(json.dumps({{"errors": bag.import_errors, "warnings": str(bag.captured_warnings), "heavy": heavy, "dags": {{
    dag.dag_id: {{"tasks": [task.task_id for task in dag.topological_sort()], "tags": sorted(dag.tags), "doc": dag.doc_md,
                 "schedule": str(dag.schedule), "operators": [type(task).__name__ for task in dag.topological_sort()]}}
    for dag in bag.dags.values()}}}}))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment(tmp_path), timeout=120)
    return dict(json.loads(told.stdout.splitlines()[-1]))


def test_a_cron_spec_runs_next_when_its_time_comes(tmp_path: Path) -> None:
    """The scheduler's own reading of the DAG: not at once, not for what is past, in the time zone that Airflow is set to."""
    code = """
from airflow.serialization.serialized_objects import DagSerialization
from airflow_triton.dag_factory import deployment_dag
from airflow_triton.spec import spec_from_mapping
spec = {"name": "m", "model": "models:/m@live", "repository": "/models", "servers": "triton_default", "schedule": "30 3 * * *"}
dag = DagSerialization.from_dict(DagSerialization.to_dict(deployment_dag(spec_from_mapping(spec))))
print(dag.next_dagrun_info(last_automated_run_info=None).run_after.isoformat())
"""
    environment = _environment(tmp_path) | {"AIRFLOW__CORE__DEFAULT_TIMEZONE": "Asia/Tokyo"}
    before = datetime.now(timezone.utc)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=120)
    due = datetime.fromisoformat(told.stdout.splitlines()[-1])

    assert timedelta(0) < due - before <= timedelta(days=1, minutes=2)
    assert due.astimezone(timezone(timedelta(hours=9))).strftime("%H:%M") == "03:30"


def test_one_dag_for_each_spec_and_a_broken_one_breaks_only_its_own(tmp_path: Path) -> None:
    """Three lines make one DAG a spec; a broken spec's DAG says what is wrong, and the others are there."""
    told = parsed(
        tmp_path,
        a=GOOD.format(name="a"),
        b="name: b\nmodell: models:/b/1\n",
        c=GOOD.format(name="c").replace("models:/c/1", "models:/c@live") + "schedule: registry\n",
        d="{",
        e=GOOD.format(name="a"),
    )

    assert told["errors"] == {}
    assert sorted(told["dags"]) == ["deploy_a", "deploy_b", "deploy_c", "deploy_d", "deploy_e"]
    good = told["dags"]["deploy_a"]
    assert good["tasks"] == ["resolve", "convert", "configure", "stage", "validate", "promote", "clean_up"]
    assert "x-mlflow://deployments/c" in told["dags"]["deploy_c"]["schedule"]
    for broken, reason in (("b", "b.yaml:2: modell: unknown key"), ("d", "d.yaml:2: not valid YAML"), ("e", "another spec")):
        assert told["dags"][f"deploy_{broken}"]["tags"] == ["broken spec", "triton"]
        assert reason in told["dags"][f"deploy_{broken}"]["doc"]
        assert reason in told["warnings"]


def test_shipped_dags_parse(tmp_path: Path) -> None:
    """The DAGs of `dags/` are whole as they are: nothing is broken or warned of, nothing heavy is imported, and each says what it is."""
    told = parsed_folder(tmp_path, ROOT / "dags")

    assert (told["errors"], told["warnings"], told["heavy"]) == ({}, "{}", [])
    assert all("broken spec" not in dag["tags"] and "triton" in dag["tags"] and dag["doc"] for dag in told["dags"].values())
    assert sorted(told["dags"]) == [
        "after_digits_live",
        "deploy_digits",
        "deploy_digits-live",
        "deploy_digits_fleet",
        "retrain_digits",
        "revalidate",
        "roll_back",
    ]


def test_approval_is_a_task_between_validation_and_promotion(tmp_path: Path) -> None:
    """Only where the spec wants it."""
    told = parsed(tmp_path, a=GOOD.format(name="a") + "promote: {approval: true}\n")

    dag = told["dags"]["deploy_a"]
    assert dag["tasks"] == ["resolve", "convert", "configure", "stage", "validate", "approve", "promote", "clean_up"]
    assert dag["operators"][5] == "ApproveModelOperator"


def test_our_code_uses_nothing_that_airflow_deprecates(tmp_path: Path) -> None:
    """Every module that Airflow loads, and every shipped DAG, with our own deprecation warnings as errors."""
    code = f"""
import importlib, pkgutil, warnings
import airflow.sdk
import airflow_triton
from airflow.exceptions import AirflowProviderDeprecationWarning, RemovedInAirflow4Warning
for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, RemovedInAirflow4Warning, AirflowProviderDeprecationWarning):
    warnings.filterwarnings("error", category=kind, module=r"airflow_triton|unusual_prefix_")
rooms = ("operators", "sensors", "triggers", "hooks", "plugins")
names = [found.name for found in pkgutil.walk_packages(airflow_triton.__path__, "airflow_triton.")]
names = [name for name in names if name.split(".")[1] in (*rooms, "assets", "task_groups", "dag_factory", "provider_info")]
for name in names:
    importlib.import_module(name)
from airflow.dag_processing.dagbag import DagBag
print(len(names), DagBag({str(ROOT / "dags")!r}).import_errors)
"""
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_environment(tmp_path), timeout=120
    )

    assert told.returncode == 0, told.stderr
    count, errors = told.stdout.splitlines()[-1].split(maxsplit=1)
    assert int(count) > 10
    assert errors == "{}"


@pytest.mark.parametrize(
    ("connection", "address", "headers"),
    [
        ({"host": "http://triton:9000"}, "http://triton:9000", {}),
        ({"host": "triton"}, "http://triton:8000", {}),
        ({"host": "triton", "port": 8443, "extra": {"protocol": "grpc", "tls": True}}, "grpcs://triton:8443", {}),
        ({"host": "grpc://triton", "password": "s3cret"}, "grpc://triton:8001", {"authorization": "Bearer s3cret"}),
    ],
    ids=["url", "bare host", "bare host with extras", "token"],
)
def test_hook_reads_the_connection(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any], address: str, headers: dict[str, str]
) -> None:
    """A connection's URL, or host, port and extras, become an address; a password becomes a token that is never shown."""
    from airflow_triton.hooks.triton import TritonHook

    monkeypatch.setenv("AIRFLOW_CONN_T1", json.dumps({"conn_type": "triton", **connection}))

    found = TritonHook("t1").address

    assert (found.url, found.headers) == (address, headers)
    assert "s3cret" not in f"{found!r} {found}"


def test_hook_refuses_what_it_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection, no host and a wrong extra are errors that name the connection."""
    from airflow_triton.errors import SpecError
    from airflow_triton.hooks.triton import TritonHook

    monkeypatch.setenv("AIRFLOW_CONN_T2", json.dumps({"conn_type": "triton"}))
    monkeypatch.setenv("AIRFLOW_CONN_T3", json.dumps({"conn_type": "triton", "host": "h", "extra": {"protocol": "smtp"}}))
    for name, reason in (("t2", "has no host"), ("t3", "smtp"), ("t4", "no Airflow connection `t4`")):
        with pytest.raises(SpecError, match=reason):
            _ = TritonHook(name).address


def test_hook_tests_the_connection(monkeypatch: pytest.MonkeyPatch, triton: Any) -> None:
    """Airflow's test button tells whether the server is live, and why not."""
    from airflow_triton.hooks.triton import TritonHook
    from airflow_triton.local_triton import free_port

    monkeypatch.setenv("AIRFLOW_CONN_UP", json.dumps({"conn_type": "triton", "host": triton.grpc_url}))
    monkeypatch.setenv("AIRFLOW_CONN_DOWN", json.dumps({"conn_type": "triton", "host": f"http://127.0.0.1:{free_port()}"}))

    assert TritonHook("up").test_connection()[0]
    live, reason = TritonHook("down").test_connection()
    assert not live
    assert "did not answer" in reason
