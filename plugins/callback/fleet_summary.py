"""Callback: at the end of a run, however it ended, one table of what every host answered when it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible import constants, context
from ansible.plugins.loader import callback_loader

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import COLLECTION

if TYPE_CHECKING:

    class CallbackBase:
        """What this callback uses of Ansible's base class, which ships no types."""

        _display: Any

        def __init__(self) -> None:
            """Make the callback."""

else:
    from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: fleet_summary
type: aggregate
short_description: What each host of a fleet serves after the run
description:
  - A run ends with a look at every host, module C(release_answers), and at every load balancer, module
    C(balancer_info). This callback prints a line for each host from these answers. What was not asked, or could not
    be, is said to be not known.
  - A run on one host prints nothing, and neither does a playbook that asks no host, nor one whose output is for a
    machine.
requirements:
  - enabled in C(callbacks_enabled)
author: The maintainers
"""

COLUMNS = ("host", "serves", "release", "device", "address", "state")
GROUPS = ("inference_hosts", "load_balancers")
# Modules that read what serves.
READERS = tuple(f"{COLLECTION}.{name}" for name in ("release_info", "release_answers", "balancer_info"))
LOST = "unreachable: "
NOBODY = "only on the host itself"


@dataclass
class HostState:
    """What the run learned of one host."""

    live: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    wanted: dict[str, Any] = field(default_factory=dict)
    # What release_answers or balancer_info said at last; nothing when the host was not asked.
    look: dict[str, Any] = field(default_factory=dict)
    # Why it could not be asked.
    blind: str = ""
    removed: bool = False
    recorded: bool = False
    failed: bool = False

    def plans(self, result: dict[str, Any]) -> None:
        """Take what an answer of release_info says; one that could not read the host says nothing."""
        if "live" in result:
            self.live = result["live"]["release"]
            self.plan, self.wanted = result.get("plan", self.plan), result.get("release", self.wanted)

    def looks(self, result: dict[str, Any]) -> None:
        """Take the answer of a look; one that failed says why."""
        self.look, self.blind = (result, "") if "answers" in result else ({}, str(result.get("msg", "")))

    def is_lost(self, words: str) -> None:
        """Note that the host cannot be reached."""
        # What follows a lost connection, as a lock that is not given back, says less than what lost it.
        reason = self.blind if self.blind.startswith(LOST) else f"{LOST}{words}"
        self.look, self.blind = {}, " ".join(reason.split()).rstrip(":")

    def verdict(self, dry: bool) -> str:
        """Return how the host's part of the run ended, and whether it serves."""
        failed = "failed, " if self.failed else ""
        if not self.look:
            return f"{failed}not known ({self.blind or 'the run ended before the host was asked'})"
        if "servers" in self.look:
            return f"{failed}{self.balancer_words()}"
        if not self.look["answers"]:
            return self.silence(failed, dry)
        if self.failed:
            return f"failed, {'serves the new release' if self.serves_wanted() else 'still serves'}"
        if self.removed:
            return "still serves"
        return self.progress(dry)

    def balancer_words(self) -> str:
        """Return the words for a load balancer that was asked."""
        if not self.look["answers"]:
            return "removed" if self.removed else f"serves nothing ({self.look['reason']})"
        words = "still serves" if self.removed or self.failed else "serves"
        missing = ", ".join(f"{one['name']}: {one['state']}" for one in self.look["servers"] if not one["up"])
        return f"{words} without {missing}" if missing else words

    def serves_wanted(self) -> bool:
        """Return whether what answered is what the run was to bring, and was not there before."""
        wanted = self.wanted.get("release_id")
        return bool(wanted) and self.look["release"] == wanted != self.live.get("release_id")

    def silence(self, failed: str, dry: bool) -> str:
        """Return the words for a host that was asked and does not answer."""
        if self.removed and not failed:
            return "removed"
        if dry and self.plan.get("rollout") and not failed:
            return "would be deployed"
        return f"{failed}serves nothing ({self.look['reason']})"

    def progress(self, dry: bool) -> str:
        """Return the words for a host that serves and did not fail."""
        if not self.plan:
            return "serves"
        if not self.plan.get("rollout"):
            return "unchanged"
        if dry:
            return "would be updated"
        return "updated" if self.recorded else "interrupted; run again"


def balancer_row(host: str, state: HostState, dry: bool) -> tuple[str, ...]:
    """Return the columns of a load balancer."""
    servers = state.look["servers"]
    up = sum(server["up"] for server in servers)
    seen = f"{up} of {len(servers)} hosts up" if servers else "-"
    return host, seen, "-", "-", address(state.look), state.verdict(dry)


def address(look: dict[str, Any]) -> str:
    """Return where people reach what was looked at."""
    return look.get("usable") or (NOBODY if look.get("url") else "-")


def row(host: str, state: HostState, dry: bool) -> tuple[str, ...]:
    """Return the columns of one host."""
    look = state.look
    if "servers" in look:
        return balancer_row(host, state, dry)
    model = " ".join(part for part in (look.get("model", ""), look.get("version", "")) if part)
    return (
        host,
        model or "-",
        look.get("release") or "-",
        look.get("device") or "-",
        address(look),
        state.verdict(dry),
    )


def fleet_table(hosts: dict[str, HostState], dry: bool = False) -> list[str]:
    """Return the table's lines, in the order of the hosts."""
    rows = [COLUMNS, *(row(host, state, dry) for host, state in hosts.items())]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in rows]


def for_people(name: str) -> bool:
    """Return whether a stdout callback writes for people: Ansible's own default does, and what is made from it."""
    loaded = callback_loader.get(name, class_only=True)
    return any(base.__module__ == "ansible.plugins.callback.default" for base in getattr(loaded, "__mro__", ()))


class CallbackModule(CallbackBase):
    """Collects what the looks said, and prints it when everything else has been said."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fleet_summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._hosts: dict[str, HostState] = {}
        # Whether the playbook is one that reads what serves.
        self._reads = False

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Learn which hosts the run is about; those that failed before are still among them."""
        variables = play.get_variable_manager().get_vars(play=play)
        members = {name for group in GROUPS for name in variables.get("groups", {}).get(group, [])}
        for name in variables.get("ansible_play_hosts_all") or []:
            if name in members:
                self._hosts.setdefault(name, HostState())

    def _state(self, result: Any) -> HostState:
        """Return what is known of the host that a result is of."""
        return self._hosts.setdefault(result.host.get_name(), HostState())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Follow the steps that matter here."""
        action, state = result.task.action, self._state(result)
        self._reads = self._reads or action in READERS
        if action == f"{COLLECTION}.release_info":
            state.plans(result.result)
        elif action in READERS:
            state.looks(result.result)
        elif action == f"{COLLECTION}.release_record":
            state.recorded = True
        elif result.result.get("ansible_facts", {}).get("__run_removed"):
            state.removed = True

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note that a host was lost; a later look may find it again."""
        self._state(result).is_lost(str(result.result.get("msg", "")).removeprefix("Task failed: "))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the table."""
        if len(self._hosts) < 2 or not self._reads or not for_people(constants.DEFAULT_STDOUT_CALLBACK):
            return
        for host, state in self._hosts.items():
            state.failed = host in stats.failures
        self._display.banner("FLEET")
        for line in fleet_table(self._hosts, dry=bool(context.CLIARGS.get("check"))):
            self._display.display(line)
