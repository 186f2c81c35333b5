"""Plots as inline SVG, by matplotlib. The page's style sheet gives them their colours, so that they are readable on light and on dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_triton.validation.report.plots import Histogram, Scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT, _LIMIT, _SERIES = "#010101", "#020202", "#030303", ("#040404", "#050505", "#060606")
_VARIABLES = {_INK: "ink", _FAINT: "faint", _LIMIT: "bad", **{colour: f"series-{number}" for number, colour in enumerate(_SERIES, start=1)}}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "path.simplify": False,
    "svg.fonttype": "none",  # text stays text
    "text.color": _INK,
    "text.parse_math": False,  # a column may be named `$x$`
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_LINES = ("-", "--", ":")
_LARGEST = 1e300
"""What is not smaller (or no number) is left out: an axis of such a length cannot be drawn."""
_LONGEST = 40
"""Characters of a label, at most: a longer one would leave no room for the plot."""
_FAR = 1.5
"""A limit that lies further out than this many widths of the histogram is written at its edge: it would leave no room for the bars."""


def svg(plot: Scatter | Histogram) -> str:
    """The plot as an `<svg>` element that fills the width it is given."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": plot.title}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that matplotlib's font lacks: the browser writes the text
        figure = Figure(figsize=(4.8, 3.4) if isinstance(plot, Histogram) else (4.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        if isinstance(plot, Histogram):
            _histogram(axes, plot)
        else:
            _scatter(axes, plot)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    return _inline(drawn.getvalue(), plot)


def _inline(text: str, plot: Scatter | Histogram) -> str:
    """Only the element; without the ids of groups, which several plots of one page would share; colours by their names."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)(?:width|height)="[^"]*pt" ?([^>]*?)(?:width|height)="[^"]*pt"', r"<svg \1\2", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{_kind(plot)}" ', 1)
    return re.sub(r"<[^>]+>", _tag, text)


def _tag(found: re.Match[str]) -> str:
    """A tag alone: what a person reads is left as it is."""
    tag = re.sub(r' id="(?!p[0-9a-f]{10}|[mCD][0-9a-f_]{10})[^"]*"', "", found[0])
    return re.sub("|".join(_VARIABLES), lambda colour: f"var(--{_VARIABLES[colour[0]]})", tag)


def _kind(plot: Scatter | Histogram) -> str:
    return f"{plot.kind} plot, {len(plot.x)} points" if isinstance(plot, Scatter) else f"{plot.kind}, {len(plot.edges) - 1} bins"


def _scatter(axes: Axes, plot: Scatter) -> None:
    """Each point is a line of no length with round ends: all of them are one path, a tenth of what a marker each would take."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points = [(x, y) for x, y in zip(plot.x, plot.y, strict=True) if abs(x) < _LARGEST and abs(y) < _LARGEST]
    ends = [point for point in points for _ in range(2)]
    if plot.diagonal and points:
        low, high = min(map(min, points)), max(map(max, points))
        axes.plot([low, high], [low, high], color=_FAINT, linewidth=1, label="equal", zorder=1)
        axes.set_aspect("equal", adjustable="datalim")
    if ends:
        path = Path(ends, [Path.MOVETO, Path.LINETO] * len(points))
        axes.add_patch(PathPatch(path, fill=False, edgecolor=_SERIES[0], linewidth=3.5, capstyle="round", alpha=0.6, zorder=2))
        axes.update_datalim(ends)
        axes.autoscale_view()
    _finish(axes, plot.x_label, plot.y_label)


def _histogram(axes: Axes, plot: Histogram) -> None:
    for number, (name, counts) in enumerate(plot.counts.items()):
        colour, line = _SERIES[number % len(_SERIES)], _LINES[number % len(_LINES)]
        heights = [float(count) for count in counts]
        axes.stairs(heights, plot.edges, fill=True, color=colour, alpha=0.25)
        label = _short(name) if len(plot.counts) > 1 else None
        axes.stairs(heights, plot.edges, color=colour, linestyle=line, linewidth=1.5, label=label)
    _marks(axes, plot.marks, plot.edges)
    _finish(axes, plot.x_label, "count")


def _marks(axes: Axes, marks: Mapping[str, float], edges: tuple[float, ...]) -> None:
    width = edges[-1] - edges[0]
    drawable = {name: value for name, value in marks.items() if abs(value) < _LARGEST}
    for name, value in sorted(drawable.items(), key=lambda mark: mark[1]):
        far = value > edges[-1] + _FAR * width
        at = edges[-1] + 0.1 * width if far else value
        if far:
            axes.set_xlim(right=at)
        else:
            axes.axvline(value, color=_LIMIT, linewidth=1.2, linestyle="-.")
        axes.annotate(
            f"{_short(name)} {value:g}{' (further right)' if far else ''}",
            xy=(at, 0.99),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-3, 0),
            textcoords="offset points",
            ha="right",
            va="top",
            rotation=90,
            fontsize=9,
            color=_LIMIT,
        )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(_short(x_label))
    axes.set_ylabel(_short(y_label))
    axes.set_axisbelow(True)
    if len(axes.get_legend_handles_labels()[1]) > 0:
        axes.figure.legend(loc="outside upper right", ncols=3)
    axes.grid(visible=True, color=_FAINT, linewidth=0.4, alpha=0.5)
