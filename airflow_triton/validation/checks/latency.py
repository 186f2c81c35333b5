"""How quickly the candidate answers, and how quickly beside the version that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.spec import Latency
from airflow_triton.validation.checks.base import Bench, Seen
from airflow_triton.validation.checks.turns import Clocked, in_turns
from airflow_triton.validation.data import Dataset
from airflow_triton.validation.report import CheckResult
from airflow_triton.validation.report.plots import Histogram

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
_BINS = 40
_SERVES = "the version that serves"


class LatencyCheck:
    """Ask again and again with rows of the data, and hold the times against the limits (inclusive).

    First `warm_up` requests that do not count, then `requests` that do, `concurrency` under way at a time. With `max_slowdown` the version
    that serves is asked the same, in turns with the candidate. Never a pass: a request that fails, and a version that serves and cannot be
    asked the same. Where nothing serves yet, `max_slowdown` demands nothing; alone it then passes as a warning does: by itself it lets
    no candidate through. Figures: `p50_ms`, `p95_ms`, `p99_ms`, `throughput` (rows a second; of a model that does not batch: requests), how
    many `requests` of how many `rows` were measured, the same of the `champion`, and `slowdown` (the candidate's median by the champion's).
    """

    name = "latency"
    needs: frozenset[str] = frozenset()

    def __init__(self, rules: Latency, max_batch_size: int | None = None) -> None:
        """`max_batch_size` is that of the candidate's config.pbtxt (0: it does not batch; None: not known)."""
        self._rules = rules
        self._most = max_batch_size

    def fit(self, dataset: Dataset, servable: Servable) -> None:  # noqa: ARG002 any rows will do
        """See `Check`."""
        size, most = self._rules.batch_size, self._most
        if size is None or most is None or size <= most:
            return
        if most == 0:
            raise ValidationDataError("validate.latency.batch_size: the model does not batch (max_batch_size 0); leave it out")
        raise ValidationDataError(
            f"validate.latency.batch_size is {size}, above the model's max_batch_size {most}: lower it, or raise `config.max_batch_size`"
        )

    def see(self, seen: Seen) -> None:
        """See `Check`: it asks by itself."""

    def results(self, bench: Bench) -> Sequence[CheckResult]:
        """See `Check`."""
        rules = self._rules
        rows = 0 if bench.most_rows == 0 else rules.batch_size or bench.most_rows
        requests = _requests(bench.inputs, rows)
        candidate, champion = Clocked(bench.client, bench.candidate, requests, in_flight=rules.concurrency), None
        if rules.max_slowdown is not None and bench.champion and not bench.unfit:
            champion = Clocked(bench.client, bench.champion, requests, in_flight=rules.concurrency)
        models = [candidate, champion] if champion else [candidate]
        in_turns(models, rules.requests, in_flight=rules.concurrency, warm_up=rules.warm_up)
        if any(model.problem for model in models):
            bench.client.check_live()  # a server that died says nothing about the candidate
        return [self._result(bench, candidate, champion, max(rows, 1))]

    def _result(self, bench: Bench, candidate: Clocked, champion: Clocked | None, rows: int) -> CheckResult:
        rules = self._rules
        limits = {name: limit for name in (*PERCENTILES, "throughput", "max_slowdown") if (limit := getattr(rules, name)) is not None}
        how = f"{len(candidate.seconds)} requests of {rows} rows, {rules.concurrency} at a time"
        if candidate.problem:
            summary = f"latency: a request failed after {len(candidate.seconds)} were measured: {candidate.problem}"
            return CheckResult(name=self.name, passed=False, severity=rules.severity, summary=summary, limits=limits)
        figures = _figures(candidate, rows) | {"requests": float(len(candidate.seconds)), "rows": float(rows)}
        problems = [_above(name, figures[name], limit) for name, limit in limits.items() if name in PERCENTILES and figures[name] > limit]
        if rules.throughput is not None and figures["throughput"] < rules.throughput:
            problems.append(f"{figures['throughput']:.4g} rows/s are below {rules.throughput:g}")
        note = ""
        if rules.max_slowdown is not None:
            note, compared, problem = self._against(bench, figures["p50_ms"], champion, rows)
            figures |= compared
            problems += [problem] if problem else []
        told = (
            "; ".join(problems)
            or f"{', '.join(f'{name[:3]} {figures[name]:.4g} ms' for name in PERCENTILES)}, {figures['throughput']:.4g} rows/s"
        )
        alone = rules.max_slowdown is not None and len(limits) == 1 and bench.champion is None and not bench.unfit
        return CheckResult(
            name=self.name,
            passed=not problems,
            severity="warning" if alone else rules.severity,
            summary=f"latency: {told}{note} ({how})",
            figures=figures,
            limits=limits,
            plots=(_histogram(candidate, champion, {name: limit for name, limit in limits.items() if name in PERCENTILES}),),
        )

    def _against(self, bench: Bench, median: float, champion: Clocked | None, rows: int) -> tuple[str, dict[str, float], str]:
        """What to add to the summary of a pass, the figures, and what is wrong."""
        most = self._rules.max_slowdown
        assert most is not None
        if champion is None and not bench.unfit:
            return ", nothing serves yet: `max_slowdown` has nothing to hold it against", {}, ""
        if champion is None or champion.problem:
            return "", {}, f"it cannot be held against {_SERVES}: {bench.unfit or (champion.problem if champion else '')}"
        theirs = _figures(champion, rows)
        slowdown = median / theirs["p50_ms"]
        figures = {f"champion.{name}": value for name, value in theirs.items()} | {"slowdown": slowdown}
        told = f"the median is {slowdown:.4g} times the {theirs['p50_ms']:.4g} ms of {_SERVES}"
        return ("", figures, f"{told}, more than {most:g}") if slowdown > most else (f", {told}", figures, "")


def _requests(inputs: Mapping[str, Array], rows: int) -> list[dict[str, Array]]:
    """The inputs cut into requests of so many rows, from the beginning again where they run out; with 0 rows one request, as they are."""
    import numpy as np

    if rows == 0:
        return [dict(inputs)]
    total = min(len(array) for array in inputs.values())
    places = [np.arange(start, start + rows) % total for start in range(0, total, rows)]
    return [{name: array[place] for name, array in inputs.items()} for place in places]


def _figures(model: Clocked, rows: int) -> dict[str, float]:
    found = {name: model.percentile_ms(percent) for name, percent in PERCENTILES.items()}
    return found | {"throughput": model.requests_a_second * rows}


def _above(name: str, value: float, limit: float) -> str:
    return f"{name[:3]} {value:.4g} ms is above {limit:g}"


def _histogram(candidate: Clocked, champion: Clocked | None, marks: dict[str, float]) -> Histogram:
    import numpy as np

    series = {"candidate": candidate, **({_SERVES: champion} if champion and champion.seconds else {})}
    times = {name: np.array(model.seconds) * 1000 for name, model in series.items()}
    edges = np.linspace(0, max(float(found.max()) for found in times.values()), _BINS + 1)
    counts = {name: tuple(np.histogram(found, edges)[0].tolist()) for name, found in times.items()}
    rounded = tuple(float(f"{edge:.6g}") for edge in edges)
    return Histogram(title="time of a request", x_label="milliseconds", edges=rounded, counts=counts, marks=marks)
