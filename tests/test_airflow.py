"""The provider in a real Airflow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("mlflow", "torch", "onnx", "onnxruntime", "great_expectations", "tritonclient", "pandas", "numpy", "sklearn")


@pytest.mark.parametrize(
    "module",
    ["airflow_triton.dag_factory", "airflow_triton.operators.steps", "airflow_triton.operators.deploy", "airflow_triton.hooks.triton"],
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


def test_airflow_lists_the_provider_and_its_connection_type(tmp_path: Path) -> None:
    """`airflow providers` knows the provider, and the connection type with its hook."""
    told = _airflow(tmp_path, "providers", "list", "-o", "json")
    assert "airflow-provider-triton" in {row["package_name"] for row in json.loads(told)}
    hooks = {row["connection_type"]: row for row in json.loads(_airflow(tmp_path, "providers", "hooks", "-o", "json"))}
    assert hooks["triton"]["class"] == "airflow_triton.hooks.triton.TritonHook"


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
    """What a real DagBag makes of the three-line DAG file over these specs: no connection, no registry, no server is there."""
    folder = tmp_path / "dags" / "deployments"
    folder.mkdir(parents=True)
    (folder.parent / "file.py").write_text((ROOT / "dags" / "deployments.py").read_text())
    for name, text in specs.items():
        (folder / f"{name}.yaml").write_text(text)
    code = f"""
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(folder.parent)!r})
print(json.dumps({{"errors": bag.import_errors, "warnings": str(bag.captured_warnings), "dags": {{
    dag.dag_id: {{"tasks": [task.task_id for task in dag.topological_sort()], "tags": sorted(dag.tags), "doc": dag.doc_md,
                 "schedule": str(dag.schedule), "operators": [type(task).__name__ for task in dag.topological_sort()]}}
    for dag in bag.dags.values()}}}}))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment(tmp_path), timeout=120)
    return dict(json.loads(told.stdout.splitlines()[-1]))


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
    assert told["dags"]["deploy_c"]["schedule"] == "0:05:00"
    for broken, reason in (("b", "b.yaml:2: modell: unknown key"), ("d", "d.yaml:2: not valid YAML"), ("e", "another spec")):
        assert told["dags"][f"deploy_{broken}"]["tags"] == ["broken spec", "triton"]
        assert reason in told["dags"][f"deploy_{broken}"]["doc"]
        assert reason in told["warnings"]


def test_shipped_dags_parse(tmp_path: Path) -> None:
    """The DAGs of `dags/` are whole as they are."""
    specs = {path.stem: path.read_text() for path in (ROOT / "dags" / "deployments").glob("*.yaml")}

    told = parsed(tmp_path, **specs)

    assert told["errors"] == {}
    assert all("broken spec" not in dag["tags"] for dag in told["dags"].values())
    assert "deploy_digits" in told["dags"]


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
