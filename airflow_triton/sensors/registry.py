"""Waiting until a version, an alias or a tag appears in MLflow's registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import PokeReturnValue

from airflow_triton.errors import RegistryUnreachableError, SpecError
from airflow_triton.sensors.waiting import WaitingSensor

if TYPE_CHECKING:
    from airflow_triton.triggers.waiting import WaitTrigger


class ModelVersionSensor(WaitingSensor):
    """Wait until the registry has a version of a model that fits, and answer it: `{"name": ..., "version": 7, "uri": "models:/iris/7"}`.

    All that is given has to be true of one version; of several that fit it is the highest. With nothing but the name it is any version.
    A registry that does not answer is waited for, and so is a model that is not there yet.

    :param model: the registered model's name (templated)
    :param version: the version's number (templated)
    :param alias: an alias that has to mean the version (templated)
    :param tag: a tag that the version has to carry (templated), with the value `tag_value` or with any
    :param tag_value: the tag's value (templated)
    :param newer_than: a version's number: it has to be a higher one (templated)
    :param tracking_uri: MLflow's, without credentials (templated); default: the environment's, the worker's and the triggerer's
    :param deferrable: see WaitingSensor
    """

    template_fields: Sequence[str] = ("model", "version", "alias", "tag", "tag_value", "newer_than", "tracking_uri")
    ui_color = "#76b900"

    def __init__(
        self,
        *,
        model: str,
        version: int | str | None = None,
        alias: str | None = None,
        tag: str | None = None,
        tag_value: str | None = None,
        newer_than: int | str | None = None,
        tracking_uri: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.alias = alias
        self.tag = tag
        self.tag_value = tag_value
        self.newer_than = newer_than
        self.tracking_uri = tracking_uri

    @property
    def wait_id(self) -> str:
        """The model's URI."""
        return f"models:/{self.model}"

    def look(self) -> tuple[bool | PokeReturnValue, WaitTrigger | None]:
        """See WaitingSensor."""
        from airflow_triton.triggers.registry import ModelVersionTrigger

        self._check()
        version, newer_than = self.number("version", self.version), self.number("newer_than", self.newer_than)
        found = self._found(version, newer_than)
        self.log.info("%s: %s", self.wait_id, "not yet" if found is None else f"version {found}")
        if found is not None:
            return PokeReturnValue(True, {"name": self.model, "version": found, "uri": f"models:/{self.model}/{found}"}), None
        trigger = ModelVersionTrigger(
            model=self.model,
            version=version,
            alias=self.alias or None,
            tag=self.tag or None,
            tag_value=self.tag_value,
            newer_than=newer_than,
            tracking_uri=self.tracking_uri or None,
            poll_interval=self.poke_interval,
        )
        return False, trigger

    def _check(self) -> None:
        from airflow_triton.spec.values import checked_tracking_uri

        if not self.model:
            raise SpecError(f"the sensor `{self.task_id}` has no `model`")
        if self.tag_value is not None and not self.tag:
            raise SpecError(f"the sensor `{self.task_id}` has a `tag_value` and no `tag`")
        if self.tracking_uri:
            try:
                checked_tracking_uri(self.tracking_uri, None)
            except ValueError as error:
                raise SpecError(f"the sensor `{self.task_id}` has a wrong tracking_uri: {error}") from None

    def _found(self, version: int | None, newer_than: int | None) -> int | None:
        from airflow_triton.registry import Registry
        from airflow_triton.rollout.wanted import Wish

        registry = Registry(self.tracking_uri or None)
        try:
            known = registry.models(self.model).get(self.model)
            tagged = registry.tagged_models(self.tag, self.tag_value, name=self.model).get(self.model, ()) if self.tag else ()
            found = Wish(version, self.alias or None, self.tag or None, newer_than).fulfilled_by(known, tagged)
            if found is not None and version is not None:
                registry.find(f"models:/{self.model}/{version}")  # one that was deleted is an error: it does not come back
        except RegistryUnreachableError as error:
            self.log.info("%s", error)
            return None
        return found
