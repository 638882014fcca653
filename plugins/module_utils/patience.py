"""Let new connections to an address wait while nobody listens there, instead of being refused.

The first packet of a connection that the firewall drops is sent again by the client's kernel, after one second and then
after two more: the client waits. The rules end at a time of the kernel's clock, whatever becomes of who made them.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator

# Both come before Docker's own rules: what arrives, and what this machine itself sends.
CHAINS = ("PREROUTING", "OUTPUT")
# The lock of the firewall's tools is somebody else's for so long at most.
LOCK_SECONDS = "5"


def _run(tool: str, *words: str) -> str | None:
    """Run a tool of the firewall on the table of rules that come first; return its output, None when it fails."""
    found = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not found:
        return None
    command = [found, "--wait", LOCK_SECONDS, "--table", "raw", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def rule(ip: str, port: int, name: str, until: datetime.datetime) -> list[str]:
    """Return the rule, in the words of iptables, by which new connections to an address wait until that time."""
    place = [] if ipaddress.ip_address(ip).is_unspecified else ["--destination", ip]
    first = ["--protocol", "tcp", "--dport", str(port), "--syn"]
    ends = ["--match", "time", "--datestop", until.strftime("%Y-%m-%dT%H:%M:%S")]
    return [*place, *first, *ends, "--match", "comment", "--comment", name, "--jump", "DROP"]


def hold(addresses: Iterable[tuple[str, int]], name: str, seconds: float) -> None:
    """Let new connections to these addresses and ports wait, where the host's firewall can; `release` ends it."""
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    for ip, port in addresses:
        for chain in CHAINS:
            _run("ip6tables" if ":" in ip else "iptables", "--insert", chain, *rule(ip, port, name, until))


def named(listing: str, name: str) -> Iterator[list[str]]:
    """Return the words that delete the rules of this name, of a listing."""
    for line in listing.splitlines():
        words = shlex.split(line)
        if words[:1] == ["-A"] and name in words:
            yield ["--delete", *words[1:]]


def _rules(name: str) -> list[tuple[str, list[str]]]:
    """Return tool and words that delete each rule of this name, of whatever process and time."""
    tools = ("iptables", "ip6tables")
    return [(tool, words) for tool in tools for words in named(_run(tool, "--list-rules") or "", name)]


def holds(name: str) -> bool:
    """Return whether connections wait by rules of this name."""
    return bool(_rules(name))


def release(name: str) -> None:
    """Let the connections in that wait by rules of this name."""
    for tool, words in _rules(name):
        _run(tool, *words)
