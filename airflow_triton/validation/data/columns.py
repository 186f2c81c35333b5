"""The columns of a table as plain arrays, whatever pandas made of them."""

from __future__ import annotations

from decimal import Decimal
from numbers import Number
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def plain(column: pd.Series[Any]) -> np.ndarray[Any, Any] | None:
    """The column as numbers, booleans, times without a zone (in UTC) or texts; None for one whose cells hold several values.

    A missing number or boolean is NaN (and the others become floats), a missing time is NaT, a missing text None.
    """
    import numpy as np
    import pandas as pd

    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    values: np.ndarray[Any, Any] = column.to_numpy()
    if values.dtype.kind in "biufMm":
        return values
    given = values.astype(object)
    if any(isinstance(value, (list, tuple, dict, np.ndarray)) for value in given):
        return None
    missing = np.asarray(pd.isna(given))
    known = given[~missing]
    if len(known) and all(isinstance(value, (Number, Decimal, np.bool_)) for value in known):
        numbers = np.full(len(given), np.nan)
        numbers[~missing] = [float(value) for value in known]
        return numbers
    texts = np.full(len(given), None, dtype=object)
    texts[~missing] = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in known]
    return texts


def stacked(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """The column as an array, its cells as further axes where they hold several values each, all of one shape."""
    import numpy as np

    found = plain(column)
    return np.stack([np.asarray(value) for value in column]) if found is None else found
