"""Checks that a team writes itself: found by their entry points, held to what a check is, and never a pass by accident."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.spec import Validation, spec_from_mapping
from airflow_triton.validation import Bench, Check, CheckResult, Dataset, Part, Seen, checks_of
from airflow_triton.validation.checks.functions import load_function
from airflow_triton.validation.checks.own import GROUP, OwnCheck

MODULE = '''
from airflow_triton.errors import ValidationDataError
from airflow_triton.validation import Check, CheckResult


class Share:
    """The share of answers that are above zero."""

    name = "share"
    needs = frozenset()

    def __init__(self, least, most=1.0):
        if least > most:
            raise ValueError(f"least {least} is above most {most}")
        self.least, self.most = least, most
        self.rows = self.above = 0

    def fit(self, dataset, servable):
        if dataset.origin == "bad.csv":
            raise ValidationDataError("bad.csv is not for this check")

    def see(self, seen):
        self.rows += seen.part.rows
        self.above += int((seen.answers["y"] > 0).sum())

    def results(self, bench):
        share = self.above / self.rows
        passed = self.least <= share <= self.most
        return [CheckResult(name="share", passed=passed, summary=f"{share:g} are above zero", figures={"share": share})]


class Odd(Share):
    """Wrong in one of many ways."""

    def __init__(self, how):
        super().__init__(least=0)
        self.how = how
        if how == "needs":
            self.needs = "labels"
        if how == "other needs":
            self.needs = {"gold"}

    def fit(self, dataset, servable):
        if self.how == "fit":
            raise KeyError("column")

    def see(self, seen):
        if self.how == "see" and seen.part.start == 2:
            raise ZeroDivisionError("by nothing")
        if self.how == "see" and seen.part.start > 2:
            raise RuntimeError("shown rows after an error")
        super().see(seen)

    def results(self, bench):
        if self.how == "results":
            raise RuntimeError("no server")
        passed = super().results(bench)
        odd = {"none": None, "empty": [], "true": True, "bare": passed[0], "mixed": [*passed, True], "text": "passed"}
        return odd.get(self.how, passed)


class Silent(Check):
    """Defines nothing."""

    name = "silent"
    needs = frozenset()


def class_itself(**options):
    return Share


def no_check(**options):
    return {"passed": True}
'''
POINTS = {"share": "Share", "odd": "Odd", "silent": "Silent", "class-itself": "class_itself", "no-check": "no_check", "gone": "Gone"}
NO_SERVABLE: Any = None


def install(folder: Path, package: str, points: dict[str, str], module: str = "") -> None:
    """A distribution as pip leaves it: its module, its metadata and its entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[airflow_triton.checks]", *lines, ""]))
    if module:
        (folder / f"{package}.py").write_text(module)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, one of them with checks."""
    install(tmp_path, "own_checks_of_a_test", {name: f"own_checks_of_a_test:{value}" for name, value in POINTS.items()}, MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def made(name: str, **options: Any) -> Check:
    """The check, as the spec declares it."""
    return checks_of(Validation(checks={name: options}))[-1]


def run(check: Check, *parts: list[float]) -> list[CheckResult]:
    """What it says of these answers."""
    start, bench = 0, Bench(client=NO_SERVABLE, candidate=("m", 1), inputs={}, most_rows=1)
    for part in parts:
        check.see(Seen(Part(start, {"x": np.zeros(len(part))}), {"y": np.array(part)}))
        start += len(part)
    return list(check.results(bench))


def test_a_check_of_ones_own_decides() -> None:
    """It is made with the options of the spec, sees every part, and its result is the verdict."""
    (passes,) = run(made("share", least=0.5), [1, -1], [1, 1])
    assert (passes.name, passes.passed, passes.summary, passes.figures) == ("share", True, "0.75 are above zero", {"share": 0.75})
    (fails,) = run(made("share", least=0.5, most=0.6), [1, -1], [1, 1])
    assert fails.rejects


def test_every_check_has_a_severity() -> None:
    """It is not one of the check's own options, and nothing of the check rejects then: neither its result nor an error in it."""
    (fails,) = run(made("share", least=0.9, severity="warning"), [1, -1])
    assert (fails.passed, fails.rejects) == (False, False)
    (broken,) = run(made("odd", how="see", severity="warning"), [1, 1], [1, 1])
    assert (broken.passed, broken.rejects) == (False, False)
    assert run(made("share", least=0.9, severity="critical"), [1, -1])[0].rejects


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("see", "odd: it raised ZeroDivisionError: by nothing"),
        ("results", "odd: it raised RuntimeError: no server"),
        ("none", "odd: its results are NoneType, and no list of CheckResult"),
        ("empty", "odd: it gave no result"),
        ("true", "odd: its results are bool, and no list of CheckResult"),
        ("bare", "odd: its results are CheckResult, and no list of CheckResult"),
        ("text", "odd: its results are str, and no list of CheckResult"),
        ("mixed", "odd: its results hold bool, and not CheckResult alone"),
    ],
)
def test_a_check_that_goes_wrong_never_passes(how: str, told: str) -> None:
    """One result that rejects and says what happened, although the check itself would have passed."""
    assert run(made("odd", how="right"), [1, 1], [1, 1])[0].passed

    (result,) = run(made("odd", how=how), [1, 1], [1, 1], [1, 1])
    assert (result.name, result.passed, result.severity, result.summary) == ("odd", False, "critical", told)


def test_a_check_that_saw_nothing_or_defines_nothing_never_passes() -> None:
    """The methods that it inherits of the protocol answer nothing."""
    assert run(made("share", least=0.0))[0].summary == "share: it saw no row"
    (silent,) = run(made("silent"), [1, 1])
    assert (silent.rejects, silent.summary) == (True, "silent: its results are NoneType, and no list of CheckResult")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("shares", {}, r"no installed package has a check of this name .*there are: .*odd, share, silent \(did you mean share\?\)"),
        ("gone", {}, "the entry point own_checks_of_a_test:Gone cannot be loaded: AttributeError: .*Gone"),
        ("share", {}, r"own_checks_of_a_test:Share does not take these options \(none\): TypeError: .*'least'"),
        ("share", {"least": 1, "lest": 2}, r"does not take these options \(least, lest\): TypeError: .*'lest'"),
        ("share", {"least": 2}, r"does not take these options \(least\): ValueError: least 2 is above most 1"),
        ("class-itself", {}, "makes no check, but type"),
        ("no-check", {}, "makes no check, but dict, without fit, see, results"),
        ("odd", {"how": "needs"}, "`needs` of .* is 'labels'; valid: a set of champion, expected, labels, recorded"),
        ("odd", {"how": "other needs"}, "`needs` of .* is {'gold'}; valid: "),
    ],
    ids=["unknown", "gone", "no option", "unknown option", "wrong option", "a class", "no check", "needs", "unknown needs"],
)
def test_a_check_that_cannot_be_made_is_refused(name: str, options: dict[str, Any], told: str) -> None:
    """When the checks are made: before any data is read, in one error that names the check."""
    with pytest.raises(ValidationDataError, match=rf"^validate\.checks\.{name}: .*{told}"):
        made(name, **options)


def test_a_name_of_two_packages_is_refused(installed: Path) -> None:
    """Nobody can say which is meant; the same one, found twice, is one."""
    install(installed, "own_checks_again", {"share": "own_checks_of_a_test:Share"})
    importlib.invalidate_caches()
    assert run(made("share", least=0.0), [1])[0].passed
    install(installed, "other_checks_of_a_test", {"share": "other_checks_of_a_test:Other"})
    importlib.invalidate_caches()
    with pytest.raises(ValidationDataError, match=r"several packages have a check of this name: other_checks.*, own_checks"):
        made("share", least=0.0)


@pytest.mark.parametrize(
    ("make", "origin", "told"),
    [
        (lambda: made("share", least=0.0), "bad.csv", "^bad.csv is not for this check$"),
        (lambda: made("odd", how="fit"), "rows.csv", "^the check 'odd' cannot run on rows.csv: KeyError: 'column'$"),
    ],
    ids=["refuses", "breaks"],
)
def test_a_check_that_does_not_fit_is_refused(make: Callable[[], Check], origin: str, told: str) -> None:
    """By itself, or because it breaks over the data."""
    with pytest.raises(ValidationDataError, match=told):
        make().fit(Dataset(origin, 1, ()), _servable())


def _servable() -> Servable:
    return Servable(backend="b", default_model_filename="", inputs=(), outputs=(), batching=True, flavor="onnx", converter="as-is")


def test_the_examples_of_the_guide_work(installed: Path) -> None:
    """What a reader copies: the spec, the metric, and the check with its entry point."""
    guide = (Path(__file__).parent.parent / "docs/guides/checks.md").read_text(encoding="utf-8")
    spec = yaml.safe_load(next(iter(re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL))))
    metric, check = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (folder := installed / "shop").mkdir()
    (folder / "__init__.py").touch()
    (folder / "metrics.py").write_text(metric)
    (folder / "checks.py").write_text(check)
    points = dict(re.findall(r"^(\w+) = \"(\S+)\"$", guide, re.MULTILINE))
    assert GROUP in guide
    install(installed, "shop", points)
    importlib.invalidate_caches()

    rules = spec_from_mapping(spec, folder=installed).validation
    assert load_function("profit", rules.metrics["profit"].function)({"decision": np.array([1.0, 0.0])}, np.array([4.0, 9.0])) == 2.0  # type: ignore[index,arg-type]
    coverage = OwnCheck("coverage", (rules.checks or {})["coverage"])
    coverage.see(Seen(Part(0, {"x": np.zeros(2)}), {"probabilities": np.array([[0.9, 0.1], [0.6, 0.4]])}))
    (result,) = coverage.results(Bench(client=NO_SERVABLE, candidate=("m", 1), inputs={}, most_rows=1))
    assert (result.summary, result.rejects, result.limits) == ("coverage 0.500", True, {"min": 0.95})
