"""SeaweedFS: a real S3 server that keeps every promise we rely on (conditional writes, checksums, copies, multipart)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow_triton.local_triton.ports import ADDRESS
from stores.server import GRPC_OFFSET, S3Server, program

MASTER, VOLUME, FILER, S3, ADMIN = range(5)


class SeaweedFS(S3Server):
    """The `weed` binary as one process: master, volume, filer and S3, all on 127.0.0.1; nothing is reported home."""

    name = "SeaweedFS"
    ports_needed = 5

    def _endpoint_port(self, ports: range) -> int:
        return ports[S3]

    def _command(self, ports: range) -> list[str]:
        data, log = self.folder / "data", self.folder / "log"
        data.mkdir(exist_ok=True)
        log.mkdir(exist_ok=True)
        return [
            program("weed"),
            f"-logdir={log}",
            "mini",
            f"-dir={data}",
            f"-ip={ADDRESS}",
            f"-ip.bind={ADDRESS}",
            f"-master.port={ports[MASTER]}",
            f"-volume.port={ports[VOLUME]}",
            f"-filer.port={ports[FILER]}",
            f"-s3.port={ports[S3]}",
            f"-admin.port={ports[ADMIN]}",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.localSocket=s3.sock",  # in the folder, where we start it; it is left behind
            "-s3.port.iceberg=0",  # these two have fixed ports otherwise
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",  # as Amazon's: a PUT into a bucket that is not there is an error
            "-volume.preStopSeconds=0",
            "-master.telemetry=false",
        ]

    def _leftovers(self, ports: range) -> list[Path]:
        folder = Path(tempfile.gettempdir())
        return [left for port in ports for number in (port, port + GRPC_OFFSET) for left in folder.glob(f"seaweedfs-*-{number}.sock")]
