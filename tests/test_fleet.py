"""One model on several real Tritons: waves, replicas that die and refuse, names that stand for many, repositories of their own.

Three servers share a repository; each listens for gRPC on a loopback address of its own, at one port, as the replicas of a service do.
A fourth has a repository of its own.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blobs, overwrite
from test_rollout import Mapping

from airflow_triton import repository as repo
from airflow_triton.errors import ConflictError, RepositoryError, ServerError, ServerUnreachableError, SpecError
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository
from airflow_triton.repository.base import MODELS
from airflow_triton.rollout import Deleted, Outcome, delete, deploy, find_target, opened, rollback
from airflow_triton.rollout.target import find_repository
from airflow_triton.sensors.ready import ModelReadySensor
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
NAME = "replicas.triton.test"
Told = Callable[[str], None]
Make = Callable[..., Mapping]


@dataclass
class Replica:
    """A server, the address at which it listens for gRPC, and a client of it."""

    server: LocalTriton
    url: str
    client: TritonClient

    def ready(self) -> tuple[int, ...]:
        """The versions of `blobs` that answer."""
        return self.client.ready_versions("blobs")

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.stop()


@dataclass
class Fleet:
    """Three replicas over one repository, and one over its own."""

    shared: LocalRepository
    own: LocalRepository
    replicas: list[Replica]
    alone: Replica
    port: int

    @property
    def urls(self) -> list[str]:
        """The three that share."""
        return [replica.url for replica in self.replicas]

    @property
    def everyone(self) -> list[Replica]:
        """All four."""
        return [*self.replicas, self.alone]

    @property
    def apart(self) -> list[tuple[int, ...]]:
        """What is ready on each of `servers`."""
        return [replica.ready() for replica in (*self.replicas[:2], self.alone)]

    @property
    def servers(self) -> list[Any]:
        """Two that share and the one that does not, as a spec has them."""
        return [*self.urls[:2], {"server": self.alone.url, "repository": str(self.own)}]

    def ready(self) -> list[tuple[int, ...]]:
        """What is ready on each of the three."""
        return [replica.ready() for replica in self.replicas]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The servers, for the whole module."""
    home, port = tmp_path_factory.mktemp("fleet"), free_port()
    made: list[Replica] = []
    for folder, host in [("models", host) for host in HOSTS] + [("own", "127.0.0.5")]:
        arguments = ["--disable-auto-complete-config", f"--grpc-address={host}"]
        url = f"grpc://{host}:{port}"
        server = LocalTriton(home / folder, grpc_port=port, extra_args=arguments)
        made.append(Replica(server, url, TritonClient(ServerAddress.parse(url))))
    *replicas, alone = made
    with ThreadPoolExecutor() as pool:
        try:
            list(pool.map(lambda replica: replica.server.start(), made))
            yield Fleet(LocalRepository(home / "models"), LocalRepository(home / "own"), replicas, alone, port)
        finally:
            list(pool.map(lambda replica: replica.server.stop(), made))
            for replica in made:
                replica.client.close()


@pytest.fixture
def fleet(four: Fleet) -> Iterator[Fleet]:
    """The servers, all up, and their repositories, empty before and after."""
    yield four
    for replica in four.everyone:
        replica.server.start()
        for name in {row.name for row in replica.client.index() if row.state}:
            replica.client.unload(name)
    for replica in four.everyone:
        replica.client.wait_unloaded("blobs")
    for store in (four.shared, four.own):
        for folder in store.root.iterdir():
            shutil.rmtree(folder)
        shutil.rmtree(store.work, ignore_errors=True)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where conversions are kept: this module is about what comes after them."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def mapping(fleet: Fleet, tracking_uri: str, holdout: Path, converted: Path) -> Make:
    """Makes the content of a spec that deploys a version of `blobs` to the three that share; keywords replace keys of it."""

    def make(version: int = 1, **keys: Any) -> Mapping:
        return {
            "name": "blobs",
            "model": f"models:/blobs/{version}",
            "repository": str(fleet.shared),
            "servers": fleet.urls,
            "tracking_uri": tracking_uri,
            "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},
            "convert": {"cache": str(converted)},
            "validate": {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}}, "parity": False},
            **keys,
        }

    return make


def run(mapping: Mapping, told: Told = lambda _: None) -> Outcome:
    """Deploy, and be told what is being done."""
    spec = spec_from_mapping(mapping)
    with opened(spec, find_target(spec), progress=told) as rollout:
        return deploy(rollout)


def roll_back(mapping: Mapping, to: int | None = None, told: Told = lambda _: None) -> Outcome:
    """Roll the spec's model back, as the command line does."""
    spec = spec_from_mapping(mapping)
    with find_target(spec).connected() as (first, *others):
        return rollback(
            spec.name,
            store=first.store,
            servers=first.servers,
            others=others,
            registry=Registry(spec.tracking_uri),
            to=to,
            progress=told,
        )


def when(start: str, do: Callable[[], object]) -> Told:
    """Do something once, at the first line that starts so."""
    left = [do]
    return lambda line: left.pop()() if line.startswith(start) and left else None


def test_a_wave_is_told_replica_by_replica(mapping: Make, fleet: Fleet) -> None:
    """Two at a time, or one after the other: each replica has its line, with its address, and all serve the version."""
    lines: list[str] = []
    run(mapping(1, promote={"wave": 2}))

    run(mapping(3), lines.append)

    told = [line for line in lines if line.startswith("promote: replica")]
    assert [line.rpartition(" (")[0] for line in told] == [
        f"promote: replica {number} of 3: {url} serves version 3" for number, url in enumerate(fleet.urls, start=1)
    ]
    assert fleet.ready() == [(3,)] * 3
    assert fleet.shared.folders(MODELS) == ["blobs"]


def test_a_replica_that_dies_in_between_puts_the_others_back(mapping: Make, fleet: Fleet) -> None:
    """SIGKILL after the first replica took the version: whoever is up serves what served; the dead one gets it when it is back, empty."""
    run(mapping(1))
    config = fleet.shared.read_config("blobs")

    with pytest.raises(
        ServerUnreachableError, match=r"what served before serves again.*it will follow config\.pbtxt when it starts"
    ) as told:
        run(mapping(3), when("promote: replica 1 of 3", fleet.replicas[1].kill))

    assert fleet.urls[1] in str(told.value)
    assert fleet.shared.read_config("blobs") == config
    assert [fleet.replicas[0].ready(), fleet.replicas[2].ready()] == [(1,), (1,)]
    fleet.replicas[1].server.start()
    assert fleet.replicas[1].ready() == ()

    again = run(mapping(1))

    assert again.action == "loaded"
    assert fleet.ready() == [(1,)] * 3


def test_a_replica_that_refuses_puts_its_wave_and_those_before_back(mapping: Make, fleet: Fleet) -> None:
    """Two replicas took the version, the third cannot load it: all three serve what served."""
    run(mapping(1))
    config, broken = fleet.shared.read_config("blobs"), fleet.shared.version_place("blobs", 3) / "model.onnx"
    lines: list[str] = []

    def told(line: str) -> None:
        lines.append(line)
        if line.startswith("promote: replica 2"):
            assert fleet.ready() == [(3,), (3,), (1,)]
            overwrite(fleet.shared, broken, b"\0no")

    with pytest.raises(ServerError, match=r"(?s)INVALID_PROTOBUF.*what served before serves again") as refused:
        run(mapping(3, promote={"wave": 2}), told)

    assert fleet.urls[2] in str(refused.value)
    assert [line for line in lines if "replica 3" in line and line.startswith("promote")] == []
    assert fleet.shared.read_config("blobs") == config
    assert fleet.ready() == [(1,)] * 3


def resolving(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    """Let NAME resolve to `hosts`, whatever is in the list at the moment; everything else is asked of the system."""
    real = socket.getaddrinfo

    def found(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != NAME:
            return real(host, port, *args, **options)
        if not hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [row for each in hosts for row in real(each, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_every_address_of_a_name_is_a_replica(mapping: Make, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to several servers, one of them twice, and to one more from the validation on: all are served.

    No name that a system resolves to several loopback addresses can be had without root, so `socket.getaddrinfo` is replaced: it answers
    real addresses of real servers.
    """
    hosts = [HOSTS[1], HOSTS[0], HOSTS[1]]
    resolving(monkeypatch, hosts)
    spec = mapping(1, servers=[f"dns+grpc://{NAME}:{fleet.port}"])
    lines: list[str] = []

    run(spec, lines.append)

    assert fleet.ready() == [(1,), (1,), ()]
    assert [line.partition(" serves")[0] for line in lines if line.startswith("promote: replica")] == [
        f"promote: replica {number} of 2: {url}" for number, url in enumerate(fleet.urls[:2], start=1)
    ]
    outcome = run({**spec, "model": "models:/blobs/3"}, when("validate:", lambda: hosts.append(HOSTS[2])))
    assert {check.server for check in outcome.report.checks} == set(fleet.urls)
    assert fleet.ready() == [(3,)] * 3


def test_a_name_that_resolves_to_nothing_is_an_error(mapping: Make, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """No address is no proof that there is no server: nothing is released, at whichever step the name is lost."""
    hosts = [HOSTS[0]]
    resolving(monkeypatch, hosts)
    spec = mapping(1, servers=[f"dns+grpc://{NAME}:{fleet.port}"])
    run(spec)
    config = fleet.shared.read_config("blobs")

    with pytest.raises(ServerUnreachableError, match=f"the name `{NAME}` does not resolve to any server") as told:
        run({**spec, "model": "models:/blobs/3"}, when("promote:", hosts.clear))
    with pytest.raises(ServerUnreachableError, match="does not resolve"):
        run(spec)

    assert told.value.transient
    assert fleet.shared.read_config("blobs") == config
    assert fleet.ready() == [(1,), (), ()]


def test_a_certificate_is_held_against_the_name(fleet: Fleet, tmp_path: Path) -> None:
    """Over TLS a replica is called by its address, and its certificate has to name the host; another name is not let through."""
    key, certificate = _certificate(tmp_path)
    arguments = ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
    code = (
        "import sys; from dataclasses import replace\n"
        "from airflow_triton.server import ServerAddress, TritonClient\n"
        "one, = replace(ServerAddress.parse(sys.argv[1]), host='127.0.0.1').replicas()\n"
        "TritonClient(replace(one, certificate_name=sys.argv[2])).check_live()\n"
    )
    with LocalTriton(tmp_path / "models", extra_args=arguments) as server:
        url = server.grpc_url.replace("grpc://127.0.0.1", f"dns+grpcs://{NAME}")
        environment = {**os.environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate)}
        told = [
            subprocess.run([sys.executable, "-c", code, url, name], env=environment, capture_output=True, text=True, check=False)
            for name in (NAME, "other.test")
        ]

    assert told[0].returncode == 0, told[0].stderr
    assert "ServerUnreachableError" in told[1].stderr


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for NAME that it signed itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    today = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (folder / "certificate.pem").write_bytes(made.public_bytes(pem))
    return folder / "key.pem", folder / "certificate.pem"


KEEPS: Mapping = {"promote": {"keep_loaded": 1}}


def test_a_version_that_stays_loaded_serves_again_at_once(mapping: Make, fleet: Fleet) -> None:
    """The old version is loaded beside the new one, which answers; back is less than a second away, and nothing is loaded for it."""
    keeps = {**KEEPS, "servers": fleet.urls[:2]}
    run(mapping(1, **keeps))
    outcome = run(mapping(3, **keeps))
    assert (outcome.action, fleet.ready()[:2]) == ("promoted", [(1, 3)] * 2)
    rows, _ = blobs(seed=2, rows=5)
    answers = {version: fleet.replicas[0].client.infer("blobs", {"input": rows}, version=version) for version in (None, 1, 3)}
    np.testing.assert_array_equal(answers[None]["probabilities"], answers[3]["probabilities"])
    assert not np.array_equal(answers[1]["probabilities"], answers[3]["probabilities"])
    assert run(mapping(3, **keeps)).action == "unchanged"
    spec = spec_from_mapping(mapping(3, **keeps))
    assert ModelReadySensor(task_id="ready", spec=spec.to_mapping()).poke({})
    assert {finding.version: finding.role for finding in repo.fsck(fleet.shared)} == {1: "serves", 3: "serves"}
    logs = [replica.server.log_file for replica in fleet.replicas[:2]]
    before = [log.stat().st_size for log in logs if log]
    lines: list[tuple[float, str]] = []

    back = roll_back(mapping(3, **keeps), told=lambda line: lines.append((time.monotonic(), line)))

    assert (back.version, back.warnings, fleet.ready()[:2]) == (1, (), [(1,)] * 2)
    assert lines[-1][0] - lines[0][0] < 1
    written = [log.read_bytes()[size:] for log, size in zip(filter(None, logs), before, strict=True)]
    assert all(b" loading: blobs" not in text for text in written)
    assert roll_back(mapping(3, **keeps), to=3).version == 3
    assert fleet.ready()[:2] == [(1, 3)] * 2
    assert run(mapping(3, config={"max_batch_size": 16}, **keeps)).action == "promoted"
    assert fleet.ready()[:2] == [(3,)] * 2  # another configuration would reload version 1 with it


def test_a_version_that_is_loaded_is_checked_afterwards(mapping: Make, fleet: Fleet) -> None:
    """In an emergency the files are not read first: damaged when they are, they are a warning. Nothing that is damaged stays loaded."""
    keeps = {**KEEPS, "servers": fleet.urls[:2]}
    run(mapping(1, **keeps))
    run(mapping(3, **keeps))
    place = fleet.shared.version_place("blobs", 1) / "model.onnx"
    path = fleet.shared.path(place)
    content = path.read_bytes()
    broken = bytes(len(content))

    config = fleet.shared.read_config("blobs")
    overwrite(fleet.shared, place, broken)
    with pytest.raises(ServerError, match=r"(?s)refused to load.*what served before serves again"):
        roll_back(mapping(3, **keeps))  # Triton sees when a file was written, and loads what has changed
    path.unlink()
    with pytest.raises(RepositoryError, match=r"cannot serve again: .* is missing"):
        roll_back(mapping(3, **keeps))
    assert (fleet.shared.read_config("blobs"), fleet.ready()[:2]) == (config, [(1, 3), (1, 3)])

    overwrite(fleet.shared, place, content)
    back = roll_back(mapping(3, **keeps), told=when("rollback: replica 2 of 2", lambda: overwrite(fleet.shared, place, broken)))

    assert "version 1 serves, but could not be loaded again" in back.warnings[0]
    assert fleet.ready()[:2] == [(1,), (1,)]
    assert fleet.replicas[0].client.infer("blobs", {"input": blobs(seed=2, rows=1)[0]})
    assert roll_back(mapping(3, **keeps), to=3).version == 3
    assert fleet.ready()[:2] == [(3,), (3,)]


def test_a_journal_without_loaded_versions_is_read() -> None:
    """What was written before versions could stay loaded names one version."""
    release = repo.Release(id="a", version=7, servable_id="b", how="promote", config='name: "m"\n')
    text = repo.release.render([release])
    old = text.replace('"loaded": [], ', "")
    assert old != text
    assert repo.release.parse(old, "config.pbtxt")[-1].versions == (7,)
    two = repo.release.render([release, release.model_copy(update={"version": 8, "loaded": (7,)})])
    assert repo.release.parse(two, "config.pbtxt")[-1].versions == (7, 8)
    with pytest.raises(RepositoryError, match="edited by hand"):
        repo.release.parse(two.replace("versions: 7\n", ""), "config.pbtxt")


def test_the_last_repository_fails_and_the_first_goes_back(mapping: Make, fleet: Fleet) -> None:
    """A server that dies when the first repository has the release; and someone else's release in the second: both ends as it was."""
    servers = fleet.servers
    run(mapping(1, servers=servers))
    configs = [store.read_config("blobs") for store in (fleet.shared, fleet.own)]

    with pytest.raises(ServerUnreachableError, match="what served before serves again"):
        run(mapping(3, servers=servers), when("promote: replica 2 of 2", fleet.alone.kill))

    assert [store.read_config("blobs") for store in (fleet.shared, fleet.own)] == configs
    assert fleet.ready()[:2] == [(1,), (1,)]
    fleet.alone.server.start()

    def theirs() -> None:
        release = repo.releases(fleet.own, "blobs")[-1].model_copy(update={"how": "rollback"})
        repo.commit(fleet.own, "blobs", release, expected=configs[1])

    with pytest.raises(ConflictError, match=r"someone else changed .*what served before serves again"):
        run(mapping(3, servers=servers), when("promote: replica 2 of 2", theirs))
    assert fleet.shared.read_config("blobs") == configs[0]
    assert fleet.ready()[:2] == [(1,)] * 2
    assert repo.releases(fleet.own, "blobs")[-1].how == "rollback"


DIES = """
import json, os, signal, sys
from airflow_triton.rollout import deploy, find_target, opened
from airflow_triton.spec import spec_from_mapping

def told(line):
    if line.startswith("promote: replica 2 of 2"):
        os.kill(os.getpid(), signal.SIGKILL)

spec = spec_from_mapping(json.loads(sys.argv[1]))
with opened(spec, find_target(spec), progress=told) as rollout:
    deploy(rollout)
"""


def test_killed_between_two_repositories_it_converges(mapping: Make, fleet: Fleet) -> None:
    """SIGKILL when the first repository has the release and the second has not: the same deployment once more brings it to both.

    A rollback that ended there is finished by the next one.
    """
    first = run(mapping(1, servers=fleet.servers))
    assert {check.server for check in first.report.checks} == {*fleet.urls[:2], fleet.alone.url}
    assert fleet.apart == [(1,)] * 3
    assert [store.damage("blobs", 1) for store in (fleet.shared, fleet.own)] == [[], []]
    assert run(mapping(1, servers=fleet.servers)).action == "unchanged"
    spec = mapping(3, servers=fleet.servers)
    killed = subprocess.run([sys.executable, "-c", DIES, json.dumps(spec)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert fleet.apart == [(3,), (3,), (1,)]

    outcome = run(spec)

    assert (outcome.action, outcome.version, outcome.previous) == ("promoted", 3, 1)
    assert fleet.apart == [(3,)] * 3
    assert [store.folders(MODELS) for store in (fleet.shared, fleet.own)] == [["blobs"]] * 2
    assert [len(repo.releases(store, "blobs")) for store in (fleet.shared, fleet.own)] == [2, 2]

    release = repo.releases(fleet.shared, "blobs")[0].model_copy(update={"how": "rollback"})
    repo.commit(fleet.shared, "blobs", release, expected=fleet.shared.read_config("blobs"))
    assert roll_back(spec).version == 1
    assert fleet.apart == [(1,)] * 3
    assert [[release.how for release in repo.releases(store, "blobs")][2:] for store in (fleet.shared, fleet.own)] == [
        ["rollback", "rollback"],
        ["rollback"],
    ]
    assert roll_back(spec, to=3).version == 3
    assert fleet.apart == [(3,)] * 3


def test_files_cross_from_a_store_to_a_disk(mapping: Make, fleet: Fleet, repository_on_store: Any, triton_on_store: LocalTriton) -> None:
    """A fleet on an object store and one on a disk: each version crosses this machine, and is whole in both."""
    servers = [{"server": triton_on_store.grpc_url, "repository": str(triton_on_store.repository)}, fleet.urls[0]]

    run(mapping(1, servers=servers))

    assert fleet.ready()[0] == (1,)
    with TritonClient(ServerAddress.parse(triton_on_store.grpc_url)) as client:
        assert client.ready_versions("blobs") == (1,)
    assert [store.damage("blobs", 1) for store in (repository_on_store, fleet.shared)] == [[], []]
    assert str(find_repository(spec_from_mapping(mapping(1, servers=servers)))) == str(repository_on_store)


def test_one_repository_cannot_replace_several(mapping: Make, fleet: Fleet) -> None:
    """A repository from the command line, and servers of the spec with their own: refused, for it would go past one of the two."""
    spec = spec_from_mapping(mapping(1, servers=fleet.servers))

    with pytest.raises(SpecError, match="--repository names one repository"):
        find_target(spec, repository="/elsewhere")
    assert find_target(spec, repository="/elsewhere", servers=fleet.urls[:1]).groups[0].addresses[0].url == fleet.urls[0]


def gone(mapping: Mapping) -> Deleted:
    """Delete the spec's model."""
    spec = spec_from_mapping(mapping)
    with find_target(spec).connected() as fleets:
        return delete(spec.name, fleets, Registry(spec.tracking_uri))


def test_a_deletion_takes_the_model_from_every_replica_and_repository(mapping: Make, fleet: Fleet) -> None:
    """A replica that is away stops it before anything changed; once it is back, all of it goes, and nothing is left beside it."""
    spec = mapping(1, servers=fleet.servers)
    run(spec)
    fleet.alone.kill()
    with pytest.raises(ServerUnreachableError):
        gone(spec)
    assert [replica.ready() for replica in fleet.replicas[:2]] == [(1,), (1,)]
    fleet.alone.server.start()

    assert gone(spec).action == "deleted"

    assert fleet.apart == [(), (), ()]
    assert (fleet.shared.models(), fleet.own.models()) == ([], [])


def test_a_deletion_that_ends_between_two_repositories_is_finished_by_the_next(
    mapping: Make, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second repository does not let its files go: the error says what is gone, and that the next deletion finishes it."""
    spec = mapping(1, servers=fleet.servers)
    run(spec)
    removed = LocalRepository.remove

    def refuse(store: LocalRepository, place: Any) -> None:
        if store.root == fleet.own.root and place == store.model_place("blobs"):
            raise RepositoryError("a disk that is read-only")
        removed(store, place)

    with monkeypatch.context() as broken:
        broken.setattr(LocalRepository, "remove", refuse)
        with pytest.raises(RepositoryError, match=rf"it is gone from {fleet.shared.root}: delete `blobs` again"):
            gone(spec)
    assert (fleet.shared.models(), fleet.own.models()) == ([], ["blobs"])

    assert gone(spec).action == "deleted"
    assert (fleet.own.models(), fleet.apart) == ([], [(), (), ()])
