"""Metrics of the answers against labels: figures, limits, the comparison with what serves, own functions, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.spec import Limits
from airflow_triton.tensors import datatype_of
from airflow_triton.validation import Bench, CheckResult, Dataset, Part, Seen, ValidationReport
from airflow_triton.validation.checks.measures import MEASURES, MOST_CLASSES
from airflow_triton.validation.checks.metrics import MetricsCheck
from airflow_triton.validation.data.parts import write_part

NAN, INF = float("nan"), float("inf")
Answers = dict[str, np.ndarray]


def _bench(champion: tuple[str, int] | None = None, unfit: str = "") -> Bench:
    """Metrics ask nothing by themselves: there is no client."""
    nothing: Any = None
    return Bench(client=nothing, candidate=("m--candidate", 2), inputs={}, most_rows=8, champion=champion, unfit=unfit)


NOTHING_SERVES, SERVES = _bench(), _bench(("m", 1))


def _checked(
    name: str,
    answers: Answers,
    labels: np.ndarray,
    *,
    champion: Answers | None = None,
    bench: Bench = NOTHING_SERVES,
    cut: int = 1,
    **limits: Any,
) -> CheckResult:
    """One metric of these answers, which come in `cut` parts."""
    check = MetricsCheck({name: Limits(**limits)})
    for rows in np.array_split(np.arange(len(labels)), cut):
        part = {each: array[rows] if len(array) == len(labels) else array for each, array in answers.items()}
        theirs = None if champion is None else {each: array[rows] for each, array in champion.items()}
        check.see(Seen(Part(int(rows[0]), {}, labels=labels[rows]), part, champion=theirs))
    (result,) = check.results(bench)
    return result


def _data(folder: Path, labels: np.ndarray, *, cut: int = 2) -> Dataset:
    """Rows with these labels, on disk."""
    parts = [
        Part(int(rows[0]), {"x": np.zeros((len(rows), 1))}, labels=labels[rows]) for rows in np.array_split(np.arange(len(labels)), cut)
    ]
    paths = tuple(write_part(folder, number, part) for number, part in enumerate(parts))
    return Dataset("rows.csv", len(labels), paths, labelled=True)


def _servable(answers: Answers) -> Servable:
    """A model that gives such answers."""
    outputs = tuple(
        TensorSpec(name=name, datatype=datatype_of(array.dtype) or "FP32", shape=(-1, *array.shape[1:])) for name, array in answers.items()
    )
    return Servable(backend="b", default_model_filename="", inputs=(), outputs=outputs, batching=True, flavor="onnx", converter="as-is")


# --- metrics

RANDOM = np.random.default_rng(5)
CLASSES = RANDOM.integers(0, 3, 60)
PROBABILITIES = RANDOM.dirichlet([1, 1, 1], 60).astype(np.float32)
PROBABILITIES /= PROBABILITIES.sum(axis=1, keepdims=True)
GUESSED = RANDOM.integers(0, 3, 60)
YES = RANDOM.integers(0, 2, 60)
SCORES = RANDOM.random(60).astype(np.float32)
TARGETS = RANDOM.normal(size=60)
VALUES = (TARGETS + RANDOM.normal(size=60)).astype(np.float32)
NAMES = np.array(["ham", "spam", "é"], dtype=object)


def _bytes(texts: np.ndarray) -> np.ndarray:
    return np.array([text.encode() for text in texts], dtype=object)


@pytest.mark.parametrize(
    ("name", "answers", "labels", "value"),
    [
        ("accuracy", {"label": GUESSED}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"label": GUESSED[:, None]}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"label": GUESSED}, CLASSES.astype(float), sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"p": PROBABILITIES, "label": GUESSED}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"p": PROBABILITIES}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, PROBABILITIES.argmax(1))),
        ("accuracy", {"label": _bytes(NAMES[GUESSED])}, NAMES[CLASSES], sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"label": _bytes(GUESSED.astype(str))}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"s": SCORES}, YES, sklearn_metrics.accuracy_score(YES, SCORES >= 0.5)),
        ("accuracy", {"s": SCORES[:, None]}, YES.astype(bool), sklearn_metrics.accuracy_score(YES, SCORES >= 0.5)),
        ("f1", {"label": GUESSED}, CLASSES, sklearn_metrics.f1_score(CLASSES, GUESSED, average="macro")),
        ("f1", {"label": NAMES[GUESSED]}, NAMES[CLASSES], sklearn_metrics.f1_score(CLASSES, GUESSED, average="macro")),
        ("f1", {"s": SCORES}, YES, sklearn_metrics.f1_score(YES, SCORES >= 0.5, average="macro")),
        ("auc", {"p": PROBABILITIES}, CLASSES, sklearn_metrics.roc_auc_score(CLASSES, PROBABILITIES, multi_class="ovr")),
        (
            "auc",
            {"label": GUESSED, "p": PROBABILITIES},
            NAMES[CLASSES],
            sklearn_metrics.roc_auc_score(CLASSES, PROBABILITIES, multi_class="ovr"),
        ),
        ("auc", {"s": SCORES}, YES, sklearn_metrics.roc_auc_score(YES, SCORES)),
        ("auc", {"s": SCORES[:, None]}, YES, sklearn_metrics.roc_auc_score(YES, SCORES)),
        ("auc", {"p": np.stack([1 - SCORES, SCORES], axis=1)}, NAMES[YES], sklearn_metrics.roc_auc_score(YES, SCORES)),
        ("rmse", {"y": VALUES}, TARGETS, sklearn_metrics.root_mean_squared_error(TARGETS, VALUES)),
        ("rmse", {"y": VALUES[:, None]}, TARGETS, sklearn_metrics.root_mean_squared_error(TARGETS, VALUES)),
        ("mae", {"y": VALUES[:, None]}, TARGETS[:, None], sklearn_metrics.mean_absolute_error(TARGETS, VALUES)),
        ("mae", {"y": GUESSED}, TARGETS, sklearn_metrics.mean_absolute_error(TARGETS, GUESSED)),
        ("r2", {"y": VALUES[:, None]}, TARGETS, sklearn_metrics.r2_score(TARGETS, VALUES)),
    ],
    ids=[
        "accuracy-classes",
        "accuracy-classes [N, 1]",
        "accuracy-labels as floats",
        "accuracy-classes beside probabilities",
        "accuracy-probabilities only",
        "accuracy-texts",
        "accuracy-numbers as text",
        "accuracy-binary scores",
        "accuracy-scores [N, 1], boolean labels",
        "f1-classes",
        "f1-texts",
        "f1-binary scores",
        "auc-probabilities",
        "auc-text labels",
        "auc-binary scores",
        "auc-scores [N, 1]",
        "auc-two columns, text labels",
        "rmse-[N]",
        "rmse-[N, 1]",
        "mae-labels [N, 1]",
        "mae-integers",
        "r2-[N, 1]",
    ],
)
@pytest.mark.parametrize("cut", [1, 7])
def test_a_metric_is_scikit_learns(tmp_path: Path, name: str, answers: Answers, labels: np.ndarray, value: float, cut: int) -> None:  # noqa: PLR0917
    """The figure is scikit-learn's for the same values, in however many parts they come, and its limits are inclusive on both sides."""
    value = float(value)
    MetricsCheck({name: Limits(min=0)}).fit(_data(tmp_path, labels), _servable(answers))

    assert _checked(name, answers, labels, cut=cut, min=-9).figures == {name: pytest.approx(value, rel=1e-12)}
    exact = _checked(name, answers, labels, cut=cut, min=-9).figures[name]
    assert _checked(name, answers, labels, cut=cut, min=exact, max=exact).passed
    assert not _checked(name, answers, labels, cut=cut, min=np.nextafter(exact, INF)).passed
    assert not _checked(name, answers, labels, cut=cut, max=np.nextafter(exact, -INF)).passed


@pytest.mark.parametrize(
    ("labels", "values"),
    [([2.0, 2.0, 2.0], [2.0, 2.0, 2.0]), ([0.5] * 3, [0.5, 0.5, 0.75]), ([1e9 + 1, 1e9 + 2, 1e9 + 4], [1e9 + 1, 1e9 + 3, 1e9 + 3])],
    ids=["all right", "one label", "far from zero"],
)
def test_r2_of_odd_labels_is_scikit_learns(labels: list[float], values: list[float]) -> None:
    """Labels that do not vary, and labels far from zero, whose squares would lose the difference."""
    expected = sklearn_metrics.r2_score(labels, values)

    assert _checked("r2", {"y": np.array(values)}, np.array(labels), cut=3, min=-9).figures["r2"] == pytest.approx(expected, rel=1e-9)


def test_the_verdict_of_a_metric_says_figure_and_limit() -> None:
    """Below, above and within, in words; the limits travel with the figures."""
    answers, labels = {"label": np.array([1, 1, 0, 0])}, np.array([1, 1, 1, 0])

    low = _checked("accuracy", answers, labels, min=0.9)
    assert (low.passed, low.summary, low.limits) == (False, "accuracy 0.75 is below 0.9", {"min": 0.9})
    assert _checked("accuracy", answers, labels, max=0.5).summary == "accuracy 0.75 is above 0.5"
    assert _checked("accuracy", answers, labels, min=0.5, max=0.8).summary == "accuracy 0.75"


def test_every_metric_has_a_result_of_its_own() -> None:
    """In the order of the spec, each with its severity; a warning does not reject."""
    rules = {"f1": Limits(min=0.9, severity="warning"), "accuracy": Limits(min=0.5)}
    check = MetricsCheck(rules)
    check.see(Seen(Part(0, {}, labels=np.array([1, 1, 1, 0])), {"label": np.array([1, 1, 0, 0])}))

    f1, accuracy = check.results(NOTHING_SERVES)

    assert (f1.name, f1.passed, f1.severity, f1.rejects) == ("f1", False, "warning", False)
    assert (accuracy.name, accuracy.passed, accuracy.rejects) == ("accuracy", True, False)
    report = ValidationReport(candidate="m", data="rows", rows=4, checks=(f1, accuracy))
    assert report.passed
    assert report.warnings == (f1.summary,)


# --- never a pass


def test_a_metric_without_limits_does_not_pass() -> None:
    """A check that demands nothing is closed; a spec refuses it anyway."""
    check = MetricsCheck({"accuracy": Limits.model_construct()})
    check.see(Seen(Part(0, {}, labels=CLASSES), {"label": CLASSES}))

    (result,) = check.results(NOTHING_SERVES)
    assert (result.passed, result.summary) == (False, "accuracy 1 has no limit")


@pytest.mark.parametrize("name", MEASURES)
def test_no_rows_never_pass(name: str) -> None:
    """Nothing seen, or nothing that had a label."""
    check = MetricsCheck({name: Limits(min=-9e9)})
    assert not check.results(NOTHING_SERVES)[0].passed
    check.see(Seen(Part(0, {}), {"y": VALUES}))
    assert not check.results(NOTHING_SERVES)[0].passed


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("name", MEASURES)
def test_an_answer_that_is_not_finite_never_passes(name: str, bad: float) -> None:
    """One NaN or infinity in the output that the metric needs: not passed, whatever the limits, and the row is named."""
    labels = TARGETS if name in ("rmse", "mae", "r2") else YES
    scores = SCORES.copy()
    scores[41] = bad

    for answers in ({"s": scores}, {"s": scores[:, None]}):
        result = _checked(name, answers, labels, cut=3, min=-9e9, max=9e9)

        assert not result.passed
        assert result.summary == f"{name} cannot be computed: the output 's' holds NaN or an infinity in 1 rows, first in row 41"
        assert ValidationReport.model_validate_json(ValidationReport(candidate="c", data="d", rows=1, checks=(result,)).model_dump_json())


def test_a_probability_that_is_not_finite_never_passes() -> None:
    """NaN is not taken for the largest entry of its row."""
    probabilities = np.eye(3, dtype=np.float32)[CLASSES]
    probabilities[0, CLASSES[0]] = NAN

    assert not _checked("accuracy", {"p": probabilities}, CLASSES, min=0.0).passed


def test_a_figure_beyond_every_number_never_passes() -> None:
    """Finite answers whose squares are not."""
    result = _checked("rmse", {"y": np.array([1e200, 0.0])}, np.zeros(2), min=0)

    assert (result.passed, result.summary) == (False, "rmse inf is no finite number")


def test_a_metric_that_is_undefined_is_refused_and_never_passes(tmp_path: Path) -> None:
    """The area under a curve of one class is no number, and one row has no spread."""
    one_class = np.zeros(60, dtype=int)
    with pytest.raises(ValidationDataError, match=r"validate\.metrics\.auc .*two classes at least, and got \[0\]"):
        MetricsCheck({"auc": Limits(min=0)}).fit(_data(tmp_path, one_class), _servable({"s": SCORES}))
    with pytest.raises(ValidationDataError, match="r2 needs two rows"):
        MetricsCheck({"r2": Limits(min=0)}).fit(_data(tmp_path, TARGETS[:1], cut=1), _servable({"s": SCORES}))

    assert not _checked("auc", {"s": SCORES}, one_class, min=0.0).passed
    assert not _checked("r2", {"s": SCORES[:1]}, TARGETS[:1], min=0.0).passed


@pytest.mark.parametrize(
    ("name", "answers", "labels"),
    [
        ("auc", {"label": GUESSED}, CLASSES),
        ("auc", {"p": PROBABILITIES}, YES),
        ("auc", {"s": SCORES}, CLASSES),
        ("rmse", {"p": PROBABILITIES}, TARGETS),
        ("rmse", {"y": VALUES}, NAMES[CLASSES]),
        ("mae", {"y": _bytes(NAMES[GUESSED])}, TARGETS),
        ("mae", {"y": VALUES}, np.where(TARGETS > 1, np.nan, TARGETS)),
        ("accuracy", {"label": GUESSED}, TARGETS),
        ("accuracy", {"y": np.zeros((60, 2, 2))}, CLASSES),
        ("f1", {"label": GUESSED}, np.where(CLASSES > 1, np.nan, CLASSES)),
        ("f1", {"label": GUESSED}, np.stack([CLASSES, CLASSES], axis=1)),
        ("r2", {}, TARGETS),
    ],
    ids=[
        "auc of classes",
        "more columns than classes",
        "one column for three classes",
        "a matrix",
        "text labels for numbers",
        "text for numbers",
        "missing labels",
        "numbers as classes",
        "three axes",
        "missing classes",
        "two labels a row",
        "no output",
    ],
)
def test_what_a_metric_cannot_be_computed_of_is_refused(tmp_path: Path, name: str, answers: Answers, labels: np.ndarray) -> None:
    """Before anything is staged: an error that names the metric, the data and the reason. Later it is no pass, and no traceback."""
    with pytest.raises(
        ValidationDataError, match=rf"^validate\.metrics\.{name} cannot be computed of rows\.csv and the model's outputs: \w"
    ):
        MetricsCheck({name: Limits(min=0)}).fit(_data(tmp_path, labels), _servable(answers))

    result = _checked(name, answers, labels, min=0.0)
    assert not result.passed
    assert result.summary.startswith(f"{name} cannot be computed: ")


def test_a_label_far_down_is_looked_at(tmp_path: Path) -> None:
    """Labels are classes or numbers in every row, not only in the first part."""
    labels = CLASSES.astype(float)
    labels[-1] = 0.5

    with pytest.raises(ValidationDataError, match="numbers with fractions"):
        MetricsCheck({"accuracy": Limits(min=0)}).fit(_data(tmp_path, labels, cut=10), _servable({"label": GUESSED}))


def test_an_output_whose_width_varies_is_not_refused(tmp_path: Path) -> None:
    """What it will be is seen in the answers; labels are refused all the same."""
    outputs = (TensorSpec(name="p", datatype="FP32", shape=(-1, -1)),)
    servable = _servable({}).model_copy(update={"outputs": outputs})
    for name in ("accuracy", "auc"):
        MetricsCheck({name: Limits(min=0)}).fit(_data(tmp_path, CLASSES), servable)
        with pytest.raises(ValidationDataError, match="and no classes"):
            MetricsCheck({name: Limits(min=0)}).fit(_data(tmp_path, TARGETS), servable)


def test_answers_of_other_rows_do_not_pass() -> None:
    """An output that has not one row for each label."""
    result = _checked("accuracy", {"y": np.zeros((59, 3))}, CLASSES, min=0.0)

    assert (result.passed, "no output holds a class for each of the 60 rows: `y` float64 [59, 3]" in result.summary) == (False, True)


# --- the version that serves


def _right(count: int) -> Answers:
    """Answers to 100 labels of 1, of which so many are right."""
    return {"label": np.r_[np.ones(count, int), np.zeros(100 - count, int)]}


ONES = np.ones(100, int)


@pytest.mark.parametrize(
    ("candidate", "passes"), [(90, True), (95, True), (89, True), (88, False)], ids=["equal", "better", "at the limit", "worse"]
)
def test_a_candidate_may_not_drop_by_more_than_the_limit(candidate: int, passes: bool) -> None:  # noqa: FBT001
    """The champion is computed on the same rows; 0.9 - 0.89 is 0.01, whatever a float makes of it."""
    result = _checked("accuracy", _right(candidate), ONES, champion=_right(90), bench=SERVES, cut=4, max_drop=0.01)

    assert result.passed is passes, result.summary
    assert result.figures == {"accuracy": candidate / 100, "champion": 0.9, "drop": pytest.approx(0.9 - candidate / 100)}
    assert result.limits == {"max_drop": 0.01}
    told = "(the version that serves: 0.9)" if passes else "is worse than the 0.9 of the version that serves by 0.02, more than 0.01"
    assert told in result.summary


@pytest.mark.parametrize("name", ["rmse", "mae"])
def test_of_an_error_less_is_better(name: str) -> None:
    """A drop is an error that grew."""
    worse, better = {"y": np.full(100, 1.5)}, {"y": np.full(100, 1.25)}

    assert not _checked(name, worse, ONES, champion=better, bench=SERVES, max_drop=0.2).passed
    assert _checked(name, worse, ONES, champion=better, bench=SERVES, max_drop=0.25).passed
    assert _checked(name, better, ONES, champion=worse, bench=SERVES, max_drop=0.0).figures["drop"] == pytest.approx(-0.25)


def test_the_champion_is_asked_only_where_it_is_needed() -> None:
    """A metric without `max_drop` costs the version that serves nothing."""
    assert MetricsCheck({"accuracy": Limits(min=0.5)}).needs == {"labels"}
    assert MetricsCheck({"accuracy": Limits(min=0.5), "f1": Limits(max_drop=0)}).needs == {"labels", "champion"}


@pytest.mark.parametrize(
    ("bench", "champion", "told"),
    [
        (_bench(unfit="version 1, which serves, takes other inputs"), None, "takes other inputs"),
        (SERVES, None, "there are no rows"),
        (SERVES, {"other": np.zeros((100, 2, 2))}, "no output holds a class"),
        (SERVES, {"p": np.full((100, 2), NAN)}, "holds NaN"),
    ],
    ids=["cannot be asked", "did not answer", "has other outputs", "answers NaN"],
)
def test_a_champion_that_cannot_be_compared_with_is_no_pass(bench: Bench, champion: Answers | None, told: str) -> None:
    """The check does not pass, whatever the candidate's figure, and says why."""
    result = _checked("accuracy", _right(100), ONES, champion=champion, bench=bench, min=0.5, max_drop=0.5)

    assert not result.passed
    assert result.summary.startswith("accuracy 1 cannot be held against the version that serves: ")
    assert told in result.summary
    assert result.figures == {"accuracy": 1.0}


def test_where_nothing_serves_yet_a_drop_alone_opens_no_gate() -> None:
    """A first version may pass by another limit or another check; a drop against nothing checks nothing, and says so."""
    alone = _checked("accuracy", _right(50), ONES, max_drop=0.01)
    assert (alone.passed, alone.severity) == (True, "warning")
    assert alone.summary == "accuracy 0.5 (nothing serves yet: `max_drop` has nothing to hold it against)"
    report = ValidationReport(candidate="m", data="rows", rows=1, checks=(alone,))
    assert (report.passed, report.verdict) == (False, f"rejected: every check only warns; {alone.summary}")

    beside = _checked("accuracy", _right(95), ONES, min=0.9, max_drop=0.01)
    assert (beside.passed, beside.severity) == (True, "critical")
    assert not _checked("accuracy", _right(50), ONES, min=0.9, max_drop=0.01).passed
    broken = _checked("accuracy", {"p": np.full((100, 2), NAN)}, ONES, max_drop=0.01)
    assert (broken.passed, broken.rejects) == (False, True)


# --- functions of one's own

MODULE = """
import numpy as np

NUMBER = 3

def profit(answers, labels):
    return np.float32((answers["y"] * labels).sum())

def cost(answers, labels, weight=2):
    return weight * float(np.abs(answers["y"] - labels).sum())

def changes(answers, labels):
    answers["y"][:] = 0
    return 1.0

def gives(value):
    return lambda answers, labels: value

one, yes, text, nothing, nan, array = map(gives, (1, True, "1", None, float("nan"), np.ones(2)))

def fails(answers, labels):
    raise ZeroDivisionError("by nothing")

def takes_one(answers):
    return 1.0
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with functions, where Python finds it."""
    (tmp_path / "own_metrics_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_metrics_of_a_test"


Y = {"y": np.arange(6.0)}


def test_a_function_sees_all_rows_at_once(module: str) -> None:
    """One array for each output and the labels, joined; its number is held against the limits, and against the champion's."""
    labels, theirs = np.ones(6), {"y": np.arange(6.0) + 1}

    assert _checked("profit", Y, labels, cut=3, function=f"{module}:profit", min=15).figures == {"profit": 15.0}
    assert not _checked("profit", Y, labels, function=f"{module}:profit", min=16).passed
    assert not _checked("profit", Y, labels, champion=theirs, bench=SERVES, function=f"{module}:profit", max_drop=5).passed
    cheap = _checked("cost", theirs, labels, champion=Y, bench=SERVES, function=f"{module}:cost", lower_is_better=True, max_drop=8)
    assert (cheap.passed, cheap.figures) == (True, {"cost": 30.0, "champion": 22.0, "drop": 8.0})
    assert not _checked(
        "cost", theirs, labels, champion=Y, bench=SERVES, function=f"{module}:cost", lower_is_better=True, max_drop=7
    ).passed


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fails", "its function raised ZeroDivisionError: by nothing"),
        ("changes", "its function raised ValueError: assignment destination is read-only"),
        ("yes", "its function gave no number, but bool"),
        ("text", "its function gave no number, but str"),
        ("nothing", "its function gave no number, but NoneType"),
        ("array", "its function gave no number, but ndarray"),
        ("nan", "nan is no finite number"),
    ],
)
def test_a_function_that_gives_no_number_never_passes(module: str, name: str, told: str) -> None:
    """What it raised or gave is told."""
    result = _checked("own", Y, np.ones(6), function=f"{module}:{name}", min=-9e9)

    assert not result.passed
    assert told in result.summary


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("own_metrics_of_a_test:f", "has no attribute 'f'"),
        ("own_metrics_of_a_test:NUMBER", "is no function, but int"),
        ("own_metrics_of_a_test:takes_one", "cannot be called as f(answers, labels): too many positional arguments"),
    ],
)
@pytest.mark.usefixtures("module")
def test_a_function_that_cannot_be_called_is_refused(function: str, told: str) -> None:
    """When the check is made: before any data is read."""
    with pytest.raises(ValidationDataError, match=r"^validate\.metrics\.own\.function: ") as refused:
        MetricsCheck({"own": Limits(function=function, min=0)})
    assert told in str(refused.value)


# --- what a person looks at


def _plots(check: MetricsCheck) -> list[list[Any]]:
    return [list(result.plots) for result in check.results(NOTHING_SERVES)]


def test_classes_have_a_confusion_matrix_and_their_wrong_rows() -> None:
    """Once for the metrics that are made of the same counts; the sum is the number of rows."""
    check = MetricsCheck({"accuracy": Limits(min=0), "f1": Limits(min=0)})
    check.see(Seen(Part(0, {}, labels=NAMES[CLASSES[:30]]), {"label": _bytes(NAMES[GUESSED[:30]])}))
    check.see(Seen(Part(30, {}, labels=NAMES[CLASSES[30:]]), {"label": _bytes(NAMES[GUESSED[30:]])}))

    (matrix, wrong), none = _plots(check)

    assert none == []
    assert matrix.rows == matrix.columns == ("ham", "spam", "é")
    np.testing.assert_array_equal(matrix.counts, sklearn_metrics.confusion_matrix(CLASSES, GUESSED))
    first = np.flatnonzero(CLASSES != GUESSED)[:10]
    assert [int(row) for row, _, _ in wrong.rows] == first.tolist()
    assert wrong.rows[0][1:] == (NAMES[GUESSED[first[0]]], NAMES[CLASSES[first[0]]])


def test_a_matrix_of_many_classes_stays_small() -> None:
    """The classes that come most often, and one for all others; no row is lost."""
    labels = np.minimum(np.random.default_rng(2).geometric(0.05, 5_000), 60)
    check = MetricsCheck({"accuracy": Limits(min=0)})
    check.see(Seen(Part(0, {}, labels=labels), {"label": np.roll(labels, 1)}))

    (matrix, _) = _plots(check)[0]

    assert len(matrix.rows) == len(matrix.columns) == MOST_CLASSES
    assert matrix.rows[-1] == "(others)"
    assert np.sum(matrix.counts) == 5_000


def test_numbers_have_a_scatter_and_their_worst_rows() -> None:
    """Prediction against label, once for the metrics that are made of the same sums; the furthest rows by their numbers."""
    check = MetricsCheck({"rmse": Limits(max=9), "mae": Limits(max=9), "r2": Limits(min=-9)})
    values = TARGETS.copy()
    values[[7, 33]] += 5, 9
    for start in (0, 30):
        check.see(Seen(Part(start, {}, labels=TARGETS[start : start + 30]), {"y": values[start : start + 30, None]}))

    (scatter, worst), *others = _plots(check)

    assert others == [[], []]
    assert (scatter.x_label, scatter.y_label, len(scatter.x), scatter.diagonal) == ("label", "predicted", 60, True)
    assert [row[0] for row in worst.rows] == ["33", "7"]


@pytest.mark.parametrize(("name", "labels"), [("accuracy", CLASSES), ("f1", CLASSES), ("rmse", TARGETS), ("r2", TARGETS)])
def test_what_is_kept_does_not_grow_with_the_rows(name: str, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and sums: after the first parts, 200 more leave no array of theirs behind."""
    import gc
    import weakref

    check, left = MetricsCheck({name: Limits(min=-9)}), []
    for number in range(200):
        answer = np.array(VALUES if labels is TARGETS else GUESSED)
        left.append(weakref.ref(answer))
        check.see(Seen(Part(number * 60, {}, labels=labels), {"y": answer}))
        del answer
    gc.collect()

    assert sum(reference() is not None for reference in left) == 0
    assert check.results(NOTHING_SERVES)[0].passed
