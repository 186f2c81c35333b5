"""Azurite: Microsoft's own emulator of Azure Blob Storage, from npm."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from airflow_triton.local_triton.ports import ADDRESS, free_port
from airflow_triton.local_triton.process import GUARD

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Every Azurite's own, and no secret."""
HOME = Path.home() / ".cache" / "airflow-triton" / "azurite"
INSTALL = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(HOME), "azurite@3.35.0"]
INSTALL_SECONDS = 240.0
VERSION = "2021-08-06"
START_SECONDS = 30.0


def program() -> str | None:
    """Where `azurite-blob` is, if it is anywhere."""
    installed = HOME / "node_modules" / ".bin" / "azurite-blob"
    return str(installed) if installed.exists() else shutil.which("azurite-blob")


def missing() -> str:
    """Install Azurite for good, where it is not and npm is; answer why there is none, or nothing."""
    if program() is not None:
        return ""
    if shutil.which("npm") is None:
        return f"needs Azurite, or npm to install it: {' '.join(INSTALL)}"
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(INSTALL, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        return f"Azurite could not be installed: {error}"
    return "" if program() is not None else f"Azurite could not be installed: {done.stderr.strip()[-300:]}"


@contextlib.contextmanager
def azurite(container: str) -> Iterator[dict[str, str]]:
    """A server that keeps its objects in memory, with one container; the variables with which obstore finds it."""
    found = program()
    assert found, "not installed"
    url = f"http://{ADDRESS}:{free_port()}"
    command = [found, "--silent", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    address = ["--blobHost", ADDRESS, "--blobPort", url.rpartition(":")[2]]
    guarded = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), "airflow-triton-azurite-", *command, *address]
    with subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True) as guard:
        try:
            _make_container(f"{url}/{ACCOUNT}/{container}", container)
            yield {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": url}
        finally:
            guard.terminate()


def _make_container(url: str, container: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        at = datetime.now(timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        resource = f"/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
        text = "PUT" + "\n" * 12 + f"x-ms-date:{at}\nx-ms-version:{VERSION}\n{resource}"
        signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
        headers = {"x-ms-date": at, "x-ms-version": VERSION, "Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Type": ""}
        request = urllib.request.Request(f"{url}?restype=container", data=b"", method="PUT", headers=headers)
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5).close()
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
