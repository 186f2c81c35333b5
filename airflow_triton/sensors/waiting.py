"""What the sensors share: to wait in a worker's slot, or, deferred, in the triggerer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue, conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from airflow_triton.errors import SpecError
from airflow_triton.operators.base import errors_for_airflow

if TYPE_CHECKING:
    from airflow_triton.triggers.waiting import WaitTrigger

_STATUSES = ("there", "due", "failed")
_GRACE = 60.0
"""The trigger keeps the sensor's timeout by itself, so that the sensor looks a last time; Airflow ends a trigger that does not."""


class WaitingSensor(BaseSensorOperator):
    """A wait that holds no worker while it lasts, where it is deferrable.

    What the triggerer tells is a hint: the sensor looks again itself, in a worker, and is deferred anew where it is not there yet. The
    `timeout` runs from the first look of a try. `soft_fail`, `never_fail` and `silent_fail` mean what they mean to Airflow's sensors.

    :param deferrable: wait in the triggerer, which looks every `poke_interval` seconds; default: Airflow's `[operators] default_deferrable`
    """

    def __init__(self, *, deferrable: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deferrable = conf.getboolean("operators", "default_deferrable", fallback=False) if deferrable is None else deferrable

    @abstractmethod
    def look(self) -> tuple[bool | PokeReturnValue, WaitTrigger | None]:
        """Whether it is there, and what to wait with where it is not; None: no trigger can see the end of this wait."""

    @property
    @abstractmethod
    def wait_id(self) -> str:
        """What is waited for, as the trigger's events name it."""

    def number(self, argument: str, value: int | str | None) -> int | None:
        """The version that an argument of the sensor names; None where it names none.

        Raises:
            SpecError: it is no version.

        """
        if value in (None, ""):
            return None
        if not str(value).isdecimal() or int(str(value)) < 1:
            raise SpecError(f"the sensor `{self.task_id}` has {argument} `{value}`: a version is a number, 1 or higher")
        return int(str(value))

    def poke(self, context: Context) -> bool | PokeReturnValue:  # noqa: ARG002 Airflow's signature
        """Whether it is there."""
        with errors_for_airflow():
            return self.look()[0]

    def execute(self, context: Context) -> Any:
        """See the class."""
        if not self.deferrable:
            return super().execute(context)
        return self._wait(datetime.now(timezone.utc) + timedelta(seconds=self.timeout))

    def resume(self, context: Context, event: Any = None) -> Any:  # noqa: ARG002 Airflow's signature
        """Go on after the trigger has fired."""
        if not isinstance(event, dict) or event.get("status") not in _STATUSES or event.get("id") != self.wait_id:
            raise AirflowFailException(
                f"the sensor `{self.task_id}` waits for {self.wait_id} and was sent another trigger's event: {event!r}"
            )
        return self._wait(datetime.fromisoformat(str(event["deadline"])), event)

    def _wait(self, deadline: datetime, event: dict[str, Any] | None = None) -> Any:
        found, trigger = self._looked()
        if not found:
            self._go_on(deadline, event or {}, trigger)
        self.log.info("%s: there", self.wait_id)
        return found.xcom_value if isinstance(found, PokeReturnValue) else None

    def _go_on(self, deadline: datetime, event: Mapping[str, Any], trigger: WaitTrigger | None) -> NoReturn:
        """Defer, or fail where that makes no sense any more."""
        from airflow_triton.triggers.waiting import PauseTrigger

        if event.get("status") == "failed":
            raise AirflowFailException(f"the triggerer cannot look for {self.wait_id} ({event['error_type']}): the log says why")
        left = (deadline - datetime.now(timezone.utc)).total_seconds()
        if left <= 0:
            self._give_up(AirflowSensorTimeout(f"{self.wait_id} is not there after {self.timeout:g} s"))
        if trigger is None or event.get("status") == "there":  # the trigger would fire at once
            trigger = PauseTrigger(name=self.wait_id, poll_interval=self.poke_interval, look_again=self.poke_interval)
        trigger.look_again, trigger.deadline = min(trigger.look_again, left), deadline.isoformat()
        self.defer(trigger=trigger, method_name="resume", timeout=left + _GRACE)

    def _looked(self) -> tuple[bool | PokeReturnValue, WaitTrigger | None]:
        """`look`, with Airflow's settings for what it raises."""
        try:
            with errors_for_airflow():
                return self.look()
        except AirflowFailException as error:
            self._give_up(error)
        except AirflowException as error:
            if not self.silent_fail:
                self._give_up(error, soft=False)
            self.log.error("%s", error)  # noqa: TRY400 the message says it all
        return False, None

    def _give_up(self, error: Exception, *, soft: bool = True) -> NoReturn:
        if self.never_fail or (soft and self.soft_fail):
            raise AirflowSkipException(str(error)) from None
        raise error
