"""A whole GPU and a split one in one host: an instance on it and on a slice, one that dies, and a release without room.

The tests run in the order of the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testinfra.host import Host

testinfra_hosts = ["ansible://inference_hosts"]

STATE = "/var/lib/timm-classifier"
URL = "http://127.0.0.1:8000"
ANSWERS = "/root/answers.txt"
PLAYBOOK = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "playbooks" / "deploy.yml"
STATISTICS = f"""python3 -c '
import socket
admin = socket.socket(socket.AF_UNIX)
admin.connect("{STATE}/gateway/run/admin.sock")
admin.sendall(b"show stat json\\n")
print(b"".join(iter(lambda: admin.recv(65536), b"")).decode())'"""


def deploy(**extra: Any) -> subprocess.CompletedProcess[str]:
    """Run the deploy as a user would."""
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    command = ["ansible-playbook", f"--inventory={inventory}", str(PLAYBOOK), f"--extra-vars={json.dumps(extra)}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def deploy_check(**extra: Any) -> subprocess.CompletedProcess[str]:
    """Ask what a deploy would do."""
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    command = ["ansible-playbook", f"--inventory={inventory}", str(PLAYBOOK), "--check"]
    return subprocess.run([*command, f"--extra-vars={json.dumps(extra)}"], capture_output=True, text=True, check=False)


def instances(host: Host) -> dict[str, dict[str, Any]]:
    """Return the inspection of each running instance by the GPU that it asked for."""
    names = host.check_output("docker ps --quiet --filter label=inference-service.release")
    found = json.loads(host.check_output("docker inspect " + " ".join(names.split())))
    return {item["HostConfig"]["DeviceRequests"][0]["DeviceIDs"][0]: item for item in found}


def servers(host: Host) -> dict[str, dict[str, Any]]:
    """Return what the gateway says about the servers of the live color, by name."""
    color = host.file(f"{STATE}/gateway/conf/live.map").content_string.split()[1]
    rows: dict[str, dict[str, Any]] = {}
    for fields in json.loads(host.check_output(STATISTICS)):
        row = {field["field"]["name"]: field["value"]["value"] for field in fields}
        if row["pxname"] == f"bk_{color}" and row["svname"] not in {"FRONTEND", "BACKEND"}:
            rows[row["svname"]] = row
    return rows


def wait_until(host: Host, up: set[str], seconds: float = 90) -> None:
    """Wait until the gateway sees exactly these servers up."""
    deadline = time.monotonic() + seconds
    while {name for name, row in servers(host).items() if row["status"].startswith("UP")} != up:
        assert time.monotonic() < deadline, {name: row["status"] for name, row in servers(host).items()}
        time.sleep(0.2)


@contextmanager
def client(host: Host) -> Iterator[list[str]]:
    """Ask for predictions, one after the other; the list has each status afterwards."""
    answers: list[str] = []
    photograph = host.check_output(f"ls {STATE}/bundles/*/*/golden/cat.jpg").split()[0]
    options = f"--silent --output /dev/null --write-out '%{{http_code}}\\n' --form file=@{photograph}"
    ask = f"curl {options} {URL}/api/v1/predict >> {ANSWERS}; sleep 0.05"
    host.check_output(f"rm --force {ANSWERS}")
    host.check_output(f'systemd-run --unit=client sh -c "while :; do {ask}; done"')
    try:
        while not host.file(ANSWERS).exists:
            time.sleep(0.2)
        yield answers
    finally:
        host.check_output("systemctl stop client.service")
        answers += host.file(ANSWERS).content_string.split()


def test_each_gpu_has_an_instance_that_was_accepted(host: Host) -> None:
    assert set(instances(host)) == {"nvidia.com/gpu=0", "nvidia.com/gpu=1:0"}
    record = json.loads(host.check_output(f"cat {STATE}/records/0001-*.json"))
    assert record["result"] == "ok"
    wait_until(host, {"0", "1-0"})


def test_both_get_requests(host: Host) -> None:
    before = {name: row["stot"] for name, row in servers(host).items()}
    with client(host) as answers:
        time.sleep(3)
    assert set(answers) == {"200"}
    assert all(row["stot"] > before[name] for name, row in servers(host).items())


def test_one_that_dies_leaves_the_other_serving(host: Host) -> None:
    doomed = instances(host)["nvidia.com/gpu=1:0"]
    with client(host) as answers:
        # As the kernel ends a process whose GPU fell off the bus.
        host.check_output(f"kill -KILL {doomed['State']['Pid']}")
        wait_until(host, {"0"})
        time.sleep(2)
        # And Docker starts it again.
        wait_until(host, {"0", "1-0"})
        time.sleep(1)
    assert len(answers) > 20
    # What it was computing is lost with it, and nothing else: the client asks one thing at a time.
    assert len([answer for answer in answers if answer != "200"]) <= 1, answers
    assert set(answers[-10:]) == {"200"}


def test_a_release_without_room_beside_the_live_one_takes_its_place(host: Host) -> None:
    before = instances(host)
    # What the slices have left is less than what they use.
    host.check_output("sed --in-place 's/<free>10900 MiB/<free>4000 MiB/g' /usr/share/simulated-gpu/report.xml")
    with client(host) as answers:
        run = deploy(inference_service_env={"API_LOG_LEVEL": "debug"})
    assert run.returncode == 0, run.stdout[-6000:]
    assert "is replaced while requests wait" in " ".join(run.stdout.split())
    assert set(answers) == {"200"}
    after = instances(host)
    assert set(after) == set(before)
    assert not {item["Id"] for item in after.values()} & {item["Id"] for item in before.values()}
    records = sorted(host.file(f"{STATE}/records").listdir())
    phases = json.loads(host.file(f"{STATE}/records/{records[-1]}").content_string)["phases"]
    assert phases["held"] > 0


def test_a_release_moves_to_whatever_gpus_are_named_in_whatever_way(host: Host) -> None:
    whole, first, second = "nvidia.com/gpu=0", "nvidia.com/gpu=1:0", "nvidia.com/gpu=1:1"
    spellings: tuple[tuple[object, set[str]], ...] = (
        # By what begins a name Docker is asked for all of it, which a reboot does not change.
        (
            ["GPU-5e1d8f2a", "MIG-0b6d1c47"],
            {
                "nvidia.com/gpu=GPU-5e1d8f2a-94b7-4c36-a0de-7f41c2b96e03",
                "nvidia.com/gpu=MIG-0b6d1c47-52f9-5e03-a8d1-4e9c7a2f6b80",
            },
        ),
        ([0, "1:0", "1:1"], {whole, first, second}),
        (["1:1"], {second}),
    )
    for gpus, expected in spellings:
        run = deploy(inference_service_gpus=gpus)
        assert run.returncode == 0, run.stdout[-6000:]
        assert set(instances(host)) == expected, run.stdout[-6000:]
        assert host.run(f"curl --fail --silent {URL}/health/ready").succeeded
    for wrong, words in (([1], "is split by MIG"), ([0, 5], "names 5")):
        run = deploy_check(inference_service_gpus=wrong)
        assert run.returncode != 0
        assert words in " ".join(run.stdout.split())


def test_a_teardown_ends_both(host: Host) -> None:
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    command = ["ansible-playbook", f"--inventory={inventory}", str(PLAYBOOK.with_name("teardown.yml"))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-6000:]
    assert host.check_output("docker ps --quiet --filter label=inference-service.release") == ""
