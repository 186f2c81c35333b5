"""Triton's ModelConfig, the message in every config.pbtxt: built, merged, rendered, parsed and compared.

The rules of the dims come from Triton's sources (core: `model_config_utils.cc`; onnxruntime backend: `ValidateInputs`,
`ValidateOutputs`): dims are never empty; under batching they leave out the first axis, and a tensor that has nothing else is
`dims: [1] reshape {}`; without batching the core refuses an empty reshape, and a scalar is plain `dims: [1]`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton import config_files
from airflow_triton.errors import ModelConfigError
from airflow_triton.servable import Servable, TensorSpec

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from tritonclient.grpc.model_config_pb2 import ModelConfig

DEFAULT_MAX_BATCH_SIZE = 64
"""Rows that Triton may put into one execution of a model that batches, where the spec does not say."""

PLATFORMS = {
    "onnxruntime": "onnxruntime_onnx",
    "pytorch": "pytorch_libtorch",
    "tensorflow": "tensorflow_savedmodel",
    "tensorrt": "tensorrt_plan",
}
"""The older name, `platform`, of what each `backend` serves."""


def build(servable: Servable, *, name: str, version: int = 1, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """The config under which Triton serves the servable as the model `name`, with the spec's `overrides` merged over it.

    Guarantee: the same arguments give the same config, it survives `parse(render(...))` unchanged, and it has no
    `version_policy`. A servable that batches gets `max_batch_size` 64 (`DEFAULT_MAX_BATCH_SIZE`) and dims without the first
    axis; with `max_batch_size: 0` in the overrides that axis comes back as -1. A servable that does not batch gets 0 and
    its full shapes. `dynamic_batching` is there only if the overrides ask for it. A ready model keeps its own config, in which
    the files that lay beside config.pbtxt are named where they lie now: in the folder of `version`.

    Args:
        servable: what is served.
        name: the model's name on Triton.
        version: the version that the config is to serve; only a ready model's names of files depend on it.
        overrides: any field of ModelConfig but `version_policy`, which the pipeline owns; merged as `merge` says. The dims
            of an input or output in them are as Triton writes them, without a batch axis under batching.

    Raises:
        ModelConfigError: an override is unknown, of the wrong type, or contradicts the servable.

    """
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    changes = dict(overrides or {})
    if servable.config is not None:
        return _build_ready(servable, parse(servable.config, where="the model's own config.pbtxt"), name, version, changes)
    _refuse_contradictions(changes, servable, name, PLATFORMS.get(servable.backend, ""))
    batch = _max_batch_size(changes, servable)
    config = ModelConfig(
        name=name,
        backend=servable.backend,
        max_batch_size=batch,
        default_model_filename=servable.default_model_filename,
    )
    for specs, field in ((servable.inputs, config.input), (servable.outputs, config.output)):
        for spec in specs:
            _add_tensor(field, spec, batched=batch > 0)
    for key, value in servable.parameters.items():
        config.parameters[key].string_value = value.replace("{version}", str(version))
    return merge(merge(config, servable.settings), changes)


def render(config: ModelConfig) -> str:
    """The text of a config.pbtxt, in protobuf's own text format; equal configs give equal texts (map entries are sorted)."""
    from google.protobuf import text_format

    return text_format.MessageToString(config)


def parse(text: str, *, where: str = "config.pbtxt") -> ModelConfig:
    """The config that a text says.

    Raises:
        ModelConfigError: the text is no ModelConfig; the message starts with `where` and the line.

    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        line = error.GetLine()
        reason = str(error).split(" : ", 1)[-1]
        raise ModelConfigError(f"{where}{f', line {line}' if line else ''}: {reason}") from error


def merge(config: ModelConfig, overrides: Mapping[str, Any], *, where: str = "config") -> ModelConfig:
    """A copy of the config with the overrides merged over it.

    Nested messages merge; scalars and enums (by name or number) replace; `input` and `output` merge by their entries' names;
    any other repeated field is replaced as a whole; maps merge by key. `parameters: {key: "text"}` is short for
    `{key: {string_value: "text"}}`. A message without content (`dynamic_batching:` in YAML) is set, and empty.

    Raises:
        ModelConfigError: naming the key path below `where`, what came, and the closest valid names.

    """
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    merged = ModelConfig()
    merged.CopyFrom(config)
    _merge_message(merged, overrides, where)
    return merged


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Raise ModelConfigError for what no model could make right: an unknown field, a wrong type. Needs no model."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    merge(ModelConfig(), overrides)


def with_versions(config: ModelConfig, versions: Sequence[int]) -> ModelConfig:
    """A copy that serves exactly these versions (`version_policy.specific`), in ascending order."""
    changed = without_versions(config)
    changed.version_policy.specific.SetInParent()
    changed.version_policy.specific.versions.extend(sorted(set(versions)))
    return changed


def versions(config: ModelConfig) -> tuple[int, ...] | None:
    """The versions of the `specific` policy; None where the config has another policy or none."""
    if config.version_policy.WhichOneof("policy_choice") != "specific":
        return None
    return tuple(config.version_policy.specific.versions)


def without_versions(config: ModelConfig) -> ModelConfig:
    """A copy without `version_policy`: what two releases of a model can have in common."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    copy = ModelConfig()
    copy.CopyFrom(config)
    copy.ClearField("version_policy")
    return copy


def diff(old_text: str, new_text: str) -> str:
    """A unified diff of two configs as `render` writes them ("" if they are equal); a text that is no config is compared as is."""
    old, new = (_canonical(text).splitlines(keepends=True) for text in (old_text, new_text))
    return "".join(difflib.unified_diff(old, new, fromfile="old", tofile="new"))


def _canonical(text: str) -> str:
    try:
        return render(parse(text))
    except ModelConfigError:
        return text if text.endswith("\n") else f"{text}\n"


def _build_ready(servable: Servable, config: ModelConfig, name: str, version: int, changes: dict[str, Any]) -> ModelConfig:
    _refuse_contradictions(changes, servable, name, config.platform or PLATFORMS.get(servable.backend, ""))
    config.name = name
    if config.max_batch_size and "max_batch_size" in changes and not _max_batch_size(changes, servable):
        raise ModelConfigError(
            f"config.max_batch_size: got 0, but the model's own config.pbtxt batches ({config.max_batch_size}) and its dims are made for "
            "that; give a number from 1, or change the model's own"
        )
    if not config.max_batch_size:
        _max_batch_size({"max_batch_size": 0, **changes}, servable)

    def placed(path: str) -> str:
        return f"{version}/{path}" if config_files.holds(servable.beside, path) else path

    return config_files.renamed(merge(config, changes), placed)


def _refuse_contradictions(changes: dict[str, Any], servable: Servable, name: str, platform: str) -> None:
    if "version_policy" in changes:
        raise ModelConfigError(
            "config.version_policy is not yours to set: the pipeline writes it, for it decides which versions serve; "
            "leave it out (how many versions are kept is `promote.keep`)"
        )
    facts = {
        "name": name,
        "backend": servable.backend,
        "platform": platform,
        "default_model_filename": servable.default_model_filename,
    }
    for key, fact in facts.items():
        if key in changes and changes[key] != fact:
            raise ModelConfigError(f"config.{key}: got {changes[key]!r}, but the model is {fact!r}; leave it out")


def _max_batch_size(changes: Mapping[str, Any], servable: Servable) -> int:
    default = DEFAULT_MAX_BATCH_SIZE if servable.batching else 0
    asked = changes.get("max_batch_size", default)
    if isinstance(asked, bool) or not isinstance(asked, int) or not 0 <= asked < 2**31:
        raise ModelConfigError(f"config.max_batch_size: got {asked!r}; a whole number from 0 (no batching) to {2**31 - 1} is needed")
    if asked and not servable.batching:
        alone = [s for s in (*servable.inputs, *servable.outputs) if not s.shape or s.shape[0] != -1]
        why = (
            "these tensors have no variable first axis: " + ", ".join(f"{s.name} {list(s.shape)}" for s in alone)
            if alone
            else "the first axes of its tensors vary, but not as one batch axis, or its rows depend on each other"
        )
        raise ModelConfigError(f"config.max_batch_size: got {asked}, but the model cannot be batched: {why}; leave it out or set 0")
    return asked


def datatype_name(tensor: Any) -> str:
    """The data type of a tensor in a config as requests have it: `BYTES` for TYPE_STRING, else the name without `TYPE_`."""
    name: str = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    return "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")


def _add_tensor(field: Any, spec: TensorSpec, *, batched: bool) -> None:
    dims = spec.shape[1:] if batched else spec.shape
    tensor = field.add(name=spec.name, dims=dims or [1])
    names = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name
    tensor.data_type = names["TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"].number
    if batched and not dims:
        tensor.reshape.SetInParent()


def _merge_message(message: Message, overrides: Any, path: str) -> None:
    if overrides is None:
        overrides = {}
    if not isinstance(overrides, Mapping):
        raise ModelConfigError(f"{path}: got {overrides!r}; a mapping of {message.DESCRIPTOR.name}'s fields is needed")
    fields = message.DESCRIPTOR.fields_by_name
    chosen: dict[str, str] = {}
    for key, value in overrides.items():
        field = fields.get(key) if isinstance(key, str) else None
        if field is None:
            raise ModelConfigError(f"{path}.{key} is unknown; {_closest(str(key), fields)}")
        oneof = field.containing_oneof
        if oneof is not None and chosen.setdefault(oneof.name, key) != key:
            raise ModelConfigError(f"{path}: {chosen[oneof.name]} and {key} exclude each other; keep one")
        _merge_field(message, field, value, f"{path}.{key}")


def _merge_field(message: Message, field: Any, value: Any, path: str) -> None:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        _merge_map(getattr(message, field.name), kind.fields_by_name["value"], value, path)
    elif _is_repeated(field):
        _merge_repeated(message, field, value, path)
    elif kind is not None:
        nested = getattr(message, field.name)
        nested.SetInParent()
        _merge_message(nested, value, path)
    else:
        setattr(message, field.name, _scalar(field, value, path))


def _is_repeated(field: Any) -> bool:
    try:
        return bool(field.is_repeated)
    except AttributeError:  # protobuf before 6.31
        return bool(field.label == field.LABEL_REPEATED)


def _merge_map(entries: Any, field: Any, value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise ModelConfigError(f"{path}: got {value!r}; a mapping is needed")
    for key, entry in value.items():
        if not isinstance(key, str):
            raise ModelConfigError(f"{path}: the key {key!r} is no text; write it in quotes")
        if field.message_type is None:
            entries[key] = _scalar(field, entry, f"{path}.{key}")
            continue
        short = isinstance(entry, str) and set(field.message_type.fields_by_name) == {"string_value"}
        _merge_message(entries[key], {"string_value": entry} if short else entry, f"{path}.{key}")


def _merge_repeated(message: Message, field: Any, value: Any, path: str) -> None:
    if not isinstance(value, (list, tuple)):
        raise ModelConfigError(f"{path}: got {value!r}; a list is needed")
    entries = getattr(message, field.name)
    if field.message_type is None:
        items = [_scalar(field, item, f"{path}[{index}]") for index, item in enumerate(value)]
        del entries[:]
        entries.extend(items)
    elif field.name in ("input", "output") and len(entries):
        _merge_named(entries, value, path)
    else:
        del entries[:]
        for index, item in enumerate(value):
            _merge_message(entries.add(), item, f"{path}[{index}]")


def _merge_named(entries: Any, value: Sequence[Any], path: str) -> None:
    by_name = {entry.name: entry for entry in entries}
    for index, item in enumerate(value):
        name = item.get("name") if isinstance(item, Mapping) else None
        if name not in by_name:
            raise ModelConfigError(f"{path}[{index}]: `name` is {name!r}; {_closest(str(name), by_name)}")
        if "dims" in item and "reshape" not in item:
            by_name[name].ClearField("reshape")  # it was made for the dims that are replaced
        _merge_message(by_name[name], item, f"{path}[{index}]")


def _scalar(field: Any, value: Any, path: str) -> Any:
    if field.enum_type is not None:
        return _enum(field, value, path)
    kinds: dict[int, tuple[type, ...]] = {
        field.CPPTYPE_BOOL: (bool,),
        field.CPPTYPE_STRING: (str,),
        field.CPPTYPE_FLOAT: (int, float),
        field.CPPTYPE_DOUBLE: (int, float),
    }
    expected = kinds.get(field.cpp_type, (int,))
    if type(value) not in expected:
        hint = " (write it in quotes)" if expected == (str,) else ""
        raise ModelConfigError(f"{path}: got {value!r}; {' or '.join(kind.__name__ for kind in expected)} is needed{hint}")
    if expected == (int,):
        low, high = _limits(field)
        if not low <= value <= high:
            raise ModelConfigError(f"{path}: got {value}; a whole number from {low} to {high} is needed")
    return value.encode() if field.type == field.TYPE_BYTES else value


def _limits(field: Any) -> tuple[int, int]:
    bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    unsigned = field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
    return (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _enum(field: Any, value: Any, path: str) -> int:
    enum = field.enum_type
    if isinstance(value, str) and value in enum.values_by_name:
        return int(enum.values_by_name[value].number)
    if isinstance(value, int) and not isinstance(value, bool) and value in enum.values_by_number:
        return value
    raise ModelConfigError(f"{path}: got {value!r}; {_closest(str(value), enum.values_by_name)}")


def _closest(name: str, valid: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"valid are: {', '.join(sorted(valid))}"
