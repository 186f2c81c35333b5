"""The config that Triton reads: how it is made of a servable, and how overrides change it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_triton import model_config
from airflow_triton.errors import ModelConfigError
from airflow_triton.servable import DataType, Servable, TensorSpec


def make(*, batching: bool = True, inputs: dict[str, Any] | None = None, outputs: dict[str, Any] | None = None) -> Servable:
    def specs(tensors: dict[str, Any]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=name, datatype=kind, shape=shape) for name, (kind, shape) in tensors.items())

    return Servable(
        backend="onnxruntime",
        default_model_filename="model.onnx",
        inputs=specs(inputs or {"x": ("FP32", (-1, 4))}),
        outputs=specs(outputs or {"label": ("BYTES", (-1,)), "probabilities": ("FP32", (-1, 3))}),
        batching=batching,
        flavor="onnx",
        converter="as-is",
    )


def build(servable: Servable | None = None, **overrides: Any) -> Any:
    return model_config.build(servable or make(), name="iris", overrides=overrides)


def test_a_batching_servable_gets_a_batch_size_and_dims_without_the_first_axis() -> None:
    """The default config is exactly this text."""
    expected = """\
name: "iris"
max_batch_size: 64
input {
  name: "x"
  data_type: TYPE_FP32
  dims: 4
}
output {
  name: "label"
  data_type: TYPE_STRING
  dims: 1
  reshape {
  }
}
output {
  name: "probabilities"
  data_type: TYPE_FP32
  dims: 3
}
default_model_filename: "model.onnx"
backend: "onnxruntime"
"""

    assert sorted(model_config.render(build()).splitlines()) == sorted(expected.splitlines())


def test_a_servable_without_batching_keeps_its_shapes() -> None:
    """Without batching the dims are the full shapes, and a scalar is [1] without the empty reshape that Triton refuses there."""
    config = build(make(batching=False, inputs={"x": ("INT64", ()), "y": ("FP32", (2, -1))}))

    assert config.max_batch_size == 0
    assert [list(entry.dims) for entry in config.input] == [[1], [2, -1]]
    assert not any(entry.HasField("reshape") for entry in (*config.input, *config.output))


def test_batch_size_0_brings_the_batch_axis_back() -> None:
    """Who turns batching off is given the full shapes."""
    config = build(max_batch_size=0)

    assert [list(entry.dims) for entry in (*config.input, *config.output)] == [[-1, 4], [-1], [-1, 3]]


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [(("FP32", (2, 4)), r"no variable first axis: x \[2, 4\]"), (("FP32", (-1, 4)), "its rows depend on each other")],
    ids=["fixed-axis", "dependent-rows"],
)
def test_a_batch_size_for_a_model_that_does_not_batch_is_refused(tensor: Any, reason: str) -> None:
    """The error names the tensors that do not share the axis."""
    with pytest.raises(ModelConfigError, match=reason):
        build(make(batching=False, inputs={"x": tensor}), max_batch_size=8)


@pytest.mark.parametrize("size", [-1, True, "8", 1.5, 2**31], ids=str)
def test_a_batch_size_that_is_none_is_refused(size: Any) -> None:
    """A whole number from 0 to int32's limit, and nothing else."""
    with pytest.raises(ModelConfigError, match=r"config\.max_batch_size"):
        build(max_batch_size=size)


def test_dynamic_batching_is_there_only_on_request() -> None:
    """An empty request, in YAML `dynamic_batching:`, is a request."""
    assert not build().HasField("dynamic_batching")
    assert build(dynamic_batching=None).HasField("dynamic_batching")
    assert build(dynamic_batching={}).HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"version_policy": {"latest": {}}}, "version_policy is not yours to set"),
        ({"name": "other"}, r"config\.name: got 'other', but the model is 'iris'"),
        ({"backend": "python"}, r"config\.backend: got 'python'"),
        ({"platform": "tensorrt_plan"}, r"config\.platform: got 'tensorrt_plan', but the model is 'onnxruntime_onnx'"),
        ({"default_model_filename": "m.onnx"}, r"config\.default_model_filename"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_overrides_that_contradict_the_pipeline_are_refused(overrides: dict[str, Any], message: str) -> None:
    """What the servable is, and which versions serve, no override decides."""
    with pytest.raises(ModelConfigError, match=message):
        build(**overrides)


def test_overrides_that_agree_are_allowed() -> None:
    """Saying what is true anyway changes nothing but `platform`, which is written."""
    assert build(name="iris", backend="onnxruntime") == build()
    assert build(platform="onnxruntime_onnx").platform == "onnxruntime_onnx"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"dynamic_batching": {"max_que_delay_microseconds": 1}},
            r"config\.dynamic_batching\.max_que_delay_microseconds is unknown; did you mean max_queue_delay_microseconds",
        ),
        ({"dynamic_batching": {"max_queue_delay_microseconds": "1"}}, r"microseconds: got '1'; int is needed"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": -1}}, "a whole number from 0 to 18446744073709551615"),
        ({"dynamic_batching": 5}, r"config\.dynamic_batching: got 5; a mapping of ModelDynamicBatching's fields is needed"),
        ({"instance_group": {"count": 1}}, r"config\.instance_group: got .*; a list is needed"),
        ({"instance_group": [{"kind": "KIND_GPUS"}]}, r"config\.instance_group\[0\]\.kind: got 'KIND_GPUS'; did you mean KIND_GPU"),
        ({"input": [{"name": "X", "optional": True}]}, r"config\.input\[0\]: `name` is 'X'; valid are: x"),
        ({"input": [{"name": "x", "optional": 1}]}, r"config\.input\[0\]\.optional: got 1; bool is needed"),
        ({"parameters": {"a": 1}}, r"config\.parameters\.a: got 1"),
        ({"cc_model_filenames": {8.0: "a.plan"}}, r"config\.cc_model_filenames: the key 8\.0 is no text; write it in quotes"),
        ({"metric_tags": {"a": 1}}, r"config\.metric_tags\.a: got 1; str is needed \(write it in quotes\)"),
        ({"dynamic_batching": {}, "sequence_batching": {}}, "dynamic_batching and sequence_batching exclude each other"),
        ({"response_cache": {"enable": "yes"}}, r"config\.response_cache\.enable: got 'yes'; bool is needed"),
        ({1: 2}, r"config\.1 is unknown"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_a_wrong_override_is_named_by_its_path(overrides: dict[Any, Any], message: str) -> None:
    """The key path, what came, and what would be right."""
    with pytest.raises(ModelConfigError, match=message):
        model_config.merge(build(), overrides)


def test_merge_goes_into_messages_and_maps_and_replaces_lists() -> None:
    """Messages and maps keep what the override does not name; lists are replaced; inputs and outputs are found by name."""
    base = build(
        dynamic_batching={"max_queue_delay_microseconds": 5, "preferred_batch_size": [4, 8]},
        parameters={"a": "1", "b": {"string_value": "2"}},
        instance_group=[{"count": 1}, {"count": 2}],
    )

    merged = model_config.merge(
        base,
        {
            "dynamic_batching": {"preferred_batch_size": [16]},
            "parameters": {"b": "3"},
            "instance_group": [{"kind": "KIND_CPU"}],
            "output": [{"name": "probabilities", "label_filename": "labels.txt"}],
        },
    )

    assert merged.dynamic_batching.max_queue_delay_microseconds == 5
    assert list(merged.dynamic_batching.preferred_batch_size) == [16]
    assert {key: value.string_value for key, value in merged.parameters.items()} == {"a": "1", "b": "3"}
    assert [(group.count, group.kind) for group in merged.instance_group] == [(0, 2)]
    assert [(entry.name, entry.label_filename) for entry in merged.output] == [("label", ""), ("probabilities", "labels.txt")]
    assert base == build(
        dynamic_batching={"max_queue_delay_microseconds": 5, "preferred_batch_size": [4, 8]},
        parameters={"a": "1", "b": "2"},
        instance_group=[{"count": 1}, {"count": 2}],
    )


def test_dims_of_ones_own_drop_the_reshape_that_was_made_for_the_old_ones() -> None:
    """An override of dims alone cannot leave a reshape that contradicts it."""
    config = build(output=[{"name": "label", "dims": [2]}])

    assert list(config.output[0].dims) == [2]
    assert not config.output[0].HasField("reshape")


def test_versions_are_written_read_and_taken_away() -> None:
    """`specific` lists the versions in ascending order, once each; other policies are none of ours."""
    config = build()

    assert model_config.versions(config) is None
    assert model_config.versions(model_config.with_versions(config, [7, 3, 7])) == (3, 7)
    assert model_config.versions(model_config.with_versions(config, [])) == ()
    assert model_config.without_versions(model_config.with_versions(config, [1])) == config
    assert model_config.versions(model_config.parse("version_policy { latest { num_versions: 1 } }")) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "a"\nmax_batch: 1', r"iris/config\.pbtxt, line 2: .*max_batch"),
        ('name: "a"\ninput {', r"iris/config\.pbtxt, line \d"),
        ("max_batch_size: 99999999999", r"iris/config\.pbtxt, line 1"),
    ],
    ids=["unknown-field", "unclosed", "out-of-range"],
)
def test_a_text_that_is_no_config_is_named_with_its_line(text: str, message: str) -> None:
    """The error starts with where the text came from."""
    with pytest.raises(ModelConfigError, match=message):
        model_config.parse(text, where="iris/config.pbtxt")


def test_diff_shows_changes_of_content_not_of_writing() -> None:
    """Two writings of one config do not differ; a changed value is one line out and one in; a broken text is compared too."""
    text = model_config.render(build())

    assert model_config.diff(text, text.replace("dims: 4", "dims: [4]  # four")) == ""
    changed = model_config.diff(text, model_config.render(build(max_batch_size=8))).splitlines()
    assert [line for line in changed if line[:2] in ("-m", "+m")] == ["-max_batch_size: 64", "+max_batch_size: 8"]
    assert "-}}}" in model_config.diff("}}}", text)


shapes = st.lists(st.one_of(st.just(-1), st.integers(1, 9)), max_size=3).map(tuple)
tensors = st.tuples(st.sampled_from(get_args(DataType)), shapes)
names = st.text(min_size=1, max_size=8).filter(lambda name: name.isprintable())


@settings(deadline=None, max_examples=60)
@given(
    inputs=st.dictionaries(names, tensors, min_size=1, max_size=3),
    outputs=st.dictionaries(names, tensors, min_size=1, max_size=3),
    batching=st.booleans(),
    parameters=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4),
)
def test_every_config_survives_its_text(inputs: Any, outputs: Any, batching: bool, parameters: dict[str, str]) -> None:  # noqa: FBT001
    """Whatever is built is valid for Triton's dims rules, survives render and parse, and renders the same every time."""
    if batching:
        inputs, outputs = ({n: (kind, (-1, *shape)) for n, (kind, shape) in group.items()} for group in (inputs, outputs))
    config = build(make(batching=batching, inputs=inputs, outputs=outputs), parameters=parameters)
    text = model_config.render(config)

    assert model_config.parse(text) == config
    assert model_config.render(model_config.parse(text)) == text
    assert model_config.render(build(make(batching=batching, inputs=inputs, outputs=outputs), parameters=parameters)) == text
    for entry, (_, shape) in zip((*config.input, *config.output), (*inputs.values(), *outputs.values()), strict=True):
        assert list(entry.dims) == list((shape[1:] if batching else shape) or [1])
        assert entry.HasField("reshape") == (batching and len(shape) == 1)


@settings(deadline=None, max_examples=40)
@given(delay=st.integers(0, 2**63), sizes=st.lists(st.integers(1, 64), max_size=3), parameters=st.dictionaries(names, names, max_size=3))
def test_merging_the_same_overrides_twice_changes_nothing_more(delay: int, sizes: list[int], parameters: dict[str, str]) -> None:
    """Merge is idempotent."""
    overrides = {
        "dynamic_batching": {"max_queue_delay_microseconds": delay, "preferred_batch_size": sizes},
        "parameters": parameters,
        "output": [{"name": "label", "label_filename": "l.txt"}],
    }
    once = model_config.merge(build(), overrides)

    assert model_config.merge(once, overrides) == once
