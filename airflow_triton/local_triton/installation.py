"""What an installed server is: where its parts lie, and the process environment that they need."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_triton.local_triton.extras import Extra

MARKER = ".complete"
_STRANGERS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True)
class Installation:
    """An installed server.

    `home` is the virtual environment that holds it, `site_packages` that environment's packages, and `backends` the folder to
    pass as `--backend-directory`. `extras` are what it was installed with on top.
    """

    home: Path
    site_packages: Path
    backends: Path
    extras: frozenset[Extra] = frozenset()

    @property
    def python(self) -> Path:
        """The environment's own interpreter, the one that the backends run with."""
        return self.home / "bin" / "python"

    @property
    def server(self) -> Path:
        """The tritonserver binary."""
        return self.site_packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def libpython(self) -> Path:
        """A folder with nothing but a link to the libpython of the environment's interpreter (empty where none was found)."""
        return self.home / "libpython"

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment variables to start the server with: `base` (this process's, unless given), and what it needs on top.

        The interpreter inside the backends takes `python3` from PATH as its home, so the environment's own comes first, and
        nothing that points at the caller's Python is handed on.
        """
        inherited = dict(os.environ if base is None else base)
        variables = {name: value for name, value in inherited.items() if name not in _STRANGERS}
        libraries = [str(self.libpython), str(self.site_packages / "nvidia_pytriton.libs"), variables.get("LD_LIBRARY_PATH", "")]
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
        variables["PATH"] = os.pathsep.join(filter(None, [str(self.home / "bin"), variables.get("PATH", os.defpath)]))
        variables["PYTHONNOUSERSITE"] = "1"
        variables.setdefault("ORT_DISABLE_TELEMETRY", "1")
        return variables


def read_marker(home: Path) -> Path | None:
    """The site-packages of a finished environment; None where it is missing, unfinished, or its interpreter is gone."""
    try:
        marker = json.loads((home / MARKER).read_text(encoding="utf-8"))
        site_packages = Path(marker["site_packages"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return site_packages if (home / "bin" / "python").exists() and site_packages.is_dir() else None


def write_marker(home: Path, site_packages: Path) -> None:
    """Say that the environment is finished; the last thing that an install does."""
    draft = home / f"{MARKER}.{os.getpid()}"
    draft.write_text(json.dumps({"site_packages": str(site_packages)}) + "\n", encoding="utf-8")
    draft.replace(home / MARKER)
