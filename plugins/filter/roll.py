"""Filters: which hosts roll out together, why a host ended a run, and what one serves after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.utils.helpers import pct_to_int

# Those of each host, by its name.
Variables = Mapping[str, Mapping[str, Any]]


def batches(hosts: Sequence[str], canary: int | str, batch: int | str) -> list[list[str]]:
    """Return the hosts as they roll out: the canary, then batch after batch; a share is one of all hosts."""
    try:
        sizes = [pct_to_int(size, len(hosts)) for size in (canary, batch)]
    except ValueError as error:
        raise AnsibleFilterError(
            f"deploy_canary and deploy_batch are a number or a share such as 25%: {error}"
        ) from error
    if min(sizes, default=1) < 1:
        raise AnsibleFilterError(f"deploy_canary ({canary}) and deploy_batch ({batch}) must be at least 1.")
    found: list[list[str]] = []
    rest = list(hosts)
    while rest:
        size = sizes[min(len(found), 1)]
        found.append(rest[:size])
        rest = rest[size:]
    return found


def roll_batch(hosts: Sequence[str], host: str, canary: int | str, batch: int | str) -> dict[str, list[str]]:
    """Return the host's own batch, as `hosts`, and the batch `before` it."""
    order = batches(hosts, canary, batch)
    number = next(number for number, members in enumerate(order) if host in members)
    return {"hosts": order[number], "before": order[number - 1] if number else []}


def ended_before(hosts: Sequence[str], present: Sequence[str], variables: Variables) -> list[str]:
    """Return which of the hosts did not get through: they were lost, or failed and stayed in the run."""
    return [host for host in hosts if host not in present or variables[host].get("__run_failure") is not None]


def changed_before(hosts: Sequence[str], variables: Variables) -> list[str]:
    """Return on which of the hosts this run has changed what serves."""
    plans = {host: (variables[host].get("inference_service_plan") or {}).get("plan", {}) for host in hosts}
    return [host for host, plan in plans.items() if plan.get("rollout")]


def reboots_before(hosts: Sequence[str], host: str, variables: Variables) -> list[str]:
    """Return which of the hosts before one need a reboot and have not come back from it."""
    before = hosts[: hosts.index(host)]
    waiting = [name for name in before if variables[name].get("__nvidia_driver_reboot_needed")]
    return [name for name in waiting if variables[name].get("__nvidia_driver_back") is None]


def failure_words(failed: Mapping[str, Any], before: str = "") -> str:
    """Return what a failed task said, of all its items where it has some, after what went wrong before it."""
    items = [item for item in failed.get("results") or [] if item.get("failed")]
    said = [str(item.get("msg") or "").strip().removeprefix("Task failed: ") for item in items or [failed]]
    words = "\n".join(dict.fromkeys(words for words in said if words)) or "no reason was given"
    return "\n".join(part for part in (before, words) if part)


def connection_words(message: str) -> str:
    """Return what the connection said when it could not be made, without Ansible's own words around it."""
    said = [line.strip() for line in message.splitlines() if line.strip()]
    words = " ".join(said).removeprefix("Task failed: ").removeprefix("Failed to connect to the host via ssh: ")
    return words.rstrip(".") or "the connection says nothing"


def serving_lines(
    look: Mapping[str, Any], facts: Mapping[str, Any], verified: Mapping[str, Any], began: float
) -> list[str]:
    """Return what a host serves after a run: its answer, and the golden sample that was asked through the gateway.

    look is the answer of release_answers, facts that of release_info, verified that of release_accept where a rollout
    asked it; began is when the run did, in seconds since the epoch.
    """
    prediction = (facts.get("verified") or verified).get("prediction")
    where = look["usable"] or f"{look['url']} (on the host alone: set inference_service_bind to let others in)"
    lines = [
        ("URL", where),
        ("Device", look["device"]),
        ("Model", f"{look['model']} {look['version']}"),
        ("Release", f"{look['release']} ({facts['plan']['color']})"),
    ]
    if prediction:
        lines.append(
            (
                "Prediction",
                "{sample} is {class_name} ({percent:.1f} %)".format(
                    **prediction, percent=prediction["confidence"] * 100
                ),
            )
        )
    lines.append(("Took", f"{time.time() - float(began):.1f} s"))
    return [f"{name + ':':<11} {value}" for name, value in lines]


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "roll_batch": roll_batch,
            "ended_before": ended_before,
            "changed_before": changed_before,
            "reboots_before": reboots_before,
            "failure_words": failure_words,
            "connection_words": connection_words,
            "serving_lines": serving_lines,
        }
