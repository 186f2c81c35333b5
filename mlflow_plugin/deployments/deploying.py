"""The pipeline behind `create`, `update` and `run-local`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow_triton import repository
from airflow_triton.errors import SpecError
from airflow_triton.registry import ModelSource
from airflow_triton.rollout import Outcome, Rollout, Target, adopt, deploy, opened
from airflow_triton.spec import Spec
from mlflow_plugin.deployments import made_up

_log = logging.getLogger(__name__)


def deployed(
    spec: Spec,
    target: Target,
    config: Mapping[str, Any] | None,
    *,
    flavor: str | None = None,
    progress: Callable[[str], None] = _log.info,
) -> tuple[ModelSource, Outcome]:
    """Deploy what `spec` says, which `config` amounts to; a deployment of NVIDIA's plugin under its name is taken over first.

    Raises:
        SpecError: `flavor` is given, and is none of the model's.
        DeployError: as `rollout.deploy` says.

    """
    with TemporaryDirectory(prefix="airflow-triton-") as folder:
        with opened(spec, target, progress=progress) as rollout:
            rollout.check_declared()
            source = rollout.registry.resolve(spec.model)
            if flavor is not None and flavor not in source.flavors:
                raise SpecError(f"the flavor `{flavor}` is not one of {source}'s: {', '.join(source.flavors)}")
            if made_up.says_nothing(config):
                spec = made_up.completed(rollout, source, Path(folder))
        with opened(spec, target, progress=progress) as rollout:
            _take_over(rollout)
            return source, deploy(rollout)


def _take_over(rollout: Rollout) -> None:
    """Adopt what NVIDIA's plugin deployed under this name: it serves as before, and is a release to go back to."""
    for fleet in rollout.fleets:
        found = repository.foreign(fleet.store, rollout.spec.name)
        if found is not None and found.mlflow_uri is not None:
            _log.warning("%s", adopt(rollout.spec.name, fleet.store, fleet.servers.addresses).summary)
