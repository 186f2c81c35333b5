"""What the local Triton can be installed with on top: the libraries of backends that are too large for everyone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, cast, get_args

from airflow_triton.errors import LocalTritonError

Extra: TypeAlias = Literal["torch", "tensorflow"]
EXTRAS: tuple[Extra, ...] = get_args(Extra)

_NEEDED: dict[str, Extra] = {
    "pytorch": "torch",
    "pytorch_libtorch": "torch",
    "tensorflow": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
}
"""Of the names of Triton's backends and platforms, those whose stand-in needs an extra."""


def extras_for(*names: str) -> frozenset[Extra]:
    """What a model's config needs, told its `backend` and its `platform` (either may be "")."""
    return frozenset(_NEEDED[name] for name in names if name in _NEEDED)


def checked(with_: Iterable[str], *, torch: bool = False) -> frozenset[Extra]:
    """The extras as a set; `torch` is the older way to ask for that one.

    Raises:
        LocalTritonError: there is no such extra.

    """
    wanted = {*with_, *(("torch",) if torch else ())}
    if unknown := wanted - set(EXTRAS):
        raise LocalTritonError(f"The local Triton cannot be installed with {', '.join(sorted(unknown))}; valid: {', '.join(EXTRAS)}.")
    return frozenset(cast("set[Extra]", wanted))
