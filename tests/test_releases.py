"""The table of Triton's releases: found by the server's own version, and never a guess."""

from __future__ import annotations

from itertools import pairwise

import pytest

from airflow_triton.errors import ConversionError
from airflow_triton.server.releases import ONNX_LIMITS, RELEASES, check_plan, onnx_limits, release_of


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_a_server_is_found_by_the_version_that_it_says() -> None:
    found = release_of("2.59.1")

    assert found is not None
    assert (found.container, found.onnxruntime, found.python) == ("25.07", "1.22.0", "3.12")


@pytest.mark.parametrize("version", ["2.41.0", "2.59.2", "3.0.0", "2.51", "", "nonsense"])
def test_a_server_that_is_not_in_the_table_is_not_guessed(version: str) -> None:
    assert release_of(version) is None
    assert onnx_limits(release_of(version)) is None


def test_the_table_has_every_month_once_and_in_order() -> None:
    """Server, container and onnxruntime grow together, and no month from 24.01 on is left out."""
    months = [numbers(release.container) for release in RELEASES]

    assert months[0] == (24, 1)
    assert all(later == ((year, month + 1) if month < 12 else (year + 1, 1)) for (year, month), later in pairwise(months))
    assert all(numbers(a.server) < numbers(b.server) for a, b in pairwise(RELEASES))
    assert all(numbers(a.onnxruntime) <= numbers(b.onnxruntime) for a, b in pairwise(RELEASES))
    known = [numbers(release.tensorrt) for release in RELEASES if release.tensorrt]
    assert known == sorted(known)


def test_the_limits_of_every_release_are_known() -> None:
    limits = [onnx_limits(release) for release in RELEASES]

    assert None not in limits
    assert limits == sorted(limits)  # type: ignore[type-var]
    assert onnx_limits(release_of("2.51.0")) == (21, 10)


def test_the_limits_are_those_of_the_onnxruntime_that_is_installed_here() -> None:
    """The same measurement, on the one version at hand: it loads the limits of every older version."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    def loads(opset: int, ir_version: int) -> bool:
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
        model = onnx.ModelProto(ir_version=ir_version, graph=graph, opset_import=[helper.make_opsetid("", opset)])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001 - onnxruntime's errors have no common base
            return False
        return True

    here = numbers(onnxruntime.__version__)[:2]
    assert all(loads(*limits) for version, limits in ONNX_LIMITS.items() if numbers(version) <= here)
    exact = ONNX_LIMITS.get(".".join(map(str, here)))
    assert exact is None or not (loads(exact[0] + 1, exact[1]) or loads(exact[0], exact[1] + 1))
    assert not loads(99, 8)


def test_a_plan_of_the_servers_own_tensorrt_fits() -> None:
    assert check_plan(release_of("2.62.0"), "10.13.3.9") is None
    assert check_plan(release_of("2.62.0"), "10.13.3.9.post1") is None
    assert check_plan(release_of("2.47.0"), "10.1.0.27") is None, "the table knows three numbers of it"


@pytest.mark.parametrize("built", ["10.13.2.6", "10.14.1.48", "11.0.0.114", "8.6.3"])
def test_a_plan_of_another_tensorrt_is_refused_and_both_sides_are_named(built: str) -> None:
    with pytest.raises(
        ConversionError, match=rf"TensorRT {built}, and Triton 2\.62\.0 \(25\.10\) has TensorRT 10\.13\.3\.9.*nvidia/tensorrt"
    ):
        check_plan(release_of("2.62.0"), built)


def test_a_version_compatible_plan_fits_a_later_server() -> None:
    note = check_plan(release_of("2.62.0"), "10.9.0.34", version_compatible=True)

    assert note is not None
    assert "--backend-config=tensorrt,version-compatible=true" in note
    assert check_plan(release_of("2.62.0"), "8.6.3", version_compatible=True) is not None
    for built in ("10.14.1.48", "11.0.0", "9.3.0"):
        with pytest.raises(ConversionError, match="where it is not older, of the same major version"):
            check_plan(release_of("2.62.0"), built, version_compatible=True)


def test_what_cannot_be_compared_is_said() -> None:
    for version in ("2.71.0", "9.9.9"):
        note = check_plan(release_of(version), "10.13.3.9")
        assert note is not None
        assert "not known here" in note
        assert "10.13.3.9" in note
