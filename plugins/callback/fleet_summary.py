"""Callback: at the end of a run on several hosts, one table of what each serves, also when the run stopped half-way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible import context

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
  - Ansible ends a playbook with the first batch that fails, so no later play could say which hosts were not reached.
    This callback listens to the modules of a rollout, and prints a line for each host when the run ends.
  - A run on one host prints nothing, and neither does a playbook that reads no release.
requirements:
  - enabled in C(callbacks_enabled)
author: The maintainers
"""

COLUMNS = ("host", "release", "model", "device", "state")


@dataclass
class HostState:
    """What the run learned of one host."""

    live: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    wanted: dict[str, Any] = field(default_factory=dict)
    switched: bool = False
    recorded: bool = False
    failed: bool = False
    unreachable: bool = False

    def learn(self, result: dict[str, Any]) -> None:
        """Take what an answer of release_facts says; one that could not read the host says nothing."""
        if "live" not in result:
            return
        self.live = result["live"]["release"]
        self.plan, self.wanted = result.get("plan", {}), result.get("release", {})

    def verdict(self, dry: bool) -> tuple[dict[str, Any], str]:
        """Return the release that serves now, and how that came."""
        rollout = bool(self.plan.get("rollout"))
        if self.unreachable:
            return self.live, "unreachable; this is what it served before"
        if self.failed:
            return self.live, "failed, kept" if self.live else "failed, serves nothing"
        if not self.plan:
            return self.live, "untouched"
        if not rollout:
            return self.live, "unchanged"
        if dry:
            return self.live, "would be updated"
        serving = self.wanted if self.switched else self.live
        return serving, "updated" if self.recorded else "interrupted; run again"


def row(host: str, state: HostState, dry: bool) -> tuple[str, ...]:
    """Return the columns of one host."""
    release, words = state.verdict(dry)
    bundle = release.get("bundle", {})
    model = f"{bundle.get('name', '?')} {bundle.get('version', '?')}" if bundle else "-"
    device = release.get("settings", {}).get("device", "-")
    return host, release.get("release_id") or "-", model, device, words


def fleet_table(hosts: dict[str, HostState], dry: bool = False) -> list[str]:
    """Return the table's lines, in the order of the hosts."""
    rows = [COLUMNS, *(row(host, state, dry) for host, state in hosts.items())]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in rows]


class CallbackModule(CallbackBase):
    """Collects what release_facts said, and prints it when everything else has been said."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fleet_summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._hosts: dict[str, HostState] = {}
        self._hosts_of_play: list[str] = []

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Learn which hosts the run is about; those that failed before are still among them."""
        variables = play.get_variable_manager().get_vars(play=play)
        self._hosts_of_play = list(variables.get("ansible_play_hosts_all") or [])

    def v2_runner_on_ok(self, result: Any) -> None:
        """Follow the steps of a rollout that matter here."""
        action, host = result.task.action, result.host.get_name()
        if action == "release_facts":
            # All hosts of such a play serve, those included that were or will be left out.
            for name in self._hosts_of_play:
                self._hosts.setdefault(name, HostState())
            self._hosts.setdefault(host, HostState()).learn(result.result)
        elif action == "gateway_switch":
            self._hosts[host].switched = True
        elif action == "release_record":
            self._hosts[host].recorded = True

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the table."""
        if len(self._hosts) < 2:
            return
        for host, state in self._hosts.items():
            state.failed, state.unreachable = host in stats.failures, host in stats.dark
        self._display.banner("FLEET")
        for line in fleet_table(self._hosts, dry=bool(context.CLIARGS.get("check"))):
            self._display.display(line)
