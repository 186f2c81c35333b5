"""How far two models agree: the figures of each output over one or more runs, and where they are furthest apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, computed_field

from airflow_triton.tensors import plain_texts

if TYPE_CHECKING:
    import numpy as np

FIGURES = 6
"""Significant digits of a figure: enough to compare, short enough to read."""

EXACT = 9
"""Significant digits of a value that is apart from another: two FP32 numbers that differ have different ones."""


class OutputAgreement(BaseModel):
    """One output over all runs.

    `max_abs` and `max_rel` are the largest |got - expected| and |got - expected| / |expected| (expected 0 left out) among the
    elements that are finite on both sides. `cosine` is the smallest cosine similarity of a run's flattened outputs;
    `argmax` the share of rows whose largest element is in the same place (outputs of two axes or more, of two columns or more).
    `nan` and `infinite` count the elements that are so on either side. `apart` of `elements` are out of tolerance; the worst of
    them is in row `row` of the run `case`, where `got` came and `expected` should have.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    elements: int = 0
    apart: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    cosine: float | None = None
    argmax: float | None = None
    nan: int = 0
    infinite: int = 0
    case: str | None = None
    row: int | None = None
    got: str | None = None
    expected: str | None = None

    @property
    def problem(self) -> str:
        """What is wrong with the output, and in which row; "" if nothing is."""
        if not self.apart:
            return "" if self.elements else f"the output {self.name!r} gave no element to compare"
        where = f"worst in row {self.row} of {self.case}: {self.got} instead of {self.expected}"
        return f"the output {self.name!r} is out of tolerance in {self.apart} of {self.elements} elements ({where})"


class Agreement(BaseModel):
    """Two models over a number of runs. `runs` says how many rows each run had, `left_out` why a run was not held against them."""

    model_config = ConfigDict(frozen=True)

    rtol: float
    atol: float
    runs: dict[str, int]
    left_out: dict[str, str] = {}
    outputs: tuple[OutputAgreement, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether something was compared, and all of it is within tolerance."""
        return bool(self.runs) and bool(self.outputs) and not any(output.problem for output in self.outputs)

    @property
    def figures(self) -> dict[str, float]:
        """The figures by output and name, such as `label.apart`."""
        names = ("elements", "apart", "max_abs", "max_rel", "cosine", "argmax", "nan", "infinite")
        told = {f"{output.name}.{name}": getattr(output, name) for output in self.outputs for name in names}
        return {name: float(value) for name, value in told.items() if value is not None}

    @property
    def summary(self) -> str:
        """One line: what is wrong, or how close they are."""
        if problems := [output.problem for output in self.outputs if output.problem]:
            return f"{'; '.join(problems)} (tolerance {self.atol:g} + {self.rtol:g} x expected)"
        if not self.runs or not self.outputs:
            return f"nothing could be compared ({'; '.join(f'{run}: {why}' for run, why in self.left_out.items()) or 'no output'})"
        worst = max(output.max_abs for output in self.outputs)
        return f"largest difference {worst:.2g} over {sum(self.runs.values())} rows of {len(self.runs)} runs"


class Comparison:
    """Collects runs: `add` each, then ask for the `agreement`.

    Tolerance: floating-point elements must satisfy |got - expected| <= atol + rtol * |expected| (numpy's `allclose`), NaN standing
    for NaN and an infinity for the same infinity; all others must be equal. Another shape, or an output that is missing, puts every
    element of it out of tolerance.
    """

    def __init__(self, *, rtol: float, atol: float, outputs: Mapping[str, tuple[float, float]] | None = None) -> None:
        """`outputs`: another (rtol, atol) for single outputs, by name."""
        self.rtol = rtol
        self.atol = atol
        self._own = outputs or {}
        self._runs: dict[str, int] = {}
        self._left_out: dict[str, str] = {}
        self._outputs: dict[str, list[OutputAgreement]] = {}

    def add(
        self, case: str, got: Mapping[str, np.ndarray[Any, Any]], expected: Mapping[str, np.ndarray[Any, Any]], *, start: int = 0
    ) -> None:
        """One run, or a part of it: the outputs of both, from row `start` on."""
        rows = max((len(array) if array.ndim else 1 for array in expected.values()), default=0)
        self._runs[case] = self._runs.get(case, 0) + rows
        for name, wanted in expected.items():
            found = self._one(name, case, got.get(name), wanted)
            moved = found if found.row is None else found.model_copy(update={"row": found.row + start})
            self._outputs.setdefault(name, []).append(moved)

    def leave_out(self, case: str, why: str) -> None:
        """A run that is not held against the models."""
        self._left_out[case] = why

    @property
    def agreement(self) -> Agreement:
        """What was found."""
        outputs = tuple(_joined(found) for found in self._outputs.values())
        return Agreement(rtol=self.rtol, atol=self.atol, runs=self._runs, left_out=self._left_out, outputs=outputs)

    def _one(self, name: str, case: str, got: np.ndarray[Any, Any] | None, expected: np.ndarray[Any, Any]) -> OutputAgreement:
        import numpy as np

        if got is None or got.shape != expected.shape:
            came = "nothing" if got is None else f"the shape {list(got.shape)}"
            count = max(1, expected.size)
            return OutputAgreement(
                name=name, elements=count, apart=count, case=case, row=0, got=came, expected=f"the shape {list(expected.shape)}"
            )
        if expected.dtype.kind != "f" or got.dtype.kind not in "biuf":
            wrong = plain_texts(got) != plain_texts(expected)
            return OutputAgreement(name=name, elements=expected.size, **self._worst(case, got, expected, wrong, wrong))
        left, right = got.astype(np.float64), expected.astype(np.float64)
        rtol, atol = self._own.get(name, (self.rtol, self.atol))
        with np.errstate(all="ignore"):
            difference = np.where(left == right, 0.0, np.minimum(np.abs(left - right), np.finfo(np.float64).max))  # JSON has no infinity
            finite = np.isfinite(left) & np.isfinite(right)
            near = finite & (difference <= atol + rtol * np.abs(right))
            fine = near | (left == right) | (np.isnan(left) & np.isnan(right))
            relative = difference / np.abs(right)
        return OutputAgreement(
            name=name,
            elements=expected.size,
            max_abs=_largest(difference[finite]),
            max_rel=_largest(relative[finite & (right != 0)]),
            cosine=_cosine(left[finite], right[finite]),
            argmax=_argmax(left, right),
            nan=int(np.sum(np.isnan(left) | np.isnan(right))),
            infinite=int(np.sum(np.isinf(left) | np.isinf(right))),
            **self._worst(case, got, expected, ~fine, np.where(fine, -1.0, np.where(np.isfinite(difference), difference, np.inf))),
        )

    @staticmethod
    def _worst(case: str, got: Any, expected: Any, wrong: Any, badness: Any) -> dict[str, Any]:
        import numpy as np

        apart = int(np.sum(wrong))
        if not apart:
            return {}
        index = np.unravel_index(int(np.argmax(np.asarray(badness, dtype=np.float64))), expected.shape) if expected.ndim else ()
        row = int(index[0]) if index else 0
        return {"apart": apart, "case": case, "row": row, "got": _shown(got[index]), "expected": _shown(expected[index])}


def _joined(found: list[OutputAgreement]) -> OutputAgreement:
    """One output over all its runs; where it is apart, the first run that is tells where."""
    first = next((output for output in found if output.apart), found[0])
    cosines = [output.cosine for output in found if output.cosine is not None]
    shares = [output.argmax for output in found if output.argmax is not None]
    return first.model_copy(
        update={
            "elements": sum(output.elements for output in found),
            "apart": sum(output.apart for output in found),
            "max_abs": max(output.max_abs for output in found),
            "max_rel": max(output.max_rel for output in found),
            "cosine": min(cosines, default=None),
            "argmax": min(shares, default=None),
            "nan": sum(output.nan for output in found),
            "infinite": sum(output.infinite for output in found),
        }
    )


def _largest(values: np.ndarray[Any, Any]) -> float:
    return float(f"{float(values.max()):.{FIGURES}g}") if values.size else 0.0


def _cosine(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float | None:
    import numpy as np

    def product(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> float:
        return float(np.einsum("i,i->", one, two))  # not `@`: BLAS starts threads, which take the machine from the server that is asked

    with np.errstate(all="ignore"):
        lengths = product(left, left) ** 0.5 * product(right, right) ** 0.5
    return float(f"{product(left, right) / lengths:.{FIGURES + 3}g}") if lengths and np.isfinite(lengths) else None


def _argmax(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float | None:
    import numpy as np

    if right.ndim < 2 or right.shape[-1] < 2 or not right.size:  # noqa: PLR2004 - rows, of two columns at least
        return None
    return float(np.mean(left.argmax(axis=-1) == right.argmax(axis=-1)))


def _shown(value: Any) -> str:
    plain = value.item() if hasattr(value, "item") else value
    text = f"{plain:.{EXACT}g}" if isinstance(plain, float) else repr(plain)
    return text if len(text) <= 80 else f"{text[:80]} ..."  # noqa: PLR2004 - a line of a terminal
