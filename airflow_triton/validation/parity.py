"""Parity: what the candidate answers on the server against what the MLflow model itself answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_triton.tensors import plain_texts
from airflow_triton.validation.report import CheckResult

if TYPE_CHECKING:
    import numpy as np


def parity_check(
    answers: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], *, rtol: float, atol: float, server: str = ""
) -> CheckResult:
    """Compare output by output.

    Floating-point outputs must satisfy |answer - expected| <= atol + rtol * |expected| in every element (numpy's `allclose`); all
    others must be equal. A missing output, another shape, no output at all, a NaN or an infinity on either side: never a pass.
    Figures: for each output the largest absolute difference, or the number of elements that differ.
    """
    problems: list[str] = [] if expected else ["the MLflow model gave no output to compare with"]
    figures: dict[str, float] = {}
    for name, wanted in expected.items():
        if name not in answers:
            problems.append(f"`{name}` is missing from the server's answer ({sorted(answers)})")
            continue
        figure, problem = _compare(name, answers[name], wanted, rtol, atol)
        figures.update(figure)
        if problem:
            problems.append(problem)
    worst = max((value for key, value in figures.items() if key.endswith(".max_abs_diff")), default=0.0)
    summary = "; ".join(problems) if problems else f"largest difference {worst:.2g} over {len(expected)} outputs"
    return CheckResult(
        name="parity",
        passed=not problems,
        summary=f"parity: {summary}",
        figures=figures,
        limits={"rtol": rtol, "atol": atol},
        server=server,
    )


def _compare(name: str, answer: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> tuple[dict[str, float], str]:
    import numpy as np

    if answer.shape != wanted.shape:
        return {}, f"`{name}` is shaped {list(answer.shape)} on the server, {list(wanted.shape)} in MLflow"
    if answer.size == 0:
        return {}, f"`{name}` is empty"
    if not np.issubdtype(wanted.dtype, np.floating):
        differ = int(np.sum(plain_texts(answer) != plain_texts(wanted)))
        return {f"{name}.different": differ}, f"`{name}` differs in {differ} of {answer.size} elements" if differ else ""
    if answer.dtype.kind not in "biuf":
        return {}, f"`{name}` is {answer.dtype} on the server, {wanted.dtype} in MLflow"
    left, right = answer.astype(np.float64), wanted.astype(np.float64)
    bad = int(np.sum(~np.isfinite(left) | ~np.isfinite(right)))
    if bad:
        return {f"{name}.not_finite": bad}, f"`{name}` has {bad} elements that are NaN or infinite"
    with np.errstate(over="ignore"):
        difference = np.minimum(np.abs(left - right), np.finfo(np.float64).max)  # a report is JSON, which has no infinity
        apart = int(np.sum(~(difference <= atol + rtol * np.abs(right))))
    figure = {f"{name}.max_abs_diff": float(difference.max()), f"{name}.apart": apart}
    return figure, f"`{name}` is apart by up to {difference.max():.3g} in {apart} of {answer.size} elements" if apart else ""
