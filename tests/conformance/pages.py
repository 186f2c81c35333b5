"""The pages of the docs that a campaign writes."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from airflow_triton.servable import Servable
from airflow_triton.validation.agreement import Agreement

LONGEST = 220
"""Characters of a reason in a table."""

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Result:
    """What became of one of ONNX's backend tests."""

    kind: str
    name: str
    outcome: str
    reason: str


def made_by(command: str, *packages: str) -> str:
    """One line: when, by which command, with which versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"Made by `{command}` on {datetime.now(timezone.utc):%Y-%m-%d}: Python {platform.python_version()}, {versions}."


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def shortened(reason: str) -> str:
    """A reason for a table: without the names of folders, and not longer than two lines of it."""
    plain = re.sub(r"(version \d+ of `\S+` is |; what served still serves|models:/\S+/\d+(/model\.onnx)?:? ?|/\S+/)", "", reason)
    plain = re.sub(r"failed:|\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |Load model from ", "", plain)
    plain = re.sub(r"\S+\.cc:\d+ [^.]* ", "", plain)
    text = " ".join(plain.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def write_onnx_page(results: Sequence[Result]) -> None:
    """docs/onnx-backend-tests.md."""
    kinds = list(dict.fromkeys(result.kind for result in results))
    rows = [[kind, sum(r.kind == kind for r in results), sum(r.kind == kind and r.outcome == "passed" for r in results)] for kind in kinds]
    total = ["all", len(results), sum(r.outcome == "passed" for r in results)]
    others = [[f"{r.kind}/{r.name}", r.outcome, shortened(r.reason)] for r in results if r.outcome != "passed"]
    text = f"""# ONNX's own backend tests

The models that the `onnx` package ships for tests of backends (`onnx/backend/test/data`), each registered in MLflow, deployed by the
pipeline to a real local Triton, and asked for the outputs that were recorded with it (tolerance: ONNX's own, 1e-7 + 1e-3 of the
expected value; `light` models have made inputs, as in ONNX's runner).

{made_by("make conformance", "onnx", "onnxruntime")}

{table(["kind", "models", "pass"], [*rows, total])}

{"Each that does not pass, and why:" if others else "All pass."}

{table(["model", "outcome", "reason"], others) if others else ""}

What is behind them: `Gradient` is no operator of onnxruntime; `StringNormalizer` wants the locale en_US.UTF-8 on the machine; a request
without rows validates nothing; of a `PRelu` of opset 6 with several slopes, ONNX's own rewriting loses the broadcast, and the proof finds
it; and outputs that are NaN, though they were recorded so, pass no gate.
"""
    (DOCS / "onnx-backend-tests.md").write_text(text.rstrip() + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Row:
    """What became of one model of the conversion's table; `served` are the figures of the parity on the server."""

    name: str
    flavor: str
    to: str
    servable: Servable
    agreement: Agreement
    seconds: dict[str, float]
    served: dict[str, float]

    @property
    def cells(self) -> list[str]:
        """The line of the table."""
        outputs = self.agreement.outputs
        cosines = [output.cosine for output in outputs if output.cosine is not None]
        shares = [output.argmax for output in outputs if output.argmax is not None]
        return [
            self.name,
            self.flavor,
            f"{self.to} ({self.servable.backend})",
            self.servable.converter,
            f"{sum(self.agreement.runs.values())} in {len(self.agreement.runs)}",
            f"{max(output.max_abs for output in outputs):.1e}",
            f"{max(output.max_rel for output in outputs):.1e}",
            f"{min(cosines):.7f}" if cosines else "",
            f"{100 * min(shares):g} %" if shares else "",
            "yes" if "missing values (NaN)" in self.agreement.runs else "",
            f"{max((value for key, value in self.served.items() if key.endswith('.max_abs_diff')), default=0):.1e}",
            f"{self.seconds['convert']:.1f} + {self.seconds['parity']:.1f} s",
        ]


TABLE_START, TABLE_END = "<!-- the table: made by `make conformance` -->", "<!-- end of the table -->"


def write_conversion_table(rows: Sequence[Row]) -> None:
    """The table of docs/conversion.md, between its marks."""
    page = DOCS / "conversion.md"
    before, rest = page.read_text(encoding="utf-8").split(TABLE_START)
    after = rest.split(TABLE_END)[1]
    head = ["model", "flavor", "to (backend)", "converter", "rows compared", "largest difference", "relative", "cosine", "same arg-max"]
    head += ["NaN", "difference on Triton", "time"]
    made = made_by("make conformance", "mlflow", "onnx", "onnxruntime", "scikit-learn", "skl2onnx", "torch")
    text = f"{len(rows)} models. {made}\n\n{table(head, [row.cells for row in rows])}"
    page.write_text(f"{before}{TABLE_START}\n\n{text}\n\n{TABLE_END}{after}", encoding="utf-8")
