"""The tour, whole, as `make demo` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_main_job(tmp_path: Path) -> None:
    """Two good scikit-learn models are promoted by the DAG, the bad one is rejected, back and forward, and no request fails."""
    script = Path(sys.executable).parent / "airflow-triton"
    ended = subprocess.run(
        [script, "demo", "--json", "--folder", tmp_path / "tour"], capture_output=True, text=True, timeout=560, check=False
    )

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert [(row["version"], row["serves"], row["verdict"]) for row in told["versions"]] == [
        (1, False, "passed"),
        (2, False, "rejected"),
        (3, True, "passed"),
    ]
    assert told["failed_requests"] == 0
    assert told["requests"] > 1000
    assert told["problems"] == []
    assert sorted(path.name for path in (tmp_path / "tour" / "repository").iterdir()) == ["digits"]
