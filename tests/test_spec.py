import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_triton.errors import SpecError
from airflow_triton.spec import Spec, find_spec_files, is_url, json_schema, load_spec, load_specs, spec_from_mapping

DESIGN = """\
# dags/deployments/iris.yaml
name: iris                                # the model's name on Triton
model: models:/iris@challenger            # a version, an alias, "latest", or a runs:/ URI
convert:
  to: onnx                                # onnx | tensorrt | torchscript | python | as-is
  # tensorrt: {precision: fp16, profiles: {X: {min: [1, 4], opt: [16, 4], max: [64, 4]}}, queue: gpu}
config:                                   # any field of Triton's ModelConfig; merged over the generated one
  max_batch_size: 64
  dynamic_batching: {max_queue_delay_microseconds: 100}
repository: models/prod                   # or a folder
servers: [triton_default]                 # Airflow connection ids, or URLs
validate:
  parity: {rtol: 1.0e-4, atol: 1.0e-5}    # against the MLflow model on its own input example, unless `data` is given
  data: data/golden.parquet
  metrics: {accuracy: {min: 0.9}}         # against labels
promote:
  alias: champion                         # set in MLflow when it serves
  keep: 2                                 # versions kept for rollback
  approval: false                         # true: wait for a person, in Airflow
schedule: registry                        # when the registry's alias or version moves; or a cron expression; or none (by hand)
"""
MINIMAL = {"name": "iris", "model": "models:/iris/7"}


def made(**keys: Any) -> Spec:
    return spec_from_mapping({**MINIMAL, **keys}, folder="/specs")


def refused(**keys: Any) -> str:
    with pytest.raises(SpecError) as caught:
        made(**keys)
    return str(caught.value)


def written(folder: Path, text: str, name: str = "iris.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def refused_file(folder: Path, text: str, name: str = "iris.yaml") -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(written(folder, text, name))
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_design_example_is_read(tmp_path: Path) -> None:
    """The example of the documentation becomes a typed spec, its paths resolved against its own folder."""
    spec = load_spec(written(tmp_path, DESIGN))

    assert (spec.name, spec.model, spec.schedule) == ("iris", "models:/iris@challenger", "registry")
    assert spec.config["dynamic_batching"] == {"max_queue_delay_microseconds": 100}
    assert spec.repository == str(tmp_path / "models/prod")
    assert spec.servers == ("triton_default",)
    assert spec.validation.parity is not None
    assert spec.validation.parity.rtol == 1e-4
    assert spec.validation.data == str(tmp_path / "data/golden.parquet")
    assert spec.validation.metrics is not None
    assert spec.validation.metrics["accuracy"].min == 0.9
    assert (spec.promote.alias, spec.promote.keep, spec.promote.approval) == ("champion", 2, False)


def test_minimal_spec_has_the_documented_defaults() -> None:
    """A name and a model are enough."""
    assert made().to_mapping() == {
        **MINIMAL,
        "convert": {"to": "onnx"},
        "config": {},
        "validate": {
            "parity": {"rtol": 1e-4, "atol": 1e-5, "outputs": {}, "severity": "critical"},
            "label": "label",
            "seed": 0,
            "batch_size": 32,
            "concurrency": 8,
        },
        "promote": {"keep": 2, "keep_loaded": 0, "wave": 1, "approval": False},
    }


@pytest.mark.parametrize(
    "name", ["a", "7", "_a", "-a", "a.b-c_D.2", "n" * 200, "a--candidate"], ids=lambda name: name if len(name) < 20 else "200"
)
def test_name_is_accepted(name: str) -> None:
    """Every name that is one plain folder name is valid."""
    assert made(name=name).name == name


@pytest.mark.parametrize(
    "name",
    ["", ".a", "..", "a..b", "../x", "a/b", "a\\b", "ä", "a b", "a\n", "\u0661", "n" * 201, "a--candidate-7", "a\0b"],
    ids=lambda name: ascii(name) if len(name) < 20 else "201",
)
def test_name_is_refused(name: str) -> None:
    """A name that could leave its folder, or be taken for a candidate, is refused."""
    assert refused(name=name).startswith("<mapping>: name: ")


@given(st.text(max_size=220))
def test_any_accepted_name_stays_in_its_folder(name: str) -> None:
    """Whatever the text: it is refused, or it is one visible path component of plain characters."""
    try:
        made(name=name)
    except SpecError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", name)
    assert Path("/repository", name).resolve().parent == Path("/repository")
    assert not name.startswith(".")


@pytest.mark.parametrize(
    "uri", ["models:/iris/7", "models:/iris@prod-1", "models:/iris/latest", "models:/a.b.iris/1", "models:/my iris/1", "runs:/0af/a/b"]
)
def test_model_is_accepted(uri: str) -> None:
    """Every form that leads to one registered version is valid."""
    assert made(model=uri).model == uri


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("models:/m-0af1", "a logged model has no registry version"),
        ("models:/iris/Production", "MLflow gave stages up"),
        ("models:/iris", "valid: models:/NAME/VERSION"),
        ("models:/iris/0", "valid: "),
        ("models:/iris/07", "valid: "),
        ("models:/iris@", "valid: "),
        ("models://iris/1", "valid: "),
        ("runs:/0af", "valid: "),
        ("runs:/0af/../x", "valid: "),
        ("runs:/0af/", "valid: "),
        ("s3://bucket/model", "valid: "),
        ("iris", "runs:/RUN_ID/PATH"),
        ("", "valid: "),
    ],
)
def test_model_is_refused(uri: str, why: str) -> None:
    """Anything else is refused with the reason or the valid forms."""
    assert why in refused(model=uri)


@pytest.mark.parametrize(
    ("servers", "read"),
    [
        ("triton_default", ("triton_default",)),
        (["a", "b"], ("a", "b")),
        ("http://h", ("http://h:8000",)),
        ("https://H:443/", ("https://h:443",)),
        ("grpc://h", ("grpc://h:8001",)),
        ("grpcs://[::1]:65535", ("grpcs://[::1]:65535",)),
        ("dns+grpc://h", ("dns+grpc://h:8001",)),
        (["dns+grpcs://h", "dns+http://H"], ("dns+grpcs://h:8001", "dns+http://h:8000")),
    ],
    ids=str,
)
def test_servers_are_read(servers: Any, read: tuple[str, ...]) -> None:
    """One server or several, ids as they are, URLs with their port."""
    assert made(servers=servers).servers == read
    assert is_url(read[0]) == ("://" in read[0])


@pytest.mark.parametrize(
    "server",
    [
        *("", "h:8000", "a b", "ftp://h", "http://", "http://h:0", "http://h:65536", "http://h:x", "http://h:"),
        *("http://h/v2", "http://h?a=b", "http://h#a", "http://[::1", "http://h h", "http://a,b"),
        *("dns+https://h", "dns+ftp://h", "dns+grpc://h/v2", "dns+grpc://"),
    ],
)
def test_server_is_refused(server: str) -> None:
    """What is neither a connection id nor a plain URL is refused with the valid forms."""
    message = refused(servers=["ok", server])
    assert message.startswith("<mapping>: servers[1]: got ")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "keys",
    [
        {"servers": "http://user:s3cret@h:8000"},
        {"servers": "user:s3cret@h:8000"},
        {"servers": "http://h:8000?token=s3cret"},
        {"servers": "http://user:s3/cret@h"},
        {"repository": "s3://key:s3cret@bucket"},
        {"tracking_uri": "postgresql://user:s3cret@h/db"},
        {"validate": {"data": "s3://key:s3cret@bucket/a.csv"}},
        {"name": "https://user:s3cret@h"},
        {"control_mode": "https://user:s3cret@h"},
        {"https://user:s3cret@h": 1},
    ],
    ids=str,
)
def test_secrets_are_refused_and_not_shown(keys: dict[str, Any]) -> None:
    """Credentials in a URL are an error, and the error does not repeat them."""
    assert "cret" not in refused(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"nam": 1}, "nam: unknown key; valid: config, control_mode"),
        (
            {"validate": {"parity": {"rtoll": 1}}},
            "validate.parity.rtoll: unknown key; valid: argmax, atol, cosine, outputs, rtol, severity (did you mean rtol?)",
        ),
        ({"validate": {"parity": {"outputs": {"y": {"rtoll": 1}}}}}, "validate.parity.outputs.y.rtoll: unknown key; valid: atol, rtol"),
        ({"validate": {"parity": {"severity": "info"}}}, "validate.parity.severity: got 'info'; valid: critical, warning"),
        ({"validate": {"parity": {"cosine": 1.5}}}, "validate.parity.cosine: must be"),
        ({"validate": {"golden": {}}}, "validate.golden.data: this key is required"),
        ({"validate": {"golden": "a.txt"}}, "validate.golden.data: got 'a.txt'; a data file ends in"),
        ({"validate": {"golden": {"data": "a.jsonl", "atol": "x"}}}, "validate.golden.atol: expected a number, got 'x'"),
        ({"validate": {"latency": {}}}, "validate.latency: no limit given; valid: p50_ms, p95_ms, p99_ms, throughput, max_slowdown"),
        ({"validate": {"latency": {"p99": 1}}}, "validate.latency.p99: unknown key; valid: batch_size, concurrency, max_slowdown, p50_ms"),
        ({"validate": {"latency": {"p99_ms": 0}}}, "validate.latency.p99_ms: must be greater than 0"),
        ({"validate": {"latency": {"p99_ms": float("nan")}}}, "validate.latency.p99_ms: expected a finite number"),
        ({"validate": {"latency": {"p99_ms": 1, "requests": 0}}}, "validate.latency.requests: must be"),
        ({"validate": {"latency": None}}, "validate.latency: nothing (null) given"),
        ({"validate": {"expectations": None}}, "validate.expectations: nothing (null) given"),
        ({"validate": {"checks": {}}}, "validate.checks: no check given"),
        ({"validate": {"checks": {"mine": None}}}, "validate.checks.mine: expected a mapping, got nothing (null)"),
        ({"validate": {"checks": {"mine": {"severity": "low"}}}}, "validate.checks.mine.severity: got 'low'; valid: critical, warning"),
        ({"validate": {"sample": 0}}, "validate.sample: must be"),
        ({"validate": {"seed": -1}}, "validate.seed: must be"),
        ({"validate": {"concurrency": 0}}, "validate.concurrency: must be"),
        ({"validate": {"metrics": {"acuracy": {"min": 1}}}}, "validate.metrics.acuracy: unknown key; valid: accuracy, auc, f1,"),
        ({"validate": {"metrics": {"f1": {"mn": 1}}}}, "validate.metrics.f1.mn: unknown key; valid: function, lower_is_better, max"),
        (
            {"validate": {"data": "a.csv", "metrics": {"x": {"min": 1, "function": "x.py"}}}},
            "validate.metrics.x.function: got 'x.py'; a function is given as MODULE:NAME",
        ),
        (
            {"validate": {"data": "a.csv", "metrics": {"f1": {"min": 1, "lower_is_better": True}}}},
            "validate.metrics.f1.lower_is_better: this is known of the metrics that come with the package",
        ),
        ({"validate": {"data": "a.csv", "metrics": {"f1": {"max_drop": -1}}}}, "validate.metrics.f1.max_drop: must be"),
        ({"validate": {"data": "a.csv", "metrics": {"f1": {"min": True}}}}, "validate.metrics.f1.min: expected a number, got true"),
        (
            {"validate": {"data": "a.csv", "metrics": {"a b": {"min": 1, "function": "a:b"}}}},
            "validate.metrics.a b: a name is made of letters",
        ),
        ({"convert": {"to": "onx"}}, "convert.to: got 'onx'; valid: onnx, tensorrt, torchscript, python, as-is (did you mean onnx?)"),
        ({"name": 7}, "name: expected a string, got 7 (a number); put it in quotes"),
        ({"convert": "onnx"}, "convert: expected a mapping, got 'onnx'"),
        ({"validate": None}, "validate: expected a mapping, got nothing (null)"),
        ({"servers": {"a": 1}}, "servers: expected a list, got a mapping"),
        ({"servers": []}, "servers: the list is empty"),
        ({"servers": [{"server": "a"}]}, "servers[0].repository: this key is required"),
        ({"servers": [{"server": "a", "repo": "/b", "repository": "/b"}]}, "servers[0].repo: unknown key; valid: repository, server"),
        ({"servers": ["a", {"server": "http://h/x", "repository": "/b"}]}, "servers[1].server: got 'http://h/x'"),
        ({"servers": ["a", {"server": "a", "repository": "/b"}]}, "servers: named twice: a"),
        ({"servers": [1]}, "servers[0]: expected a string or a mapping, got 1 (a number); put it in quotes"),
        ({"promote": {"keep_loaded": 3}}, "promote.keep_loaded: 3 earlier versions cannot stay loaded where 2 are kept"),
        ({"promote": {"wave": 0}}, "promote.wave: "),
        ({"servers": ["http://h", "http://h:8000"]}, "servers: named twice: http://h:8000"),
        ({"config": []}, "config: expected a mapping, got a list"),
        ({"config": {"a": float("nan")}}, "config.a: expected a finite number"),
        ({"config": {"a": [b"x"]}}, "config.a[0]: expected plain JSON"),
        ({"config": {1: 2}}, "config.1: a key must be a string"),
        ({"config": {"name": "x"}}, "config.name: not allowed here"),
        ({"config": {"version_policy": {}}}, "config.version_policy: not allowed here"),
        ({"config": {"versionPolicy": {}}}, "config.versionPolicy: not allowed here"),
        ({"promote": {"keep": True}}, "promote.keep: expected an integer, got true (a boolean)"),
        ({"promote": {"keep": -1}}, "promote.keep: must be greater than or equal to 0, got -1"),
        ({"promote": {"approval": "yes"}}, "promote.approval: expected true or false, got 'yes'"),
        ({"promote": {"alias": "latest"}}, "promote.alias: got 'latest'"),
        ({"promote": {"alias": "v3"}}, "promote.alias: got 'v3'"),
        ({"validate": {"batch_size": 0}}, "validate.batch_size: must be"),
        ({"validate": {"parity": {"rtol": True}}}, "validate.parity.rtol: expected a number, got true"),
        ({"validate": {"parity": {"rtol": -1e-9}}}, "validate.parity.rtol: must be"),
        ({"validate": {"parity": None}}, "validate.parity: nothing (null) given"),
        ({"validate": {"metrics": None}}, "validate.metrics: nothing (null) given"),
        ({"validate": {"metrics": {}}}, "validate.metrics: no metric given"),
        ({"validate": {"data": "a.csv", "metrics": {"f1": {}}}}, "validate.metrics.f1: no limit given; valid: min, max, max_drop"),
        ({"validate": {"data": "a.csv", "metrics": {"f1": {"min": 2, "max": 1}}}}, "validate.metrics.f1: min 2 is above max 1"),
        ({"validate": {"metrics": {"f1": {"min": 1}}}}, "validate.metrics: metrics need `validate.data`"),
        ({"validate": {"label": "y"}}, "validate.label: `label` needs `validate.data`"),
        ({"validate": {"sample": 5}}, "validate.sample: `sample` needs `validate.data`"),
        ({"validate": {"seed": 5}}, "validate.seed: `seed` needs `validate.data`"),
        ({"validate": {"parity": False}}, "validate.parity: parity is off and no other check is declared"),
        ({"validate": {"parity": {"severity": "warning"}}}, "validate: every check only warns: nothing could reject a candidate"),
        (
            {"validate": {"parity": False, "checks": {"mine": {"severity": "warning"}}}},
            "validate: every check only warns: nothing could reject a candidate",
        ),
        ({"validate": {"data": "a.txt"}}, "validate.data: got 'a.txt'; a data file ends in one of: .parquet"),
        ({"convert": {"timeout_seconds": 0}}, "convert.timeout_seconds: must be greater than 0"),
        ({"convert": {"tensorrt": {}}}, "convert.tensorrt: these options need `to: tensorrt`"),
        ({"repository": "http://h/x"}, "repository: got 'http://h/x'; valid: a path, s3://"),
        ({"repository": ""}, "repository: got ''; expected a path"),
        ({"schedule": "registry"}, "schedule: models:/iris/7 always means the same version"),
    ],
    ids=lambda value: json.dumps(value, default=repr) if isinstance(value, dict) else "",
)
def test_mistake_is_named(keys: dict[str, Any], message: str) -> None:
    """A mistake is one line with the full key, what came and what is valid."""
    found = refused(**keys)
    assert found.startswith(f"<mapping>: {message}")
    assert len(found.splitlines()) == 1


def test_what_is_not_available_yet_is_refused_with_a_way_out() -> None:
    """What the pipeline cannot honour is never read and ignored."""
    message = refused(convert={"to": "tensorrt", "tensorrt": {"precision": "int8", "calibration": "s3://bucket/a.npz"}})
    assert "<mapping>: convert.tensorrt.calibration: a URL is not available yet; meanwhile: use a file" in message


@pytest.mark.parametrize(
    ("schedule", "read"),
    [
        (None, None),
        ("none", None),
        ("registry", "registry"),
        ("@daily", "@daily"),
        ("*/5  0-6 * JAN mon,fri", "*/5 0-6 * JAN mon,fri"),
        ("0 0 L * 5#2", "0 0 L * 5#2"),
    ],
)
def test_schedule_is_read(schedule: str | None, read: str | None) -> None:
    """The registry, a cron expression or nothing."""
    assert made(model="models:/iris@a", schedule=schedule).schedule == read


@pytest.mark.parametrize("schedule", ["", "* * * *", "* * * * * *", "@often", "daily", "None", "! * * * *"])
def test_schedule_is_refused(schedule: str) -> None:
    """Anything else is refused with what is valid."""
    assert "valid: registry, none, a cron expression" in refused(schedule=schedule)


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (False, False), ({}, True), ({"rtol": 0}, True)], ids=["true", "false", "empty", "zero"]
)
def test_parity_is_switched(value: Any, expected: bool) -> None:  # noqa: FBT001
    """Parity is on unless it is switched off in so many words."""
    validate = {"parity": value, "data": "/a.csv", "metrics": {"accuracy": {"min": 0.9}}}
    assert (made(validate=validate).validation.parity is not None) is expected


@pytest.mark.parametrize(
    ("uri", "read"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("mlruns", "/specs/mlruns"),
        ("sqlite:///mlflow.db", "sqlite:////specs/mlflow.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_tracking_uri_is_resolved(uri: str, read: str) -> None:
    """A folder or an SQLite file is relative to the spec, everything else stays as it is."""
    assert made(tracking_uri=uri).tracking_uri == read


def test_relative_path_without_a_file_is_refused() -> None:
    """A mapping has no folder, so that a relative path in it means nothing."""
    with pytest.raises(SpecError, match=r"^here: repository: got the relative path 'models', and there is no spec file"):
        spec_from_mapping({**MINIMAL, "repository": "models"}, where="here")
    assert spec_from_mapping({**MINIMAL, "repository": "/a/../models/"}).repository == "/models"


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    """One error has every problem of the file, each with its line, those of the writing and those of the meaning."""
    lines = refused_file(
        tmp_path,
        "name: ä\nmodel: models:/x/1\nvalidate:\n  parity:\n    rtoll: 1\n    atol: x\npromote:\n  keep: 1\n  keep: 2\n"
        "config:\n  version_policy: {}\nservers:\n  - ok\n  - http://h/x\n<<: {a: 1}\n",
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["iris.yaml:1", "name"],
        ["iris.yaml:5", "validate.parity.rtoll"],
        ["iris.yaml:6", "validate.parity.atol"],
        ["iris.yaml:9", "promote.keep"],
        ["iris.yaml:11", "config.version_policy"],
        ["iris.yaml:14", "servers[1]"],
        ["iris.yaml:15", "<<"],
    ]
    assert lines[3] == "iris.yaml:9: promote.keep: duplicate key; it is first on line 8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "iris.yaml: expected a mapping at the top, got nothing (null)"),
        ("- a", "iris.yaml:1: expected a mapping at the top, got a list"),
        ("a: [1\nb: 2", "iris.yaml:2: not valid YAML: while parsing a flow sequence"),
        ("a: 1\n---\nb: 1", "iris.yaml:2: a second document"),
        ("a: *b", "iris.yaml:1: not valid YAML: found undefined alias"),
        ('\na: "\x01"', "iris.yaml:2: the character '\\x01' is not allowed"),
        ("\na: &x [*x]", "iris.yaml:2: a[0][0]: too large"),
        ("a: " + "[" * 3000 + "]" * 3000, "iris.yaml:1: a[0][0]: too large"),
        ("a: !!python/object:os.system x", "iris.yaml:1: a: the YAML tag !!python/object:os.system is not supported"),
        ("{[a]: 1}", "iris.yaml:1: a key must be a word"),
        ("model: models:/a/1", "iris.yaml:1: name: this key is required"),
    ],
    ids=["empty", "list", "syntax", "two-documents", "alias", "character", "recursive", "deep", "tag", "key", "missing"],
)
def test_broken_yaml_is_located(tmp_path: Path, text: str, message: str) -> None:
    """A file that cannot be read as a spec at all says where and why."""
    assert refused_file(tmp_path, text)[0].startswith(message)


def test_alias_bomb_is_refused(tmp_path: Path) -> None:
    """Aliases that expand to millions of values are stopped early."""
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}' if i else '1'] * 10)}]" for i in range(9)]
    assert "too large" in refused_file(tmp_path, "\n".join(levels))[0]


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    """A number without a dot is a number, one with a leading zero or a colon is not, and a key is as written."""
    text = "name: a\nmodel: models:/a/1\nconfig: {a: 1e-4, b: 010, c: 1:30, d: 2020-01-01, 8.90: 0, on: off}\n"
    config = load_spec(written(tmp_path, text)).config
    assert config == {"a": 1e-4, "b": "010", "c": "1:30", "d": "2020-01-01", "8.90": 0, "on": False}


def test_json_is_read(tmp_path: Path) -> None:
    """JSON may be indented with tabs and escape what it likes."""
    spec = load_spec(written(tmp_path, '{\n\t"name":"a",\n\t"model":"models:\\/a/1","config":{"s":"\\ud83d\\ude00"}\n}', "a.json"))
    assert (spec.model, spec.config) == ("models:/a/1", {"s": "\U0001f600"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "a"\n"model": "b"}', "a.json:2: not valid JSON: "),
        ("name: a", "a.json:1: not valid JSON: "),
        ('{"name": "a", "model": "models:/a/1",\n"name": "b"}', "a.json:2: name: duplicate key; it is first on line 1"),
        ('{"name": "a", "model": "models:/a/1",\n"convert": {"timeout_seconds": NaN}}', "a.json:2: convert.timeout_seconds: expected"),
    ],
    ids=["comma", "yaml", "duplicate", "nan"],
)
def test_broken_json_is_located(tmp_path: Path, text: str, message: str) -> None:
    """JSON gets the same errors, with lines."""
    assert refused_file(tmp_path, text, "a.json")[0].startswith(message)


def test_file_that_cannot_be_read_is_a_spec_error(tmp_path: Path) -> None:
    """A missing file, a folder in its place and other encodings are problems of the declaration."""
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4")
    for name, reason in (("none.yaml", "no such file"), (".", "cannot be read"), ("latin.yaml", "cannot be read: not UTF-8")):
        with pytest.raises(SpecError, match=reason):
            load_spec(tmp_path / name)


def test_folder_is_read_in_order(tmp_path: Path) -> None:
    """The spec files directly in the folder, sorted, each once even if it is named again."""
    for name in ("b.yml", "a.yaml", "c.json", ".hidden.yaml", "notes.txt"):
        written(tmp_path, json.dumps({**MINIMAL, "name": name[0]}), name)
    written(tmp_path, "x: 1", "notes.md")
    (tmp_path / "below.yaml").mkdir()

    assert find_spec_files(tmp_path) == [f"{tmp_path}/{name}" for name in ("a.yaml", "b.yml", "c.json")]
    assert [spec.name for spec in load_specs([tmp_path / "c.json", tmp_path])] == ["c", "a", "b"]
    assert [spec.name for spec in load_specs(str(tmp_path / "a.yaml"))] == ["a"]


def test_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    """Broken files, missing paths, empty folders and a name that is taken are reported together."""
    for name in ("a.yaml", "b.yaml"):
        written(tmp_path, json.dumps(MINIMAL), name)
    written(tmp_path, "name: x\n", "c.yaml")
    (tmp_path / "empty").mkdir()

    with pytest.raises(SpecError) as caught:
        load_specs([tmp_path, tmp_path / "empty", tmp_path / "none"])

    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        "b.yaml: name: the name iris is taken by a.yaml",
        "c.yaml:1: model: this key is required",
        "empty: no spec in this folder: none of its files ends in .yaml, .yml or .json",
        "none: no such file",
    ]
    with pytest.raises(SpecError, match="cannot be read as a folder"):
        find_spec_files(tmp_path / "none")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"validate": {"parity": False, "data": "/a.csv", "metrics": {"mae": {"max": 1}}}, "schedule": "none"},
        {"config": {"a": None, "b": [1, 2.5, {"c": True}]}, "repository": "r", "servers": "grpc://h", "tracking_uri": "sqlite:///m.db"},
        {"model": "models:/a@b", "schedule": "registry", "promote": {"alias": "c", "keep": 0}, "convert": {"to": "as-is"}},
        {"validate": {"data": "a.npz", "label": "y", "metrics": {"rmse": {"max": 2}, "r2": {"min": 0.5}}}},
        {
            "validate": {
                "parity": {"severity": "warning", "cosine": 0.9, "argmax": 1, "outputs": {"y": {"rtol": 0}}},
                "data": "a.csv",
                "sample": 5,
                "seed": 1,
                "golden": "golden.jsonl",
                "latency": {"p99_ms": 20, "throughput": 100, "max_slowdown": 1.5, "batch_size": 8, "warm_up": 0, "severity": "warning"},
                "expectations": "suite.yaml",
                "metrics": {
                    "f1": {"max_drop": 0.01, "severity": "warning"},
                    "cost": {"function": "a.b:c", "lower_is_better": True, "max": 3},
                },
                "checks": {"mine": {"limit": 3, "severity": "warning"}},
            }
        },
    ],
    ids=["minimal", "parity-off", "config", "registry", "metrics", "every check"],
)
def test_mapping_makes_an_equal_spec(keys: dict[str, Any]) -> None:
    """A spec survives the way through JSON, and its mapping can be changed without changing it."""
    spec = made(**keys)
    mapping = spec.to_mapping()
    again = spec_from_mapping(json.loads(json.dumps(mapping)))
    assert again == spec == spec_from_mapping(json.loads(json.dumps(spec.written())))
    assert again.digest() == spec.digest()
    mapping["config"]["x"] = mapping["validate"]["x"] = 1
    assert spec == again


def test_digest_is_of_what_decides_the_deployment(tmp_path: Path) -> None:
    """Order, comments, written-out defaults, schedule and time limits do not matter; everything else does."""
    spec = load_spec(written(tmp_path, DESIGN))
    turned = dict(reversed(spec.to_mapping().items()))
    same = [turned, turned | {"schedule": "@daily"}, turned | {"convert": {"timeout_seconds": 1}}]
    other = [turned | {key: value} for key, value in {"name": "x", "config": {}, "repository": "/x", "validate": {}}.items()]

    assert re.fullmatch(r"[0-9a-f]{64}", spec.digest())
    assert {spec_from_mapping(mapping).digest() for mapping in same} == {spec.digest()}
    assert spec.digest() not in {spec_from_mapping(mapping).digest() for mapping in other}


def test_schema_agrees_with_the_model() -> None:
    """The published schema takes what the loader takes, refuses the same shapes, and describes every key."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    good: list[dict[str, Any]] = [*schema["examples"], {**MINIMAL, "servers": "a", "schedule": None}]
    bad: list[dict[str, Any]] = [{"name": "a"}, *({**MINIMAL, **keys} for keys in ({"x": 1}, {"name": ".a"}, {"name": ""}, {"model": "x"}))]
    mine = {"x": {"min": 1, "function": "a:b"}, "f1": {"max_drop": 0}}
    good += [{**MINIMAL, "validate": {"data": "/a.csv", "metrics": mine, "golden": "/a.jsonl", "checks": {"mine": {"a": 1}}}}]
    refused = [{"metrics": None}, {"parity": {"rtol": -1}}, {"metrics": {"x": {"min": 1}}}, {"golden": {"dat": "/a.jsonl"}}, {"golden": 1}]
    refused += [{"latency": {"p99_ms": 0}}, {"expectations": {"context": "/a"}}, {"checks": {"mine": 1}}, {"parity": {"severity": "low"}}]
    bad += [{**MINIMAL, "validate": keys} for keys in refused]

    assert all(check.is_valid(each) and spec_from_mapping(each) for each in good)
    for each in bad:
        assert not check.is_valid(each), each
        with pytest.raises(SpecError):
            spec_from_mapping(each)
    sections = [schema, *schema["$defs"].values()]
    assert all(field.get("description") for section in sections for field in section["properties"].values())


def test_reference_page_has_every_key_and_its_example_loads(tmp_path: Path) -> None:
    """The page names every key, and its example is a valid spec."""
    page = (Path(__file__).parent.parent / "docs/reference/spec.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9_.*]+)` \|(.*)$", page, re.MULTILINE))
    schema = json_schema()

    def keys(section: dict[str, Any], above: str) -> list[str]:
        found = []
        for key, field in section["properties"].items():
            below = re.search(r"#/\$defs/(\w+)", json.dumps(field))
            if below is None or below[1] == "Profile":
                found.append(above + key)
            else:
                found += keys(
                    schema["$defs"][below[1]], f"{above}{key}." + ("*." if key in ("metrics", "gpus", "servers", "outputs") else "")
                )
        return found

    assert set(keys(schema, "")) <= set(rows)
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert example
    assert load_spec(written(tmp_path, example[1])).schedule == "registry"


def test_import_is_light() -> None:
    """Reading a spec pulls in nothing heavy: it happens each time that Airflow parses the DAG file."""
    code = "import sys, airflow_triton.spec; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"airflow", "mlflow", "numpy", "pandas", "tritonclient", "onnx"} & set(loaded)
