"""Everything that a server can do to a deployment, on two real ones.

Each time the old version serves on every replica that is up, the repository holds what it held, and the verdict in MLflow says what
happened. The old version is the same for all tests; each of them ends with an apply of it, which brings back what is not as it was.

A model that behaves on one machine and not on the server is a ready one of the Python backend: its code knows whether it is a candidate.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import everything_in
from test_disk_faults import FULL, Mounted
from test_triton_flavor import lay, register

from airflow_triton.errors import DeployError, RejectedError, ServerError, ServerUnreachableError
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, releases
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.rollout import Outcome, find_target, opened
from airflow_triton.rollout import deploy as run_pipeline
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping
from airflow_triton.validation import asking

NAME = "fragile"
CONFIG = """backend: "python"
max_batch_size: 8
instance_group { count: 1 kind: KIND_CPU }
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
"""
MODEL = """
import os
import re
import signal
import time

import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        self.candidate = "--candidate-" in args["model_name"]
        {load}

    def execute(self, requests):
        answers = []
        for request in requests:
            y = utils.get_input_tensor_by_name(request, "x").as_numpy() * {factor}
            {ask}
            answers.append(utils.InferenceResponse([utils.Tensor("y", y.astype(np.float32))]))
        return answers
"""
KILL = "os.kill(os.getppid(), signal.SIGKILL)"


@dataclass
class Two:
    """The servers, clients of them, what they serve from, and the file system of that (`no_disk` says why it has none of its own)."""

    servers: list[LocalTriton]
    clients: list[TritonClient]
    store: LocalRepository
    disk: Mounted
    no_disk: str

    @property
    def up(self) -> list[TritonClient]:
        """Clients of the servers that live."""
        return [client for client in self.clients if _lives(client)]

    def kill(self, number: int) -> None:
        """End one as a machine that loses its power does."""
        os.killpg(self.servers[number].pid, signal.SIGKILL)

    def mend(self) -> None:
        """Start again who is dead or hangs, and unload everything but the model."""
        for number, client in enumerate(self.clients):
            lives = _lives(client)
            if not lives or any(row.state == "LOADING" for row in client.index()):
                if lives:
                    self.kill(number)
                self.servers[number].stop()
                self.servers[number].start()
                while not _lives(client):
                    time.sleep(0.05)
            for name in {row.name for row in client.index() if row.state} - {NAME}:
                client.unload(name)


def _lives(client: TritonClient) -> bool:
    try:
        client.check_live()
    except ServerUnreachableError:
        return False
    return True


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Two real servers over one repository, for the whole module; where this user may mount, on a disk that can be filled."""
    disk = Mounted(tmp_path_factory.mktemp("two"))
    no_disk = disk.mount_or_why()
    made = [LocalTriton(disk.store.root, grpc_port=free_port(), extra_args=["--disable-auto-complete-config"]) for _ in range(2)]
    try:
        with made[0], made[1]:
            clients = [TritonClient(ServerAddress.parse(server.grpc_url)) for server in made]
            yield Two(made, clients, disk.store, disk, no_disk)
            for client in clients:
                client.close()
    finally:
        if not no_disk:
            disk.unmount()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows with their labels, which are twice the input."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("x,label\n" + "".join(f"{value},{2 * value}\n" for value in range(1, 21)))
    return path


class Deploy:
    """Registers models whose code does as it is told, as versions of one registered model, and deploys them."""

    def __init__(self, servers: Two, rows: Path, tracking_uri: str, folder: Path) -> None:
        self.servers, self.rows, self.tracking_uri, self.folder = servers, rows, tracking_uri, folder
        self.old = self.register({})
        self.new = 0

    def register(self, code: dict[str, str]) -> int:
        """The version that got this code."""
        text = MODEL.format(**{"factor": "2", "load": "pass", "ask": "pass", **code})
        ready = lay(Path(tempfile.mkdtemp(dir=self.folder)) / "ready", CONFIG, {"1/model.py": text})
        return register(self.tracking_uri, NAME, ready)

    def __call__(self, code: dict[str, str], told: Callable[[str], None] = lambda _: None) -> Outcome:
        """Deploy a new version with this code; `told` is told what is being done."""
        self.new = self.register(code)
        return self.apply(self.new, told)

    def apply(self, version: int, told: Callable[[str], None] = lambda _: None) -> Outcome:
        """Deploy this version."""
        spec = spec_from_mapping(
            {
                "name": NAME,
                "model": f"models:/{NAME}/{version}",
                "convert": {"to": "as-is"},
                "repository": str(self.servers.store),
                "servers": [server.grpc_url for server in self.servers.servers],
                "tracking_uri": self.tracking_uri,
                "validate": {"data": str(self.rows), "parity": False, "metrics": {"mae": {"max": 0.1}}},
            }
        )
        with opened(spec, find_target(spec), progress=told) as rollout:
            return run_pipeline(rollout)

    def verdict(self) -> tuple[str, str]:
        """What MLflow has been told of the new version."""
        tags = Registry(self.tracking_uri).tags(NAME, self.new)
        return tags[f"triton.{NAME}.verdict"], tags[f"triton.{NAME}.why"]

    def check_old(self, up: int = 2) -> None:
        """On every replica that is up (so many) the old version alone is ready and gives its answer; so says the repository."""
        assert len(self.servers.up) == up
        for client in self.servers.up:
            assert client.ready_versions(NAME) == (self.old,)
            assert client.infer(NAME, {"x": np.array([[3.0]], np.float32)})["y"].tolist() == [[6.0]]
        assert releases(self.servers.store, NAME)[-1].version == self.old


@pytest.fixture(scope="module")
def deployments(servers: Two, rows: Path, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Of the module: its old version serves."""
    made = Deploy(servers, rows, tracking_uri, tmp_path_factory.mktemp("ready"))
    made.apply(made.old)
    return made


@pytest.fixture
def deploy(deployments: Deploy, servers: Two) -> Iterator[Deploy]:
    """The old version serves on both; after the test, whatever happened to the servers, the next apply brings it back to both."""
    deployments.check_old()
    before = servers.store.read_config(NAME)
    yield deployments
    servers.mend()
    outcome = deployments.apply(deployments.old)
    assert (outcome.action in ("unchanged", "loaded"), outcome.warnings) == (True, ())
    deployments.check_old()
    assert servers.store.read_config(NAME) == before
    assert servers.store.folders(MODELS) == [NAME]
    assert everything_in(servers.store, WORK) == set()


LIES = {
    "an error": ({"ask": "assert not ({when}), 'out of order'"}, "does not answer.*out of order", "out of order"),
    "NaN": ({"factor": "(np.nan if {when} else 2)"}, "mae.*NaN", "answers otherwise than when it was validated"),
    "a wrong shape": (
        {"ask": "y = np.concatenate([y, y], axis=1) if {when} else y"},
        r"'y' \[20, 2\].*declared.*\[-1, 1\]",
        r"answers otherwise.*\[1, 2\]",
    ),
    "a wrong number": ({"factor": "(3 if {when} else 2)"}, "mae 10.5 is above 0.1", "answers otherwise than when it was validated"),
}


def _code(code: dict[str, str], when: str) -> dict[str, str]:
    return {key: text.replace("{when}", when) for key, text in code.items()}


@pytest.mark.parametrize("lie", LIES)
def test_a_candidate_that_loads_and_answers_with(deploy: Deploy, servers: Two, lie: str) -> None:
    """It is rejected, nothing of it stays, and its version carries the reason."""
    code, told, _ = LIES[lie]
    before = everything_in(servers.store, MODELS, content=True)

    with pytest.raises(RejectedError, match=told) as raised:
        deploy(_code(code, "self.candidate"))

    assert raised.value.exit_code == 3
    assert everything_in(servers.store, MODELS, content=True) == before
    deploy.check_old()
    verdict, why = deploy.verdict()
    assert verdict == "rejected"
    assert re.search(told, why)


@pytest.mark.parametrize("lie", LIES)
def test_a_release_that_loads_and_answers_with(deploy: Deploy, servers: Two, lie: str) -> None:
    """As a candidate it passed; the one checked answer of the first replica says otherwise, and both serve the old version."""
    code, _, told = LIES[lie]
    before = servers.store.read_config(NAME)

    with pytest.raises(ServerError, match=rf"(?s){told}.*what served before serves again"):
        deploy(_code(code, "not self.candidate"))

    assert servers.store.read_config(NAME) == before
    deploy.check_old()
    verdict, why = deploy.verdict()
    assert verdict == "failed"
    assert re.search(rf"(?s){told}", why)


def test_a_candidate_that_answers_too_late(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server lives and the candidate does not answer in time: rejected."""
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.5)

    with pytest.raises(RejectedError, match=r"the candidate does not answer.*Deadline Exceeded"):
        deploy({"ask": "time.sleep(1) if self.candidate else None"})

    deploy.check_old()
    verdict, why = deploy.verdict()
    assert verdict == "rejected"
    assert "does not answer" in why


def _impatient(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Other deadlines for every client than three minutes for a load, and 15 seconds for anything else."""
    for name, value in seconds.items():
        monkeypatch.setitem(TritonClient.__init__.__kwdefaults__, name, value)  # type: ignore[arg-type]


def test_a_release_that_answers_too_late(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checked answer does not come within the deadline of a request: the old version is put back."""
    _impatient(monkeypatch, call_seconds=2.0)

    with pytest.raises(ServerUnreachableError, match=r"run `fragile`: Deadline Exceeded; what served before serves again"):
        deploy({"ask": "None if self.candidate else time.sleep(3)"})

    deploy.check_old()
    verdict, why = deploy.verdict()
    assert verdict == "failed"
    assert "Deadline Exceeded" in why


def test_a_candidate_that_cannot_be_loaded(deploy: Deploy) -> None:
    """The server's own reason is in the error and in the verdict, which is no rejection: the server may lack something."""
    with pytest.raises(ServerError, match="no such thing"):
        deploy({"load": "raise RuntimeError('no such thing')"})

    deploy.check_old()
    verdict, why = deploy.verdict()
    assert verdict == "failed"
    assert "no such thing" in why


DEATHS = {
    "while it loads the candidate": {"load": f"{KILL} if self.candidate else None"},
    "while the candidate is asked": {"ask": f"{KILL} if self.candidate else None"},
    "while it loads the release": {"load": f"None if self.candidate else {KILL}"},
    "while it is asked after the release": {"ask": f"None if self.candidate else {KILL}"},
}


@pytest.mark.parametrize("moment", DEATHS)
def test_a_server_that_is_killed(deploy: Deploy, moment: str) -> None:
    """The other replica serves the old version all the time, and the repository says what it said."""
    with pytest.raises(ServerUnreachableError):
        deploy(DEATHS[moment])

    deploy.check_old(up=1)
    verdict, why = deploy.verdict()
    assert verdict == "failed"
    assert "did not answer" in why


def test_a_server_that_is_killed_between_two_replicas(deploy: Deploy, servers: Two) -> None:
    """The first replica has taken the release, the second dies before it has: the first one serves the old version again."""
    lines: list[str] = []

    def told(line: str) -> None:
        if line.startswith("promote: replica 1 of 2"):
            lines.append(line)
            assert servers.clients[0].ready_versions(NAME) == (deploy.new,)
            servers.kill(1)

    with pytest.raises(ServerUnreachableError, match=r"did not answer.*what served before serves again"):
        deploy({}, told)

    assert len(lines) == 1
    deploy.check_old(up=1)
    verdict, why = deploy.verdict()
    assert verdict == "failed"
    assert servers.clients[1].address.url in why


def test_a_server_that_is_back_is_found_at_once(deploy: Deploy, servers: Two) -> None:
    """Whoever has seen it dead for a while sees it again, and a new client does not believe what the old one has seen."""
    address, old = servers.clients[1].address, servers.clients[1]
    servers.kill(1)
    tries = 0
    started = time.monotonic()
    while time.monotonic() - started < 2:  # gRPC would look again more and more seldom
        tries += not _lives(old)
        time.sleep(0.05)
    assert tries
    servers.servers[1].stop()
    servers.servers[1].start()

    with TritonClient(address) as new:
        new.check_live()
    while not _lives(old):
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["candidate", "release"])
def test_a_load_that_never_answers(deploy: Deploy, servers: Two, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The deployment ends within the deadline of a load, and the old version has served all the time."""
    _impatient(monkeypatch, load_seconds=2.0, call_seconds=2.0)
    before = servers.store.read_config(NAME)

    with pytest.raises(ServerUnreachableError, match="did not answer when asked to load"):
        deploy({"load": f"time.sleep(600) if {'' if what == 'candidate' else 'not '}self.candidate else None"})

    assert servers.store.read_config(NAME) == before
    deploy.check_old()
    verdict, why = deploy.verdict()
    assert verdict == "failed"
    assert "did not answer when asked to load" in why
    servers.kill(0)


@pytest.mark.parametrize("step", ["convert", "stage", "promote"])
def test_a_disk_that_fills(deploy: Deploy, servers: Two, step: str) -> None:
    """Not a page is left when the step begins: it fails with the place and the reason, and nothing of it stays."""
    if servers.no_disk:
        pytest.skip(servers.no_disk)
    before = everything_in(servers.store, MODELS, content=True)
    filled: list[str] = []

    def told(line: str) -> None:
        if line.startswith(f"{step}:") and not filled:
            servers.disk.fill()
            filled.append(line)

    try:
        with pytest.raises(DeployError, match=FULL) as raised:
            deploy({}, told)
        assert filled
        deploy.check_old()
        assert everything_in(servers.store, MODELS, content=True) == before
    finally:
        servers.disk.free()
    assert str(servers.disk.mount) in str(raised.value)
    verdict, why = deploy.verdict()
    assert verdict == "failed"
    assert FULL in why
