"""What a model is validated with that brings no rows of its own, where the call does not say what to validate with.

Whoever comes from NVIDIA's plugin has logged models without an input example and calls `create` with nothing else. Such a model is asked
made-up rows: where it has an original (everything but the flavor `triton`) Triton's answers are held against that; a ready Triton model has
to answer each as its config declares. That is less than rows of the user's own would show, and is said so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_triton import convert as conversion
from airflow_triton.convert.cases import made_up
from airflow_triton.registry import ModelSource
from airflow_triton.rollout import Rollout
from airflow_triton.spec import Spec, spec_from_mapping
from airflow_triton.tensors import save_arrays

_ROWS = 8
_ANSWERS = {"p99_ms": 60_000.0, "requests": 20}
"""A ready model has to answer so many requests, each within a minute."""

_log = logging.getLogger(__name__)


def says_nothing(config: Mapping[str, Any] | None) -> bool:
    """Whether the call does not say what to validate with."""
    return not any(key == "spec" or key.partition(".")[0] == "validate" for key in config or {})


def completed(rollout: Rollout, source: ModelSource, folder: Path) -> Spec:
    """The rollout's spec, with what is lacking to validate this version; as it is where nothing is lacking.

    The model is converted for it, which the deployment then finds done. `folder` takes the rows, and is needed until the deployment has
    ended.
    """
    spec, missing = rollout.spec, {}
    if not conversion.has_original(source.flavors):
        missing = {"parity": False, "latency": _ANSWERS}
        _log.warning(
            "%s is a ready Triton model, so there is no original to compare it with: it has to load, and to answer as its config declares. "
            "Better: -C validate.data=FILE -C validate.metrics.accuracy.min=0.9 -C validate.parity=false",
            source,
        )
    if not source.has_input_example:
        rows = folder / "made-up.npz"
        save_arrays(rows, made_up(rollout.convert(source).servable, _ROWS))
        missing["data"] = str(rows)
        _log.warning(
            "%s has no input example, so it is validated with made-up rows. Better: log it with one, or -C validate.data=FILE", source
        )
    if not missing:
        return spec
    mapping = spec.to_mapping()
    mapping["validate"] = {**mapping.get("validate", {}), **missing}
    return spec_from_mapping(mapping, where="mlflow deployments")
