"""How a container ended, as Docker saw it: a container that was restarted has forgotten its last exit code."""

from __future__ import annotations

import time

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import Instance, run_docker

ENDED = ("exited", "dead", "restarting")


def parse_ends(lines: list[str]) -> tuple[int | None, bool]:
    """Return the last exit code among Docker's events ("ACTION CODE"), and whether memory ran out."""
    code = None
    for line in lines:
        action, _, value = line.partition(" ")
        if action == "die" and value.strip().isdigit():
            code = int(value)
    return code, any(line.startswith("oom") for line in lines)


def describe_end(instance: Instance, code: int | None, out_of_memory: bool) -> str:
    """Say how the container ended."""
    last = instance.exit_code if code is None else code
    why = ": it needs more memory than inference_service_memory allows" if out_of_memory else ""
    if instance.restarts > 0:
        return f"it keeps crashing (restarted {instance.restarts} times, last exit code {last}{why})"
    return f"it exited with code {last}{why}"


def end_of(instance: Instance) -> str:
    """Return how the container ended; '' when it runs and was never restarted."""
    if instance.restarts == 0 and instance.state not in ENDED:
        return ""
    events = run_docker(
        [
            *("events", "--since", "10m", "--until", f"{time.time():.6f}", "--filter", f"container={instance.name}"),
            *("--filter", "event=die", "--filter", "event=oom"),
            *("--format", '{{.Action}} {{index .Actor.Attributes "exitCode"}}'),
        ]
    )
    return describe_end(instance, *parse_ends(events.splitlines()))
