"""The hook of the `triton` connection type."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from airflow_triton.errors import DeployError, SpecError

if TYPE_CHECKING:
    from airflow_triton.server import ServerAddress, TritonClient


class TritonHook(BaseHook):
    """A Triton server from an Airflow connection of type `triton`.

    The connection's host is a URL (`http://triton:8000`, `grpcs://triton:8001`), or a bare host name with its port and, in the
    extra, `protocol` (`http`, the default, or `grpc`) and `tls` (true or false). The password, if there is one, is sent as a bearer
    token with every request; so is each of the extra `secret_headers` (NAME=VALUE, separated by commas, or a JSON object). For https and
    grpcs, the extra `ca` is a file of the authorities that the server's certificate may be of, `certificate` and `key` are files of our
    own. The extra `control_mode` (`explicit`, `poll` or `none`) says how the server was started. Other extras are not read.

    :param triton_conn_id: the connection's id
    """

    conn_name_attr = "triton_conn_id"
    default_conn_name = "triton_default"
    conn_type = "triton"
    hook_name = "NVIDIA Triton"

    def __init__(self, triton_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.triton_conn_id = triton_conn_id

    @cached_property
    def address(self) -> ServerAddress:
        """Where the server is, and the headers that let us in.

        Raises:
            SpecError: there is no such connection, it has no host, or an extra that is not valid.

        """
        from airflow_triton.server import ServerAddress

        try:
            connection = self.get_connection(self.triton_conn_id)
        except AirflowNotFoundException:
            raise SpecError(
                f"there is no Airflow connection `{self.triton_conn_id}`: add one of type `triton`, or name the server by its URL"
            ) from None
        host = (connection.host or "").strip()
        if not host:
            raise SpecError(f"the Airflow connection `{self.triton_conn_id}` has no host: give it one such as http://triton:8000")
        extra = connection.extra_dejson
        mode = extra.get("control_mode") or None
        if mode not in (None, "explicit", "poll", "none"):
            raise SpecError(f"the Airflow connection `{self.triton_conn_id}` has control_mode `{mode}`: valid are explicit, poll and none")
        if "://" not in host:
            protocol, tls = extra.get("protocol") or "http", extra.get("tls") or False
            if protocol not in ("http", "grpc") or not isinstance(tls, bool):
                raise SpecError(
                    f"the Airflow connection `{self.triton_conn_id}` has protocol `{protocol}` and tls `{tls}`: "
                    "valid are http and grpc, true and false"
                )
            host = f"{protocol}{'s' if tls else ''}://{host}" + (f":{connection.port}" if connection.port else "")
        headers = self._headers(connection.password, extra.get("secret_headers"))
        address = ServerAddress.parse(host, headers=headers)
        ca, certificate, key = (extra.get(name) or None for name in ("ca", "certificate", "key"))
        return replace(address, control_mode=mode, ca=ca, certificate=certificate, key=key)

    def _headers(self, password: str | None, given: Any) -> dict[str, str]:
        """The headers of the connection; Airflow's log masks their values from now on."""
        from airflow_triton.server.environment import headers_of

        where = f"the Airflow connection `{self.triton_conn_id}`: the extra `secret_headers`"
        headers = headers_of(given if isinstance(given, str) else json.dumps(given or {}), where)
        for value in (*headers.values(), password):
            mask_secret(value)
        if password:
            headers["authorization"] = f"Bearer {password}"
        return headers

    def get_conn(self) -> TritonClient:
        """A client of the server, to be closed by the caller."""
        from airflow_triton.server import TritonClient

        return TritonClient(self.address)

    def test_connection(self) -> tuple[bool, str]:
        """Whether the server answers that it is live; for Airflow's test button."""
        try:
            with self.get_conn() as client:
                client.check_live()
        except DeployError as error:
            return False, str(error)
        return True, f"{self.address} is live"
