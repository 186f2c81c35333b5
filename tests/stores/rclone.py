"""`rclone serve s3`: a real S3 server that silently ignores the condition of a conditional write."""

from __future__ import annotations

from airflow_triton.local_triton.ports import ADDRESS
from stores.server import S3Server, program


class RcloneS3(S3Server):
    """rclone over a local folder: each bucket is a folder in `folder/data`, each object a file."""

    name = "rclone serve s3"

    def _command(self, ports: range) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return [
            program("rclone"),
            "serve",
            "s3",
            "--config=",  # none, so that no file of the user's counts
            f"--addr={ADDRESS}:{ports[0]}",
            f"--auth-key={self.access_key},{self.secret_key}",
            "--vfs-cache-mode=off",
            str(data),
        ]
