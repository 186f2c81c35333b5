"""Numbers and texts that come from a model or its data, in a form that JSON and a page can hold."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer


def _readable(value: object) -> object:
    """Write out what UTF-8 cannot hold: lone surrogates, which stand for bytes that were no UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _number(value: float) -> float | str:
    """JSON knows neither NaN nor infinities: they are written as texts, and read back."""
    return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


Text = Annotated[str, BeforeValidator(_readable)]
"""Any text."""

Number = Annotated[float, PlainSerializer(_number, return_type=float | str, when_used="json")]
"""Any number; in JSON one that is not finite is the text `NaN`, `Infinity` or `-Infinity`."""
