#!/usr/bin/python
"""Ansible module: read the state of a service on a host, and plan the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.acceptance import check_device, check_samples
from ansible_collections.gpu_hosts.timm.plugins.module_utils.bake import pending
from ansible_collections.gpu_hosts.timm.plugins.module_utils.deploy_lock import read_lock
from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import (
    DockerError,
    Instance,
    list_instances,
    run_docker,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import (
    SOCKET,
    SOCKET_FOLDER,
    map_of,
    socket_of,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_state import (
    WANTED_OPTIONS,
    compare_gateway,
    compare_in_place,
    read_containers,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.golden import GoldenError, load
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.chosen import takes_two
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import run
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.nvidia_smi import SMI_TIMEOUT, read_report
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import (
    GatewayError,
    live_word,
    read_map_file,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.host_address import refusal
from ansible_collections.gpu_hosts.timm.plugins.module_utils.places import instances_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import (
    COLORS,
    NOBODY,
    WORDS,
    Gateway,
    Plan,
    ReleaseError,
    bundle_folder,
    choose_strategy,
    derived_folder,
    find_astray,
    good_releases,
    kept_releases,
    make_plan,
    previous_release,
    read_records,
    read_release,
    release_id,
    serving_color,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.service_network import (
    find_faults,
    inspect_network,
    is_beyond_mending,
    members,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.state_folder import (
    MARKER,
    find_closed,
    find_strange,
    is_marked,
)

DOCUMENTATION = r"""
module: release_info
short_description: Read which release a host serves, and plan what a deploy has to do
description:
  - Looks at the running containers, the gateway's memory and its map file, and the records. Changes nothing.
  - With O(gateway) a host that serves the wanted release is looked at to the end, so that a deploy which has nothing to
    do ends here.
options:
  name: {description: Name of the service, type: str, required: true}
  state_dir: {description: The service's state directory, type: path, required: true}
  desired:
    description: The wanted release, C(image), C(bundle) and C(settings). Without it and O(release), nothing is planned.
    type: dict
  release:
    description: A kept release to go back to, by id, or C(previous) for the one that the live release replaced.
    type: str
  strategy:
    description: >-
      V(blue_green) starts the candidate beside the live release, V(recreate) in its place while requests wait; V(auto)
      decides by the free memory of the GPUs.
    type: str
    choices: [auto, blue_green, recreate]
    default: auto
  gateway: {description: The wanted gateway as M(gateway_replace) takes it, type: dict}
  url: {description: Where the gateway answers; needed with O(gateway), type: str}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Read the state
  release_info:
    name: timm-classifier
    state_dir: /var/lib/timm-classifier
"""

RETURN = r"""
plan:
  description: >-
    What to do and why. Only with O(desired) or O(release). With C(instances) of the release, the folder of its
    C(bundle), and the C(servers) that the gateway has to know; C(live) are the instances that serve now, C(retired) the
    projects that do not when the release does.
  returned: when asked
  type: dict
release: {description: The wanted release as its release.json holds it, returned: when asked, type: dict}
derived: {description: Where lies what the release's image makes of its bundle, returned: when asked, type: str}
live: {description: Release and color that get requests, returned: success, type: dict}
instances: {description: All containers of the service, returned: success, type: list, elements: dict}
gateway: {description: Color in the gateway's memory and in its map file, returned: success, type: dict}
records: {description: The records of this host in order, returned: success, type: list, elements: dict}
unreadable: {description: What lies among the records and is none, returned: success, type: list, elements: str}
missing: {description: What a deploy of what is live would mend, returned: success, type: list, elements: str}
kept: {description: The releases that can be gone back to, returned: success, type: list, elements: str}
lock:
  description: >-
    Owner, controller and time of the run that has the lock, and whether a process works here for a run (this one's own
    counts too); empty when there is neither.
  returned: success
  type: dict
unsettled:
  description: What a deploy has to put in order, empty when nothing. Only O(gateway) can show that it is nothing.
  returned: when asked
  type: str
refused: {description: Why the gateway cannot have its address on this host, returned: when asked, type: str}
verified: {description: Device and prediction of a settled host, returned: when asked, type: dict}
started: {description: Seconds since the epoch, for the record, returned: success, type: float}
"""


UNKNOWN = "(known once image and bundle are there)"


def admin_sockets(name: str, state_dir: Path) -> Iterator[Path]:
    """Yield where the running gateway's admin socket is: on the host, or what the container sees in its place.

    The second differs when the folder was removed, or replaced, under a gateway that runs.
    """
    yield socket_of(state_dir / "gateway")
    with contextlib.suppress(DockerError):
        process = run_docker(["inspect", "--format", "{{.State.Pid}}", f"{name}-gateway"]).strip()
        if process not in ("", "0"):
            yield Path("/proc", process, "root", SOCKET_FOLDER.lstrip("/"), Path(SOCKET).name)


def read_gateway(name: str, state_dir: Path) -> Gateway:
    """Ask the running gateway and its map file where requests go; a word that no gateway knows is none."""
    serving = ""
    for admin_socket in admin_sockets(name, state_dir):
        with contextlib.suppress(GatewayError):
            # A gateway that answers and has no such entry, because somebody cleared its map, sends requests to nobody.
            serving = live_word(admin_socket) or NOBODY
            break
    words = (serving, read_map_file(map_of(state_dir / "gateway")))
    return Gateway(*(word if word in WORDS else "" for word in words))


def startable_release(state_dir: Path, identity: str) -> dict[str, Any]:
    """Return a kept release whose image and bundle are there; raise ReleaseError with the next step otherwise."""
    release: dict[str, Any] = read_release(state_dir, identity)
    image, bundle = release["image"], release["bundle"]
    try:
        run_docker(["image", "inspect", image["id"]])
    except DockerError as error:
        if "no such image" not in str(error).lower():
            raise
        raise ReleaseError(
            f"release {identity} cannot be started: its image {image.get('tag') or image['id'][:19]} is no longer on "
            "this host. Nothing was changed. Bring the image back (`docker load`, `docker pull`), deploy the model "
            f"{bundle['name']} {bundle['version']} again, or name another release with -e inference_service_release=ID"
        ) from error
    manifest = bundle_folder(state_dir, release) / "bundle.json"
    if not manifest.is_file():
        raise ReleaseError(
            f"release {identity} cannot be started: {manifest} is missing. Nothing was changed. Deploy the model "
            f"{bundle['name']} {bundle['version']} again, or name another release with -e inference_service_release=ID"
        )
    return release


def wanted_release(params: dict[str, Any], state_dir: Path, live: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the release that the run is to make live, its id included."""
    if params["release"]:
        identity = str(params["release"])
        if identity == "previous":
            identity = previous_release(records, live, kept_releases(state_dir))
        return startable_release(state_dir, identity)
    desired: dict[str, Any] = params["desired"]
    image, bundle = desired["image"]["id"], desired["bundle"]["sha256"]
    # A dry run may come before the image or the bundle is there; their identity is not known then.
    identity = release_id(image, bundle, desired["settings"]) if image and bundle else UNKNOWN
    return {**desired, "release_id": identity}


def settled_instances(name: str, gateway: Gateway, wait: bool) -> list[Instance]:
    """Return the service's instances; to wait is until Docker has judged those that serve, by their health checks.

    After a reboot, or a restart of Docker, it takes some seconds to see that a release is as healthy as before.
    """
    colors = [gateway.color] if gateway.color in COLORS else COLORS
    began = time.monotonic()
    while True:
        instances: list[Instance] = list_instances(name)
        live = [item for item in instances if item.color in colors and item.state == "running"]
        waited = time.monotonic() - began
        if not wait or all(item.health != "starting" or waited >= item.patience for item in live):
            return instances
        time.sleep(0.5)


def describe(release: dict[str, Any]) -> str:
    """Return the lines that ``--diff`` shows for a release."""
    bundle = release.get("bundle", {})
    return (
        f"release: {release.get('release_id', 'none')}\n"
        f"model: {bundle.get('name', '')} {bundle.get('version', '')}\n"
        f"image: {release.get('image', {}).get('id', '')}\n"
    )


def live_release(state_dir: Path, serving: list[Instance]) -> dict[str, Any]:
    """Return release.json of what serves, or nothing when it is not known."""
    if not serving:
        return {}
    try:
        release: dict[str, Any] = read_release(state_dir, serving[0].release)
        bundle_folder(state_dir, release)
        return release
    except ReleaseError:
        return {"release_id": serving[0].release}


def verify(url: str, state_dir: Path, release: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Ask one golden sample through the gateway; return device and prediction, and a problem or ''."""
    try:
        golden = load(bundle_folder(state_dir, release))
    except GoldenError as error:
        return {}, str(error)
    device, problem = check_device(url, release["settings"]["device"], timeout=10)
    if problem:
        return {}, problem
    # How fast it is was judged at acceptance; one slow answer of a busy host is no reason to touch anything.
    entry = check_samples(url, golden, release["release_id"], count=1, budget=60)[0]
    prediction = {"sample": entry["sample"], **entry["prediction"]}
    return {"device": device, "prediction": prediction}, "; ".join(entry["problems"])


def cut_off(name: str, serving: list[Instance]) -> list[str]:
    """Return the names of the instances that were made for a network that is gone."""
    network = inspect_network(name).get("Id", "") if serving else ""
    return [item.name for item in serving if is_beyond_mending(item.network_mode, name, network)]


def is_underived(state_dir: Path, live: dict[str, Any]) -> bool:
    """Return whether the instances of a release look for a derived model, and there is none."""
    wanted = "API_DERIVED_PATH" in live.get("settings", {}).get("env", {})
    return wanted and not any(derived_folder(state_dir, live).glob("*/derived.json"))


def find_missing(name: str, state_dir: Path, live: dict[str, Any], good: list[str], kept: list[str]) -> list[str]:
    """Return a sentence for each part around a live release that was lost: network, folder, image, bundle, record."""
    identity = live["release_id"]
    found: list[str] = find_faults(name, members(name), inspect_network(name))
    if identity not in kept:
        found.append(f"{state_dir / 'releases' / identity} of the live release is missing or damaged")
    if live.get("bundle") and not (manifest := bundle_folder(state_dir, live) / "bundle.json").is_file():
        found.append(f"{manifest} of the live release is missing")
    if good[-1:] != [identity]:
        found.append("its record is missing")
    if is_underived(state_dir, live):
        found.append(f"{derived_folder(state_dir, live)} has no derived model for the live release")
    found += [f"{path} is no folder" for path in find_strange(state_dir)]
    found += [f"{path} cannot be read by the service" for path in [*find_closed(state_dir)][:1]]
    if not is_marked(state_dir, name):
        found.append(f"{state_dir / MARKER} does not say that the folder is {name}'s")
    return found


def places(
    name: str, state_dir: Path, release: dict[str, Any], plan: Plan, instances: list[Instance]
) -> dict[str, Any]:
    """Return what the steps of a rollout need to find: the release's instances and bundle, and what is there now."""
    own = instances_of(name, state_dir, plan.color, release["settings"]["instances"])
    there = {item.project: item for item in instances}
    return {
        "instances": own,
        "bundle": str(bundle_folder(state_dir, release)),
        "servers": sorted({*(item["index"] for item in own), *plan.live_instances}),
        "live": [
            {"project": project, "container": item.name}
            for project, item in there.items()
            if item.color == plan.live_color
        ],
        "retired": [project for project, item in there.items() if item.color != plan.color],
    }


def examine(
    params: dict[str, Any], state_dir: Path, release: dict[str, Any], plan: Plan, missing: list[str]
) -> tuple[dict[str, Any], str]:
    """Look at everything around a live release; return what verified it, and what is not in order or ''."""
    if plan.astray:
        return {}, plan.astray
    wanted = params["gateway"]
    differences = compare_gateway(wanted, read_containers(f"{wanted['name']}-gateway")).differences
    if differences:
        return {}, differences[0]
    if pending(state_dir / "gateway", plan.color):
        return {}, "its bake has not ended"
    if plan.leftovers:
        return {}, f"an interrupted run left {', '.join(plan.leftovers)}"
    if missing:
        return {}, missing[0]
    return verify(params["url"], state_dir, release)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "desired": {"type": "dict"},
            "release": {"type": "str"},
            "strategy": {"type": "str", "choices": ["auto", "blue_green", "recreate"], "default": "auto"},
            "gateway": {"type": "dict", "options": WANTED_OPTIONS},
            "url": {"type": "str"},
        },
        required_by={"gateway": ["url", "desired"]},
        mutually_exclusive=[("desired", "release")],
        supports_check_mode=True,
    )
    params = module.params
    state_dir = Path(params["state_dir"])
    started = time.time()
    planning = params["desired"] or params["release"]
    gateway = read_gateway(params["name"], state_dir)
    try:
        instances = settled_instances(params["name"], gateway, wait=bool(planning))
    except DockerError as error:
        if not module.check_mode:
            module.fail_json(msg=f"The containers of {params['name']} cannot be listed: {error}. Is Docker running?")
        # A first run in check mode: Docker itself would only be installed now.
        instances = []
    try:
        records, unreadable = read_records(state_dir)
        good, kept = good_releases(records), kept_releases(state_dir)
        color = serving_color(instances, gateway, good)
        serving = [instance for instance in instances if instance.color == color]
        live = live_release(state_dir, serving)
        missing = find_missing(params["name"], state_dir, live, good, kept) if live else []
        result: dict[str, Any] = {
            "changed": False,
            "started": started,
            "gateway": asdict(gateway),
            "live": {"color": color, "release": live},
            "instances": [instance.as_dict() for instance in instances],
            "records": records,
            "unreadable": unreadable,
            "kept": kept,
            "missing": missing,
            "lock": read_lock(state_dir),
        }
        if live and not planning:
            astray = find_astray(gateway, gateway.mended(color))
            lost = compare_in_place(params["name"], state_dir / "gateway")
            ill = [
                item for item in serving if not item.healthy and (item.state, item.health) != ("running", "starting")
            ]
            down = [f"{item.name} is {item.state} ({item.health})" for item in ill]
            result["missing"] = [*down, *([astray] if astray else []), *lost, *missing]
        if planning:
            release = wanted_release(params, state_dir, str(live.get("release_id", "")), records)
            indices = [str(item["index"]) for item in release["settings"]["instances"]]
            plan = make_plan(release["release_id"], indices, instances, gateway, good, cut_off(params["name"], serving))
            if plan.rollout and not plan.first:
                gpus = [str(item["gpu"]) for item in release["settings"]["instances"] if item["gpu"]]
                known = read_report(run, SMI_TIMEOUT)[1]["gpus"] if gpus and params["strategy"] == "auto" else []
                roomy = all(takes_two(gpu, known) for gpu in gpus)
                plan.strategy = choose_strategy(params["strategy"], gateway.held, roomy)
            verified: dict[str, Any] = {}
            unsettled = plan.reason
            if not plan.rollout and params["gateway"]:
                verified, unsettled = examine(params, state_dir, release, plan, missing)
            refused = ""
            if unsettled and params["gateway"]:
                wanted = params["gateway"]
                refused = refusal(*(wanted[key] for key in ("name", "state_dir", "bind", "port", "settings")))
            what = {**asdict(plan), **places(params["name"], state_dir, release, plan, instances)}
            result.update(release=release, plan=what, verified=verified, unsettled=unsettled, refused=refused)
            result["derived"] = str(derived_folder(state_dir, release))
            if plan.rollout:
                # Only a dry run reports the plan as the change; a real one reports it where it happens.
                result["changed"] = module.check_mode
                result["diff"] = {"before": describe(live), "after": describe(release)}
    except (ReleaseError, DockerError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
