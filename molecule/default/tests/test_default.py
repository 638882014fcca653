"""What a deploy leaves on a GPU host, seen from the host: the service, its container, and what was not touched."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://inference_hosts"]

STATE = "/var/lib/timm-classifier"
URL = "http://127.0.0.1:8000"
GPU = "GPU-5e1d8f2a-94b7-4c36-a0de-7f41c2b96e03"


def inspect(host: Host, *names: str) -> list[dict[str, Any]]:
    """Return what Docker knows about these containers."""
    found: list[dict[str, Any]] = json.loads(host.check_output("docker inspect " + " ".join(names)))
    return found


def inside(host: Host, container: dict[str, Any], command: str) -> Any:
    """Run a shell command in a container; return testinfra's result."""
    return host.run(f"docker exec {container['Id']} sh -c {shlex.quote(command)}")


def wait_until_restarted(host: Host, container: dict[str, Any], seconds: float = 90) -> None:
    """Wait until Docker has started the container again and its health check passes."""
    deadline = time.monotonic() + seconds
    while True:
        state = inspect(host, container["Id"])[0]
        if state["RestartCount"] > container["RestartCount"] and state["State"]["Health"]["Status"] == "healthy":
            return
        assert time.monotonic() < deadline, f"not healthy after {seconds} s: {state['State']}"
        time.sleep(0.5)


def ask(host: Host, path: str, *options: str) -> tuple[int, dict[str, str], Any]:
    """Ask the gateway with curl, on the host; return status, headers in lower case and the decoded body."""
    answer = host.check_output(f"curl --silent --show-error --include {' '.join(options)} {URL}{path}")
    head, _, body = answer.replace("\r\n", "\n").rpartition("\n\n")
    lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(body)


@pytest.fixture
def service(host: Host) -> dict[str, Any]:
    """The one instance of the live release."""
    names = host.check_output("docker ps --quiet --filter label=inference-service.release").split()
    assert len(names) == 1, host.check_output("docker ps --all")
    return inspect(host, *names)[0]


@pytest.fixture
def gateway(host: Host) -> dict[str, Any]:
    """The gateway's container."""
    return inspect(host, "timm-classifier-gateway")[0]


@pytest.fixture
def bundle(service: dict[str, Any]) -> str:
    """Where the served bundle lies on the host."""
    environment = dict(item.split("=", 1) for item in service["Config"]["Env"])
    return f"{STATE}/bundles/{environment['API_BUNDLE_PATH'].removeprefix('/app/models/')}"


@pytest.fixture(autouse=True)
def logs_on_failure(host: Host, request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what the containers said when a test fails: the report is often all that one gets to see."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        said = host.run("docker ps --all; docker ps --quiet | xargs -n 1 docker logs --tail 40 2>&1").stdout
        sys.stdout.write(said)


def test_the_service_is_ready_through_the_gateway(host: Host) -> None:
    status, headers, answer = ask(host, "/health/ready")
    assert status == 200
    assert answer["status"] == "ready"
    assert answer["model_loaded"] is True
    assert answer["num_classes"] == 1000
    assert headers["x-model-version"] == "1"


def test_predictions_equal_the_golden_samples(host: Host, bundle: str) -> None:
    golden = json.loads(host.file(f"{bundle}/golden/golden.json").content_string)
    assert len(golden["samples"]) >= 3
    for sample in golden["samples"]:
        status, headers, answer = ask(host, "/api/v1/predict", f"--form file=@{bundle}/{sample['file']}")
        assert status == 200
        assert headers["x-model-version"] == "1"
        answered = {item["class_id"]: item["confidence"] for item in answer["top_5_predictions"]}
        assert answer["predicted_class"] == sample["top"][0]["class_name"]
        for wanted in sample["top"]:
            assert answered[wanted["class_id"]] == pytest.approx(wanted["probability"], abs=golden["tolerance"])


def test_a_cat_is_called_a_cat(host: Host, bundle: str) -> None:
    _, _, answer = ask(host, "/api/v1/predict", f"--form file=@{bundle}/golden/cat.jpg")
    assert answer["predicted_class"] in {"tabby", "tabby, tabby cat", "tiger cat", "Egyptian cat"}


def test_the_gpu_is_requested_by_its_cdi_name(service: dict[str, Any]) -> None:
    requests = service["HostConfig"]["DeviceRequests"]
    assert [(item["Driver"], item["DeviceIDs"]) for item in requests] == [("cdi", ["nvidia.com/gpu=0"])]


def test_the_gpu_is_visible_inside_the_container(host: Host, service: dict[str, Any]) -> None:
    nodes = inside(host, service, "ls /dev/nvidia0 /dev/nvidiactl /dev/nvidia-uvm && head -c 0 /dev/nvidia0")
    assert nodes.rc == 0, nodes.stderr
    assert GPU in inside(host, service, "nvidia-smi -L").stdout


def test_the_limits_are_those_of_the_inventory(host: Host, service: dict[str, Any]) -> None:
    limits = service["HostConfig"]
    assert limits["Memory"] == 2 * 1024**3
    assert limits["NanoCpus"] == 2 * 10**9
    assert limits["PidsLimit"] == 512
    assert limits["ShmSize"] == 1024**3
    assert [item["Name"] for item in limits["Ulimits"]] == ["nofile"]
    # What the kernel enforces, in either layout of the control groups.
    enforced = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert int(inside(host, service, enforced).stdout) == 2 * 1024**3


def test_the_process_has_no_rights(host: Host, service: dict[str, Any]) -> None:
    status = inside(host, service, "cat /proc/1/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["1000"] * 4
    assert int(fields["CapEff"], 16) == 0
    assert int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert service["HostConfig"]["Privileged"] is False


@pytest.mark.parametrize("place", ["/", "/app", "/app/app", "/app/models", "/opt/venv", "/etc"])
def test_the_process_cannot_write(host: Host, service: dict[str, Any], place: str) -> None:
    # As root inside, so that it is the mount that refuses and not the owner.
    done = host.run(f"docker exec --user 0 {service['Id']} touch {place}/written")
    assert done.rc != 0
    assert "Read-only file system" in done.stderr


def test_the_process_can_write_where_it_must(host: Host, service: dict[str, Any]) -> None:
    done = inside(host, service, 'for place in /tmp /app/logs /app/.cache; do rm "$(mktemp -p $place)" || exit; done')
    assert done.rc == 0, done.stderr


def test_models_are_mounted_read_only(service: dict[str, Any]) -> None:
    mounts = {item["Destination"]: item for item in service["Mounts"]}
    assert mounts["/app/models"]["Source"] == f"{STATE}/bundles"
    assert mounts["/app/models"]["RW"] is False
    assert mounts["/app/logs"]["Type"] == "volume"
    assert mounts["/app/.cache"]["Type"] == "volume"


def test_the_gateway_is_hardened_too(gateway: dict[str, Any]) -> None:
    settings = gateway["HostConfig"]
    assert gateway["Config"]["User"].split(":")[0] not in {"", "0", "root"}
    assert settings["ReadonlyRootfs"] is True
    assert settings["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in settings["SecurityOpt"]


def test_containers_come_back_after_a_reboot(service: dict[str, Any], gateway: dict[str, Any]) -> None:
    for container in (service, gateway):
        assert container["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


def test_only_the_gateway_is_published_and_only_locally(host: Host) -> None:
    containers = inspect(host, *host.check_output("docker ps --quiet").split())
    published = {
        item["Name"].lstrip("/"): [
            binding for bindings in item["HostConfig"]["PortBindings"].values() for binding in bindings
        ]
        for item in containers
    }
    published = {name: bindings for name, bindings in published.items() if bindings}
    assert published == {"timm-classifier-gateway": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}
    sockets = host.check_output("ss --no-header --listening --tcp --numeric --processes").splitlines()
    assert [line.split()[3] for line in sockets if "docker-proxy" in line] == ["127.0.0.1:8000"]
    # Docker itself listens too, but nothing does where another machine could reach it.
    assert [line for line in sockets if not line.split()[3].startswith("127.")] == []


def test_the_release_is_recorded(host: Host, service: dict[str, Any]) -> None:
    names = host.file(f"{STATE}/records").listdir()
    # The second, idempotent run has nothing to record.
    assert len(names) == 1
    record = json.loads(host.file(f"{STATE}/records/{names[0]}").content_string)
    labels = service["Config"]["Labels"]
    assert record["release_id"] == labels["inference-service.release"]
    assert record["result"] == "ok"
    assert record["bundle"]["version"] == labels["inference-service.bundle-version"] == "1"


def test_the_host_is_otherwise_as_it_was(host: Host) -> None:
    assert json.loads(host.file("/etc/docker/daemon.json").content_string) == {"features": {"cdi": True}}
    assert host.file("/etc/docker").listdir() == ["daemon.json"]
    assert host.file("/etc/cdi").listdir() == ["nvidia.yaml"]
    assert not host.file("/etc/haproxy").exists
    assert host.check_output("systemctl is-system-running") == "running"
    # Nothing of the shipping and bundle making stays behind.
    assert host.check_output("find /tmp /var/tmp -mindepth 1 -maxdepth 1 -name '*.tar' -o -name 'bundle.*'") == ""
    assert host.check_output(f"find {STATE} -name '*.tar'") == ""


def test_the_state_directory_is_for_root_to_write(host: Host) -> None:
    writable = host.check_output(f"find {STATE} -perm -o+w -not -type l -not -type s")
    assert writable == ""


# The next three disturb the service, so they come last.


def wait_until_served(host: Host, seconds: float = 20) -> None:
    """Wait until the gateway sends requests to the instance again."""
    deadline = time.monotonic() + seconds
    while ask(host, "/health/ready")[0] != 200:
        assert time.monotonic() < deadline, "the gateway does not send requests to the healed instance"
        time.sleep(0.25)


def test_a_service_that_runs_out_of_memory_heals_itself(host: Host, service: dict[str, Any]) -> None:
    # As the kernel ends a process that has used up its memory.
    host.check_output(f"kill -KILL {service['State']['Pid']}")
    wait_until_restarted(host, service)
    wait_until_served(host)


def test_a_killed_container_is_started_again(host: Host, service: dict[str, Any]) -> None:
    # Docker takes this for an order to stay stopped; the keeper does not.
    host.check_output(f"docker kill -s KILL {service['Id']}")
    deadline = time.monotonic() + 60
    while (state := inspect(host, service["Id"])[0]["State"])["StartedAt"] == service["State"]["StartedAt"] or (
        state["Health"]["Status"] != "healthy"
    ):
        assert time.monotonic() < deadline, host.run("docker logs timm-classifier-keeper").stdout
        time.sleep(0.5)
    wait_until_served(host)


def test_a_restarted_gateway_serves_the_same_release(
    host: Host, service: dict[str, Any], gateway: dict[str, Any]
) -> None:
    host.check_output(f"docker restart {gateway['Id']}")
    deadline = time.monotonic() + 20
    while host.run(f"curl --silent --fail {URL}/health/ready").rc != 0:
        assert time.monotonic() < deadline, "the gateway does not answer after its restart"
        time.sleep(0.25)
    _, headers, _ = ask(host, "/health/ready")
    assert headers["x-release-id"] == service["Config"]["Labels"]["inference-service.release"]


@pytest.mark.gpu
@pytest.mark.skipif(
    os.environ.get("TESTINFRA_REAL_GPU") != "1",
    reason="the GPU of this host is simulated; TESTINFRA_REAL_GPU=1 runs this against a real one",
)
def test_torch_computes_on_the_gpu(host: Host, service: dict[str, Any]) -> None:
    program = "import torch; print(torch.cuda.is_available(), (torch.ones(8, device='cuda') * 2).sum().item())"
    done = host.run(f"docker exec {service['Id']} python -c {shlex.quote(program)}")
    assert done.stdout.split() == ["True", "16.0"], done.stderr
