"""docker-compose.yaml and its Dockerfiles, without an engine: held against Compose, and against the programs that it starts."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from live.compose import FILE, ROOT, ComposeFile, compose, references
from live.process import BIN, clean_environment
from stores.server import program

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCKERFILES = (ROOT / "docker" / "Dockerfile", ROOT / "docker" / "Dockerfile.gpu")
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)(:[-?][^}]*)?\}")


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .env that docker/env.sh writes."""
    root = tmp_path_factory.mktemp("compose")
    (root / "docker").mkdir()
    shutil.copy(ROOT / ".env.example", root)
    shutil.copy(ROOT / "docker" / "env.sh", root / "docker")
    subprocess.run(["sh", str(root / "docker" / "env.sh")], check=True, capture_output=True)
    return root / ".env"


@pytest.fixture(scope="module")
def file(env_file: Path) -> ComposeFile:
    return ComposeFile(env_file)


def words_of(file: ComposeFile, program_name: str) -> dict[str, list[str]]:
    """The arguments with which each service, by its command or its health check, calls a program."""
    found = {}
    for service in file.services:
        for where, command in (("command", file.command(service)), ("health check", file.health_if_any(service))):
            words = shlex.split(command[2]) if command[:2] == ["sh", "-c"] else command
            if words and words[0] == program_name:
                found[f"{where} of {service}"] = words[1:]
    return found


def test_the_file_keeps_the_schema_of_compose() -> None:
    """The specification's JSON schema, which the package check-jsonschema carries, has nothing against it."""
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_env_sh_writes_secrets_once(env_file: Path, file: ComposeFile) -> None:
    """Every secret has a value of its own, only its owner can read the file, and a second call changes nothing."""
    secrets = {name: value for name, value in file.variables.items() if name not in defaults()}
    assert len(set(secrets.values())) == len(secrets)
    assert all(len(value) >= 32 for value in secrets.values())
    assert env_file.stat().st_mode & 0o077 == 0
    before = env_file.read_bytes()
    again = subprocess.run(["sh", str(env_file.parent / "docker" / "env.sh")], check=False, capture_output=True, text=True)
    assert (again.returncode, env_file.read_bytes()) == (1, before)
    assert "there already" in again.stderr


def test_the_two_keys_are_fernet_keys(file: ComposeFile) -> None:
    """Airflow's and MLflow's: anything else is refused by them when it is too late."""
    from cryptography.fernet import Fernet

    for name in ("AIRFLOW_FERNET_KEY", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"):
        Fernet(file.variables[name].encode())


def defaults() -> dict[str, str]:
    """The variables of the file that have a default there, with it."""
    found = VARIABLE.findall(FILE.read_text())
    return {name: rest[2:] for name, rest in found if rest.startswith(":-")}


def test_variables_are_those_of_env_example(file: ComposeFile) -> None:
    """Each is in both; one without a default has none in .env.example either, and says what to run where it is missing."""
    example = dict(line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if re.match("[A-Z]", line))
    found = dict(VARIABLE.findall(FILE.read_text()))
    assert set(found) == set(example)
    assert {name for name, value in example.items() if not value} == set(found) - set(defaults())
    assert {name: value for name, value in example.items() if value} == defaults()
    assert {rest for name, rest in found.items() if name not in defaults()} == {":?run docker/env.sh"}


@pytest.mark.parametrize("name", sorted(set(dict(VARIABLE.findall(FILE.read_text()))) - set(defaults())))
def test_compose_refuses_a_file_without_a_secret(name: str, env_file: Path, tmp_path: Path) -> None:
    """Whichever is missing, nothing starts."""
    lines = [line for line in env_file.read_text().splitlines() if not line.startswith(f"{name}=")]
    (tmp_path / "env").write_text("\n".join(lines))
    with pytest.raises(AssertionError, match=f"required variable {name} is missing a value: run docker/env.sh"):
        compose(FILE, tmp_path / "env", "config", "--quiet")


def test_no_secret_is_in_the_file(file: ComposeFile) -> None:
    """What looks like a password is a variable."""
    text = FILE.read_text()
    for line in text.splitlines():
        if re.search(r"(PASSWORD|SECRET|_KEY|AUTH|requirepass)\b.*[:,] ", line) and "AUTH_MANAGER" not in line:
            assert "${" in line, line
    assert not [value for name, value in file.variables.items() if name not in defaults() and value in text]


def test_images_are_pinned_and_services_come_back(file: ComposeFile) -> None:
    """By an exact tag; all that serve are started again, asked for their health, and see no new privileges."""
    for name, service in file.services.items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), service["image"]
        assert service["restart"] == ("no" if name == "init" else "unless-stopped")
        assert ("healthcheck" in service) == (name != "init")
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))


def test_gpu_services_are_a_profile(file: ComposeFile, env_file: Path) -> None:
    """Without it nothing asks for a GPU; with it the worker takes the queue `gpu` and Triton the same release."""
    without = yaml.safe_load(compose(FILE, env_file, "config"))["services"]
    gpu = {"airflow-gpu-worker", "triton-gpu"}
    assert set(file.services) - set(without) == gpu
    assert {name for name, service in file.services.items() if "devices" in str(service.get("deploy"))} == gpu
    assert file.command("airflow-gpu-worker")[3:5] == ["--queues", "gpu"]
    assert file.services["triton"]["image"] == file.services["triton-gpu"]["image"]


def test_tensorrt_is_that_of_triton(file: ComposeFile) -> None:
    """A plan loads only in the TensorRT that built it."""
    from airflow_triton.server.releases import RELEASES

    (container,) = re.findall(r"tritonserver:(\d\d\.\d\d)-py3", file.services["triton"]["image"])
    (tensorrt,) = re.findall(r"^ARG TENSORRT=(\S+)$", DOCKERFILES[1].read_text(), re.MULTILINE)
    assert [release.tensorrt for release in RELEASES if release.container == container] == [tensorrt]


def test_each_place_that_is_named_listens_there(file: ComposeFile) -> None:
    """Every `host:port` of a value is an exposed port of a service on the same network, and named with its port."""
    seen = set()
    for name, service in file.services.items():
        for text in [*file.environment(name).values(), *file.command(name)]:
            for host, port in references(text):
                if host in ("localhost", "mlflow") and port is None:
                    continue  # the bucket
                if host != "localhost":
                    assert port in file.ports(host), f"{name}: {text}"
                    assert set(service["networks"]) & set(file.services[host]["networks"]), f"{name} does not see {host}"
                    seen.add((host, port))
    assert seen == {
        ("postgres", 5432), ("redis", 6379), ("store", 8333), ("mlflow", 5000),
        ("airflow-api-server", 8080), ("triton", 8001), ("triton-gpu", 8001),
    }  # fmt: skip


def test_ports_are_said_once(file: ComposeFile) -> None:
    """What is published and what the health check asks is exposed, and what is exposed is what the command is told, or the default."""
    told = {
        name: {int(port) for port in re.findall(r"port[= ](\d+)", " ".join(file.command(name))) if port != "0"} for name in file.services
    }
    told["postgres"], told["redis"] = {5432}, {6379}
    told["airflow-scheduler"] = {airflow_default("scheduler", "scheduler_health_check_server_port")}
    for name, service in file.services.items():
        exposed = set(file.ports(name))
        assert exposed == told[name], name
        assert {port["target"] for port in service.get("ports", [])} <= exposed
        assert {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", " ".join(file.health_if_any(name)))} <= exposed


def airflow_default(section: str, key: str) -> int:
    from airflow.configuration import conf

    return int(conf.get_default_value(section, key))


def test_airflow_has_each_setting(file: ComposeFile) -> None:
    """AIRFLOW__SECTION__KEY is an option of Airflow's or of a provider's; a misspelt one would be ignored in silence."""
    from airflow.configuration import conf

    known = {
        f"AIRFLOW__{section.upper().replace('.', '_')}__{option.upper()}"
        for section, content in conf.configuration_description.items()
        for option in content["options"]
    }
    named = {name for service in file.services for name in file.environment(service) if re.match("AIRFLOW__", name)}
    assert len(named) > 10
    assert named <= known


def test_each_other_variable_is_read_by_someone(file: ComposeFile) -> None:
    """MLflow's by MLflow, ours by us, AWS_* by the programs that get them; the rest by the images or by docker/init.sh."""
    import mlflow.cli
    import mlflow.environment_variables as of_mlflow

    ours = "\n".join(path.read_text() for package in ("airflow_triton", "mlflow_plugin") for path in (ROOT / package).rglob("*.py"))
    mlflow_names = {value.name for value in vars(of_mlflow).values() if isinstance(value, of_mlflow._EnvironmentVariable)}
    mlflow_names |= {option.envvar for option in mlflow.cli.cli.commands["server"].params}
    botocore = botocore_variables()
    readers = {
        "AIRFLOW_CONN_": lambda _: True,
        "AIRFLOW_TRITON_": lambda name: f'"{name}"' in ours,
        "TRITON_": lambda name: f'"{name}"' in ours,
        "MLFLOW_": lambda name: name in mlflow_names,
        "AWS_": lambda name: name in botocore,
        "POSTGRES_": lambda name: name in {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"},
        "": lambda name: name == "REDISCLI_AUTH" or f"${name}" in (ROOT / "docker" / "init.sh").read_text(),
    }
    for service in file.services:
        for name in file.environment(service):
            if not name.startswith("AIRFLOW__"):
                prefix = next(prefix for prefix in readers if name.startswith(prefix))
                if name == "AIRFLOW_ADMIN_PASSWORD":
                    prefix = ""
                assert readers[prefix](name), f"{service}: {name}"


def botocore_variables() -> set[str]:
    """The variables that boto3 reads: for credentials, its configuration, and the endpoint."""
    import botocore.configprovider
    import botocore.credentials
    import botocore.utils

    names = {"AWS_ENDPOINT_URL", botocore.credentials.EnvProvider.ACCESS_KEY, botocore.credentials.EnvProvider.SECRET_KEY}
    names |= {entry[1] for entry in botocore.configprovider.BOTOCORE_DEFAUT_SESSION_VARIABLES.values() if isinstance(entry[1], str)}
    names |= set(re.findall(r"AWS_[A-Z0-9_]+", Path(botocore.utils.__file__).read_text()))
    return names


def test_connections_are_what_the_hook_takes(file: ComposeFile) -> None:
    """Both connections lead to a Triton of the file, in the mode in which it is started."""
    from airflow.sdk import Connection

    from airflow_triton.server import ServerAddress

    environment = file.environment("airflow-worker")
    for name, service in (("AIRFLOW_CONN_TRITON_DEFAULT", "triton"), ("AIRFLOW_CONN_TRITON_GPU", "triton-gpu")):
        connection = Connection.from_json(environment[name], conn_id="any")
        assert connection.conn_type == "triton"
        assert str(ServerAddress.parse(connection.host)) == f"grpc://{service}:8001"
        assert f"--model-control-mode={connection.extra_dejson['control_mode']}" in file.command(service)
    assert f"--model-repository={environment['TRITON_MODEL_REPO']}" in file.command("triton")


def test_airflow_takes_each_command(file: ComposeFile) -> None:
    """Of the services, their health checks, and docker/init.sh."""
    from airflow.cli.cli_parser import get_parser

    commands = words_of(file, "airflow")
    script = (ROOT / "docker" / "init.sh").read_text().replace("\\\n", " ")
    commands |= {line: shlex.split(line)[1:] for line in script.splitlines() if line.startswith("airflow ")}
    assert len(commands) == 11
    fab = {"AIRFLOW__CORE__AUTH_MANAGER": file.environment("init")["AIRFLOW__CORE__AUTH_MANAGER"]}
    for where, words in commands.items():
        if words[0] == "users":  # this command comes with the auth manager, which is another one in this process
            done = subprocess.run(
                [BIN / "airflow", "users", "create", "--help"], capture_output=True, text=True, env=clean_environment(fab), check=False
            )
            missing = [word for word in words if word.startswith("--") and word not in done.stdout]
            assert not missing, where
            continue
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                get_parser().parse_args([word.replace("$GPU_SLOTS", "1") for word in words])
            except SystemExit:
                pytest.fail(f"{where}: {said.getvalue()}")


def test_celery_takes_the_health_check_of_workers(file: ComposeFile) -> None:
    """Its application is where Airflow's provider has it, and its command is one of Celery's."""
    from airflow.providers.celery.executors.celery_executor import app
    from celery.bin.control import inspect

    commands = words_of(file, "celery")
    assert set(commands) == {"health check of airflow-worker", "health check of airflow-gpu-worker"}
    for words in commands.values():
        assert words[:2] == ["--app", "airflow.providers.celery.executors.celery_executor.app"]
        assert words[2:4] == ["inspect", "ping"]
        assert words[4] in {option for parameter in inspect.params for option in parameter.opts}
        assert words[5] == "celery@${HOSTNAME}"
    assert app.main == "airflow.executors.celery_executor" or app.conf.broker_url is not None


def test_mlflow_takes_its_options(file: ComposeFile) -> None:
    """`mlflow server` has each of them."""
    import mlflow.cli

    program_, server, *options = file.command("mlflow")
    assert (program_, server) == ("mlflow", "server")
    context = mlflow.cli.cli.commands["server"].make_context("server", list(options))
    assert context.params["allowed_hosts"].split(",")[0] == "mlflow:5000"
    assert context.params["artifacts_destination"].split("/")[2] in next(
        word for word in file.command("store") if word.startswith("-bucket=")
    )


def test_seaweedfs_takes_its_options(file: ComposeFile) -> None:
    """`weed mini` has each of them; the release is that of the tests."""
    weed, logging, mini, *options = file.command("store")
    assert (weed, logging, mini) == ("weed", "-logtostderr=true", "mini")
    shown = subprocess.run([program("weed"), "mini", "-h"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"^  -(\S+)", shown.stdout + shown.stderr, re.MULTILINE))
    assert len(known) > 50
    assert {option.lstrip("-").partition("=")[0] for option in options} <= known
    version = subprocess.run([program("weed"), "version"], capture_output=True, text=True, check=True).stdout
    assert f" {file.services['store']['image'].rpartition(':')[2]} " in version


def test_triton_takes_its_options(file: ComposeFile) -> None:
    """The real tritonserver's help has each of them."""
    from airflow_triton.local_triton import install

    installation = install()
    shown = subprocess.run([installation.server, "--help"], capture_output=True, text=True, check=False, env=installation.environment())
    known = set(re.findall(r"^\s*(--[a-z-]+)", shown.stdout + shown.stderr, re.MULTILINE))
    assert len(known) > 50
    name, *options = file.services["triton"]["command"]
    assert name == "tritonserver"
    assert {option.partition("=")[0] for option in options} <= known


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_are_linted(dockerfile: Path) -> None:
    """The linter hadolint has nothing against them."""
    done = subprocess.run([BIN / "hadolint", str(dockerfile)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_has_what_it_copies_and_installs(tmp_path: Path) -> None:
    """Each file that is copied is there and let through by .dockerignore; the extras are pyproject.toml's; constraints.txt is used."""
    text = DOCKERFILES[0].read_text()
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(declared)
    assert "[tensorrt]" in DOCKERFILES[1].read_text()
    assert text.count("--constraint constraints.txt") == 2


def test_the_image_s_packages_can_be_installed(tmp_path: Path) -> None:
    """What the Dockerfile installs resolves, with constraints.txt, for the Python that it starts from."""
    text = DOCKERFILES[0].read_text()
    (python,) = re.findall(r"^FROM python:(3\.\d+)\.\d+-slim", text, re.MULTILINE)
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    command = [BIN / "uv", "pip", "compile", "--quiet", "--python-version", python, "--constraint", "constraints.txt"]
    command += [f"--extra={extra}" for extra in extras.split(",")]
    done = subprocess.run([*command, "pyproject.toml"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "apache-airflow-providers-celery==" in done.stdout
    assert "mlflow==3.17.2" in done.stdout
