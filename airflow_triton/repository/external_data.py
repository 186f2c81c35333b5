"""The external data of an ONNX file: the weights that lie in files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.content import check_relative, shown


def check_external_data(path: Path) -> None:
    """Check that every data file which the graph names lies in the folder of `path`; nothing is checked where onnx is not installed.

    Cost: reads the graph, and the weights that are inside the file; no data file.

    Raises:
        RepositoryError: a data file is missing, or lies elsewhere; or `path` is no ONNX file.

    """
    if find_spec("onnx") is None:
        return
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise RepositoryError(f"{shown(path)} is no ONNX file: {error}") from None
    for location in sorted(set(locations(graph))):
        try:
            check_relative(location)
        except RepositoryError as error:
            raise RepositoryError(f"{shown(path)} has external data elsewhere: {error}") from None
        if not (path.parent / location).is_file():
            raise RepositoryError(
                f"{shown(path)}: its external data {location!r} is not beside it; put it there (both into a folder `model.onnx/`)"
            )


def locations(message: Any) -> Iterator[str]:
    """The external files of every tensor anywhere in an ONNX message (weights, attributes, subgraphs, functions)."""
    import onnx

    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in value if isinstance(value, Sequence) else [value]:
            if isinstance(item, onnx.TensorProto):
                yield from (entry.value for entry in item.external_data if entry.key == "location")
            else:
                yield from locations(item)
