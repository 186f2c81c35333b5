"""The report: what a person sees of it in a real browser, and what of it a machine reads."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import report_samples as samples
from browsing import READABLE, chromium, contrasts, overflow
from pydantic import ValidationError

from airflow_triton.rollout.reports import metrics_of
from airflow_triton.validation import CheckResult, ValidationReport
from airflow_triton.validation.report.page import html
from airflow_triton.validation.report.plots import Histogram, Matrix, Scatter, Table

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAN, INF = float("nan"), float("inf")
DESK, PHONE = (1200, 800), (360, 780)
_WRITTEN: dict[str, str] = {}
HOSTILE = '<script>window.taken = 1</script>"><img src=x onerror="window.taken = 2"> \udcff ${x} {{ x }} $\\frac$ id="x" #010101 漢'
INKED = 'an id="x" of #010101 <!-- a -->'
SHOWN = HOSTILE.replace("\udcff", "\\udcff")


def hostile() -> ValidationReport:
    """Every text that comes from outside is an attack, and the numbers are none."""
    check = CheckResult(
        name=HOSTILE,
        passed=False,
        summary=HOSTILE,
        figures={HOSTILE: NAN, f"{HOSTILE}.max_abs": INF, "low": -INF},
        limits={HOSTILE: INF, "min": NAN},
        plots=(
            Scatter(title=HOSTILE, x_label=HOSTILE, y_label=INKED, x=(0.0, NAN, 1.0, INF), y=(0.5, 1.0, -INF, INF), diagonal=True),
            Scatter(title="no points", x_label="x", y_label="y", x=(), y=(), diagonal=True),
            Histogram(title=HOSTILE, x_label=HOSTILE, edges=(0.0, 1.0, 2.0), counts={HOSTILE: (0, 3)}, marks={HOSTILE: 1.5, "far": 99.0}),
            Matrix(title=HOSTILE, row_label=HOSTILE, column_label=HOSTILE, rows=(HOSTILE,), columns=(HOSTILE,), counts=((0,),)),
            Table(title=HOSTILE, columns=(HOSTILE,), rows=((HOSTILE,),), marked=(0,)),
        ),
        server=HOSTILE,
    )
    links = {"model": "javascript:window.taken = 3", "data_docs": "data:text/html,<p>", "other": f"http://mlflow/{HOSTILE}"}
    return samples.report(check, candidate=HOSTILE, name=HOSTILE, model=HOSTILE, data=HOSTILE, links=links, seconds={HOSTILE: 1.0})


class _References(HTMLParser):
    """Collects whatever a browser could follow or load, and the names of all elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.found += [
            (tag, value or "") for name, value in attrs if name.rpartition(":")[2] in {"href", "src", "srcset", "data", "action"}
        ]


@pytest.mark.parametrize("make", [samples.passing, samples.rejected, samples.warned, samples.report, hostile])
def test_the_page_needs_nothing_else(make: Callable[[], ValidationReport]) -> None:
    """No script, no frame, no font, no picture from elsewhere; links lead to http(s) and are the reader's to follow."""
    page = written(make())

    parser = _References()
    parser.feed(page)
    assert not parser.elements & {"script", "iframe", "object", "embed", "img", "form", "base"}
    for tag, reference in parser.found:
        assert reference.startswith({"a": ("http://", "https://"), "link": "data:,", "use": "#"}[tag]), reference
    styles = re.sub(r"url\(#\w+\)", "", page)
    assert "url(" not in styles
    assert "@import" not in page


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "s3://bucket/report.html", "//host/x", ""]
)
def test_only_links_of_the_web_can_be_followed(link: str) -> None:
    """Any other is shown as it is."""
    page = html(samples.report(links={"model": link, "data_docs": link}))

    assert "<a " not in page
    assert link in page


def test_numbers_that_are_none_travel_as_json() -> None:
    """JSON without NaN and infinities, as its standard has it; read back, the report is the same."""
    report = hostile()
    text = report.model_dump_json()

    data = json.loads(text, parse_constant=pytest.fail)
    assert [*data["checks"][0]["figures"].values()] == ["NaN", "Infinity", "-Infinity"]
    again = ValidationReport.model_validate_json(text)
    assert again.model_dump_json() == text
    assert math.isnan(again.checks[0].figures[SHOWN])
    assert again.checks[0].figures["low"] == -INF
    assert ValidationReport.model_validate(report.model_dump(mode="json")).model_dump_json() == text  # as it travels through XCom


def test_the_guide_shows_a_report() -> None:
    """Every key of its JSON, and only those."""
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "report.md").read_text(encoding="utf-8")
    shown = json.loads(guide.partition("```json")[2].partition("```")[0])

    assert ValidationReport.model_validate(shown).model_dump(mode="json") == shown


def test_a_report_travels_without_its_plots() -> None:
    """What the steps hand on stays small, however many points there are; the verdict is the same."""
    report = samples.rejected(5)

    assert len(report.brief().model_dump_json()) < 10_000 < len(report.model_dump_json())
    assert report.brief().verdict == report.verdict


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Scatter(title="t", x_label="x", y_label="y", x=(1.0,), y=()), "different length"),
        (lambda: Histogram(title="t", x_label="x", edges=(0.0, 1.0), counts={"a": (1, 2)}), "different length"),
        (lambda: Histogram(title="t", x_label="x", edges=(1.0, 0.0), counts={"a": (1,)}), "ascend"),
        (lambda: Histogram(title="t", x_label="x", edges=(0.0, INF), counts={"a": (1,)}), "finite"),
        (lambda: Histogram(title="t", x_label="x", edges=(0.0,), counts={}), "two or more"),
        (lambda: Matrix(title="t", row_label="r", column_label="c", rows=("a",), columns=("b",), counts=((1, 2),)), "different length"),
        (lambda: Table(title="t", columns=("a", "b"), rows=(("1",),)), "different length"),
    ],
)
def test_a_plot_that_cannot_be_drawn_cannot_be_made(make: Callable[[], Any], told: str) -> None:
    """A check of a team's own is told so when it makes the plot, and not when the report is written."""
    with pytest.raises(ValidationError, match=told):
        make()


def test_figures_become_metrics() -> None:
    """The verdict as 1 or 0, each figure by its check, the chief figure by the check's name alone."""
    metrics = metrics_of(samples.passing(), "iris")

    assert metrics["triton.iris.passed"] == 1.0
    assert metrics["triton.iris.accuracy"] == 0.9921
    assert metrics["triton.iris.latency.throughput"] == 15_830.4
    assert metrics["triton.iris.parity.probabilities.apart"] == 0.0
    assert metrics_of(samples.report(), "iris") == {"triton.iris.passed": 0.0}


def test_metrics_of_several_servers_are_those_of_the_one_that_rejected() -> None:
    """Whichever of them that is: what is compared in MLflow is why the candidate may not serve."""
    assert metrics_of(samples.rejected(5), "iris")["triton.iris.accuracy"] == 0.0077
    assert metrics_of(samples.report(*reversed(samples.rejected(5).checks)), "iris")["triton.iris.accuracy"] == 0.0077


def test_metrics_are_as_mlflow_takes_them() -> None:
    """Finite numbers under names of MLflow's characters and length."""
    from mlflow.utils.validation import _validate_metric

    check = CheckResult(name="d" * 300, passed=True, summary="", figures={"é/ü:{}": 1.0, "nan": NAN, "inf": INF})
    metrics = metrics_of(samples.report(check), "iris")

    assert len(metrics) == 2
    for name, value in metrics.items():
        _validate_metric(name, value, 0, 0)


# --- in the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the file."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens a report as a file. At the end: nothing was asked of the network, and the console is clean."""
    asked: list[str] = []
    told: list[str] = []

    def open_report(report: ValidationReport, size: tuple[int, int] = DESK) -> Page:
        path = tmp_path / "report.html"
        path.write_text(written(report), encoding="utf-8")
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_report
    for context in browser.contexts:
        context.close()
    assert not [url for url in asked if not url.startswith((tmp_path.as_uri(), "data:,"))]
    assert told == []


def written(report: ValidationReport) -> str:
    """The page of a report, drawn once for all the tests that look at it."""
    key = report.model_dump_json()
    if key not in _WRITTEN:
        _WRITTEN[key] = html(report)
    return _WRITTEN[key]


def seen_at_once(page: Page) -> str:
    """The text of the verdict, which is whole on the first screen."""
    verdict = page.locator("header")
    box = verdict.bounding_box()
    assert box is not None
    assert page.viewport_size is not None
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= page.viewport_size["height"]
    assert page.locator("main > *").first.evaluate("each => each.tagName") == "HEADER"
    return verdict.inner_text()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_verdict_is_seen_first(opened: Callable[..., Page], size: tuple[int, int]) -> None:
    """Without a scroll: passed or rejected, which version of which deployment, and why."""
    rejected = seen_at_once(opened(samples.rejected(), size))
    assert "✗ Rejected" in rejected
    assert "models:/iris/8 may not serve. What served before was left alone." in rejected
    assert "accuracy 0.0077 is below 0.9" in rejected
    assert "latency: p99" in rejected

    passed = seen_at_once(opened(samples.passing(), size))
    assert "✓ Passed" in passed
    assert "models:/iris/8 may serve: 4 checks on 1 server." in passed
    assert "Warning" not in passed

    warned = seen_at_once(opened(samples.warned(), size))
    assert "✓ Passed" in warned
    assert "! Warning" in warned
    assert "expect_column_mean_to_be_between(petal_length) found 5.1" in warned

    assert "nothing was checked" in seen_at_once(opened(samples.report(), size))

    again = samples.rejected().model_copy(update={"candidate": "iris"})
    assert "models:/iris/8 serves, and does not pass any more. Nothing was changed." in seen_at_once(opened(again, size))


def test_each_check_has_its_card(opened: Callable[..., Page]) -> None:
    """What was rejected comes first, then what warns; in each the figures beside their limits, and the plots."""
    page = opened(samples.rejected())

    cards = page.locator("article")
    assert cards.locator("h3").all_inner_texts() == ["accuracy", "latency", "expectations (warning)", "parity"]
    assert cards.locator(".badge").all_inner_texts() == ["✗ Rejected", "✗ Rejected", "! Warning", "✓ Passed"]
    rows = {row.split("\t")[0]: row.split("\t")[1:] for row in cards.first.locator(".numbers tbody tr").all_inner_texts()}
    assert rows == {"accuracy": ["0.0077", "min 0.9"], "champion": ["0.992", ""], "drop": ["0.9843", "max 0.01"]}
    matrix = cards.first.locator(".matrix tbody tr").all_inner_texts()
    assert matrix == ["setosa\t120\t29,700\t35", "versicolor\t51\t211\t29,675", "virginica\t29,800\t44\t364"]
    assert cards.nth(1).locator("svg text").all_text_contents()[-3:] == ["p99_ms 6", "candidate", "the version that serves"]
    times = {row.split("\t")[0]: row.split("\t")[1:] for row in cards.nth(1).locator(".numbers tbody tr").all_inner_texts()}
    assert times["p99_ms"] == ["18.7319", "4.73484", "6"]
    assert times["slowdown"][1:] == ["", "max 1.5"]
    assert cards.nth(2).locator(".marked").all_inner_texts() == [
        "expect_column_mean_to_be_between\tpetal_length\tmin_value=3, max_value=4\t5.1\t\tno"
    ]
    assert "rtol 0.0001, atol 0.00001" in cards.nth(3).locator(".limits").inner_text().replace("1e-05", "0.00001")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_plots_are_drawn_where_they_can_be_read(opened: Callable[..., Page], size: tuple[int, int]) -> None:
    """Each has a size, and every text and line of it is inside."""
    page = opened(samples.rejected(), size)

    plots = page.locator("svg")
    assert plots.count() == 2
    for plot in plots.all():
        box = plot.bounding_box()
        assert box is not None
        assert box["width"] > 250
        assert box["height"] > 180
        for text in plot.locator("text").all():
            inner = text.bounding_box()
            assert inner is not None
            assert inner["height"] > 8, text.inner_text()
            assert box["x"] <= inner["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"], text.inner_text()  # noqa: PT018
        lines = plot.locator("path").evaluate_all("all => all.filter(each => each.getTotalLength() > 100).length")
        assert lines > 2


@pytest.mark.parametrize("make", [samples.rejected, lambda: samples.rejected(5), hostile], ids=["one", "five", "hostile"])
def test_nothing_is_wider_than_the_window(opened: Callable[..., Page], make: Callable[[], ValidationReport]) -> None:
    """What is wide scrolls in its own place, from the smallest phone to a desk."""
    page = opened(make())
    for width in (320, 390, 768, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        assert overflow(page) <= 0, width


@pytest.mark.parametrize("make", [samples.passing, lambda: samples.rejected(5), samples.warned], ids=["passed", "rejected", "warned"])
def test_every_text_is_readable(opened: Callable[..., Page], make: Callable[[], ValidationReport]) -> None:
    """On light and on dark, the plots included."""
    page = opened(make())
    brightness = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = contrasts(page)
        assert {"iris", "models:/iris/8", "candidate", "MLflow model", "yes"} <= set(found)
        assert {text: contrast for text, contrast in found.items() if contrast < READABLE} == {}
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = sum(map(int, re.findall(r"\d+", colour)))
    assert brightness["dark"] < 100
    assert brightness["light"] > 600


def test_several_servers_are_one_table_and_what_passed_is_folded(opened: Callable[..., Page]) -> None:
    """Which server rejected is told above; the details of the others come with a click."""
    page = opened(samples.rejected(5))

    assert "accuracy 0.0077 is below 0.9, and 0.9843 below the champion's 0.992 on grpc://triton-4" in page.locator("header").inner_text()
    grid = page.locator(".grid tbody tr").all_inner_texts()
    assert grid[0] == "grpc://triton-0.models.svc:8001\t✓ Passed\t✓ Passed\t✓ Passed\t✓ Passed"
    assert grid[4] == "grpc://triton-4.models.svc:8001\t✓ Passed\t✗ Rejected\t✗ Rejected\t! Warning"
    assert page.locator("article:visible").count() == 4
    page.locator("summary").first.click()
    assert page.locator("article:visible").count() == 8
    assert all((plot.bounding_box() or {"width": 0})["width"] > 250 for plot in page.locator("svg:visible").all())
    assert page.locator("svg:visible").count() == 4


def test_the_same_reason_on_many_servers_is_told_once(opened: Callable[..., Page]) -> None:
    """With the number of servers; and of many reasons only the first ones, the others being counted."""
    bad = [samples.accuracy(server, passed=False) for server in samples.servers(5)]
    assert opened(samples.report(*bad)).locator(".reasons li").all_inner_texts() == [f"{bad[0].summary} on all 5 servers"]
    mixed = [*bad[:2], *(samples.accuracy(check.server) for check in bad[2:])]
    assert opened(samples.report(*mixed)).locator(".reasons li").all_inner_texts() == [f"{bad[0].summary} on 2 of 5 servers"]

    each = [check.model_copy(update={"summary": f"accuracy 0.{number}"}) for number, check in enumerate(bad * 2)]
    told = opened(samples.report(*each)).locator(".reasons li").all_inner_texts()
    assert told[0] == "accuracy 0.0 on grpc://triton-0.models.svc:8001"
    assert told[6:] == ["and 4 more, below"]


def test_what_comes_from_outside_is_only_text(opened: Callable[..., Page]) -> None:
    """Names, values, summaries and labels of plots are shown as they are, and nothing of them runs."""
    page = opened(hostile())

    assert page.evaluate("window.taken") is None
    assert page.locator("h1 > span:last-child").inner_text() == SHOWN
    assert page.locator("article h3").inner_text() == SHOWN
    assert page.locator("figcaption").first.inner_text() == SHOWN
    assert {f"{SHOWN[:40]} …", INKED} <= set(page.locator("svg text").all_text_contents())
    assert page.locator(".rows td").inner_text() == SHOWN
    assert page.locator("script, img").count() == 0
    assert [link.get_attribute("href") for link in page.locator("a").all()] == [f"http://mlflow/{SHOWN}"]
    assert {"NaN", "∞", "-∞"} <= set(page.locator(".numbers td").all_inner_texts())


def test_the_page_forbids_what_it_does_not_need(browser: Browser) -> None:
    """Were a hole in it, its policy would still stop a script, a picture and a request to elsewhere."""
    page = browser.new_page()
    page.set_content(html(samples.passing()))

    stopped = page.evaluate(
        """async () => {
          const stopped = [];
          document.addEventListener('securitypolicyviolation', event => stopped.push(event.effectiveDirective));
          const script = document.createElement('script'); script.textContent = 'window.taken = 1'; document.body.append(script);
          const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';
          await fetch('http://127.0.0.1:9/').catch(() => 0);
          await new Promise(resolve => setTimeout(resolve, 0));
          return [...stopped, window.taken];
        }"""
    )
    page.close()
    assert sorted(filter(None, stopped)) == ["connect-src", "img-src", "script-src-elem"]
