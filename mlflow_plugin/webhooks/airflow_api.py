"""Airflow through its REST API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_triton.asked import KEPT_AS, asset_uri, mark_of
from airflow_triton.errors import SpecError
from mlflow_plugin.webhooks.dag_runs import UnknownDagError
from mlflow_plugin.webhooks.starting import StartError

if TYPE_CHECKING:
    import requests

    from airflow_triton.rollout.following import Wanted

TOKEN_VARIABLE = "AIRFLOW_TRITON_API_TOKEN"  # noqa: S105 the name of a variable
USER_VARIABLE = "AIRFLOW_TRITON_API_USERNAME"
PASSWORD_VARIABLE = "AIRFLOW_TRITON_API_PASSWORD"  # noqa: S105 the name of a variable
_SECONDS = 10.0
_NEWEST = 20


class AirflowApi:
    """The API server of an Airflow 3 at `url`, with a token or with a user and a password from the environment.

    A user's token is asked for at `/auth/token`, and again when it has expired. What the user must be allowed: to read the runs of the
    `deploy_` DAGs, and to trigger them.

    Raises:
        SpecError: the URL is none, or has credentials in it; the environment has neither a token nor a user with a password.

    """

    def __init__(self, url: str, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            shown = f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else url
            raise SpecError(f"got `{shown}`; Airflow is named by the URL of its API server, without credentials: http://airflow:8080")
        self.url = url.rstrip("/")
        self._fixed = environment.get(TOKEN_VARIABLE, "")
        self._user, self._password = environment.get(USER_VARIABLE, ""), environment.get(PASSWORD_VARIABLE, "")
        if not self._fixed and not (self._user and self._password):
            raise SpecError(f"no way into Airflow at {self.url}: set {TOKEN_VARIABLE}, or {USER_VARIABLE} and {PASSWORD_VARIABLE}")
        self._token = self._fixed

    def newest_run(self, dag_id: str, prefix: str) -> str | None:
        """See dag_runs.Airflow."""
        path = f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns"
        answer = self._ask("GET", path, params={"run_id_pattern": prefix, "order_by": "-id", "limit": str(_NEWEST)})
        _known(answer, dag_id)
        ids = [str(run["dag_run_id"]) for run in self._read(answer, 200)["dag_runs"]]
        return next((run_id for run_id in ids if run_id.startswith(prefix)), None)

    def start_run(self, dag_id: str, run_id: str) -> bool:
        """See dag_runs.Airflow."""
        body = {"dag_run_id": run_id, "logical_date": None, "note": "the model registry asks for it"}
        answer = self._ask("POST", f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns", json=body)
        _known(answer, dag_id)
        if answer.status_code == 409:  # noqa: PLR2004 the run is there
            return False
        self._read(answer, 200)
        return True

    def tell_watcher(self, wanted: Wanted) -> None:
        """See dag_runs.Airflow. Airflow before 3.3 has no place for it, and not every user may write there."""
        asset = asset_uri(wanted.name)
        found = self._read(self._ask("GET", "/api/v2/assets", params={"uri_pattern": asset}), 200)["assets"]
        for each in found:
            if each["uri"] == asset:
                body = {"value": mark_of(wanted.version, wanted.spec)}
                self._read(self._ask("PUT", f"/api/v2/assets/{each['id']}/state-store/{KEPT_AS}", json=body), 204)

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        if not self._token:
            self._token = self._login()
        answer = self._send(method, path, headers={"authorization": f"Bearer {self._token}"}, **options)
        if answer.status_code == 401 and not self._fixed:  # noqa: PLR2004 the token expired
            self._token = self._login()
            answer = self._send(method, path, headers={"authorization": f"Bearer {self._token}"}, **options)
        return answer

    def _login(self) -> str:
        answer = self._send("POST", "/auth/token", json={"username": self._user, "password": self._password})
        return str(self._read(answer, 200, 201)["access_token"])

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        import requests

        try:
            return requests.request(method, f"{self.url}{path}", timeout=_SECONDS, allow_redirects=False, **options)
        except requests.RequestException as error:
            raise StartError(f"Airflow at {self.url} does not answer: {type(error).__name__}") from None

    def _read(self, answer: requests.Response, *fine: int) -> dict[str, Any]:
        try:
            told = answer.json()
        except ValueError:
            told = {}
        if answer.status_code in fine and isinstance(told, dict):
            return told
        reason = told.get("detail", "") if isinstance(told, dict) else ""
        raise StartError(
            f"Airflow at {self.url} answers {answer.status_code} to {answer.request.method} {answer.request.path_url}: {reason}"
        )


def _known(answer: requests.Response, dag_id: str) -> None:
    if answer.status_code == 404:  # noqa: PLR2004 there is no such DAG
        raise UnknownDagError(dag_id)
