"""The files that a config.pbtxt names, which Triton looks for below the model's folder and not in a version's.

All versions share the model's folder, and a published version never changes. So such a file is published inside its version, and
the config that lets version 7 serve says `7/labels.txt`: the real Triton takes that for label files and for parameters. Warm-up
data and initial states cannot move: Triton puts `warmup/` or `initial_state/` before their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_IN_PARAMETER = re.compile(r"(\$\$TRITON_MODEL_DIRECTORY/)([^\s:;,\"']+)")
"""A path below the model's folder in a parameter, such as EXECUTION_ENV_PATH of the Python backend."""


def movable(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Every file (or folder) whose name may be another: the field that names it, and its path below the model's folder."""
    for tensor in config.output:
        if tensor.label_filename:
            yield f"output {tensor.name!r}, label_filename", tensor.label_filename
    for key, parameter in sorted(config.parameters.items()):
        for match in _IN_PARAMETER.finditer(parameter.string_value):
            yield f"parameters {key!r}", match[2].rstrip("/")


def fixed(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Every file that can only lie where Triton looks for it: the field that names it, and its path below the model's folder."""
    for warmup in config.model_warmup:
        for key, tensor in sorted(warmup.inputs.items()):
            if tensor.input_data_file:
                yield f"model_warmup {warmup.name!r}, input {key!r}, input_data_file", f"warmup/{tensor.input_data_file}"
    for state in config.sequence_batching.state:
        for initial in state.initial_state:
            if initial.data_file:
                yield f"initial_state {initial.name!r}, data_file", f"initial_state/{initial.data_file}"


def renamed(config: ModelConfig, rename: Callable[[str], str]) -> ModelConfig:
    """A copy of the config in which every movable file has the name that `rename` makes of its path."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    copy = ModelConfig()
    copy.CopyFrom(config)
    for tensor in copy.output:
        if tensor.label_filename:
            tensor.label_filename = rename(tensor.label_filename)
    for parameter in copy.parameters.values():
        parameter.string_value = _IN_PARAMETER.sub(lambda match: match[1] + rename(match[2]), parameter.string_value)
    return copy


def holds(files: Collection[str], path: str) -> bool:
    """Whether the path is one of the files, or a folder with some of them."""
    path = path.rstrip("/")
    return path in files or any(file.startswith(f"{path}/") for file in files)
