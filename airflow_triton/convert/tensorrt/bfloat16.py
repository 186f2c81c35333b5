"""BF16 and FP32: numpy has no bfloat16, and this package holds its values as float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def to_bfloat16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits of each value as bfloat16 (uint16), rounded to the nearest, ties to even; NaN stays NaN."""
    import numpy as np

    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded.astype(np.uint16))


def from_bfloat16(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values of bfloat16 bits (uint16) as float32; exact."""
    import numpy as np

    return (bits.astype(np.uint32) << 16).view(np.float32)
