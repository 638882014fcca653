"""Releases of a service on one host: their identity, their records, and what a run has to do."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.docker_host import Instance

COLOURS = ("blue", "green")
# The gateway holds requests back while the colour after this prefix is replaced.
HOLD = "hold-"
RECORD_SCHEMA = 1
# Records of releases that are no longer kept: enough to see what happened in the last months.
KEEP_RECORDS = 200


class ReleaseError(Exception):
    """A release or record that was asked for is not there, or cannot be read."""


def release_id(image_id: str, bundle_sha256: str, settings: dict[str, Any]) -> str:
    """Return the identity of a release: 12 hexadecimal digits over what it runs, nothing else."""
    canonical = json.dumps([image_id, bundle_sha256, settings], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def write_atomically(path: Path, content: str, mode: int = 0o644) -> None:
    """Write the file so that a reader, or a power cut, sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise ReleaseError naming the file when it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ReleaseError(f"{path} holds no JSON object")
    return content


def read_records(state_dir: Path) -> list[dict[str, Any]]:
    """Return the records of the host in the order of their sequence numbers."""
    folder = state_dir / "records"
    found = []
    for path in folder.glob("*.json") if folder.is_dir() else []:
        try:
            found.append(read_json(path))
        except ReleaseError:
            # Another process may have pruned it.
            if path.exists():
                raise
    return sorted(found, key=lambda record: int(record.get("sequence", 0)))


def read_release(state_dir: Path, identity: str) -> dict[str, Any]:
    """Return ``release.json`` of a kept release; raise ReleaseError naming those that are kept."""
    path = state_dir / "releases" / identity / "release.json"
    if not path.is_file():
        folder = state_dir / "releases"
        kept = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        raise ReleaseError(
            f"release {identity} is not kept on this host; kept are: {', '.join(kept) or 'none'}. "
            "`playbooks/status.yml` lists them"
        )
    return read_json(path)


def previous_release(records: list[dict[str, Any]], live: str) -> str:
    """Return the release that the live one replaced when it was deployed; raise ReleaseError when there is none."""
    for record in reversed(records):
        deployed = record.get("action") == "deploy" and record.get("result") == "ok"
        if deployed and record.get("release_id") == live:
            if record.get("previous"):
                return str(record["previous"])
            break
    raise ReleaseError(
        f"no release was good before {live or 'the first one'}; "
        "name one with -e inference_service_release=ID (`playbooks/status.yml` lists them)"
    )


@dataclass(frozen=True)
class Gateway:
    """What the gateway does now: the colour in its memory ('' when it does not answer) and in its map file."""

    serving: str
    configured: str

    @property
    def colour(self) -> str:
        """The colour that gets requests, or will get them when the gateway starts."""
        return (self.serving or self.configured).removeprefix(HOLD)

    @property
    def held(self) -> bool:
        """Whether requests wait for a colour that is being replaced."""
        return (self.serving or self.configured).startswith(HOLD)


@dataclass
class Plan:
    """What a run has to do on this host, and why."""

    release_id: str
    rollout: bool
    reason: str
    colour: str
    live_colour: str
    live_release: str
    live_instances: list[str]
    first: bool
    strategy: str = "blue_green"
    leftovers: list[str] = field(default_factory=list)


def live_instances(instances: list[Instance], gateway: Gateway) -> list[Instance]:
    """Return the instances of the colour that the gateway sends requests to."""
    return [instance for instance in instances if instance.colour == gateway.colour]


def choose_strategy(asked: str, held: bool, gpus: list[str], memory: dict[str, tuple[int, int]]) -> str:
    """Return blue_green where a second copy fits beside the first, else recreate; memory is used and free MiB by GPU.

    A candidate needs about what the live instance uses now, which the GPU's used memory is never below.
    """
    if held:
        # A run died while it replaced the instance; only this way knows how to bring the old one back.
        return "recreate"
    if asked != "auto":
        return asked
    tight = [gpu for gpu in gpus if gpu in memory and memory[gpu][1] < memory[gpu][0]]
    return "recreate" if tight else "blue_green"


def make_plan(desired: str, indices: list[str], instances: list[Instance], gateway: Gateway) -> Plan:
    """Compare the wanted release with the containers and the gateway that are really there."""
    serving = live_instances(instances, gateway)
    releases = {instance.release for instance in serving}
    live_release = releases.pop() if len(releases) == 1 else ""
    unhealthy = [instance.name for instance in serving if not instance.healthy]
    if not serving:
        reason = "no release is live"
    elif live_release != desired:
        reason = f"release {live_release or 'unknown'} is live"
    elif sorted(instance.index for instance in serving) != sorted(indices):
        reason = "the live release has other instances"
    elif unhealthy:
        reason = f"{', '.join(unhealthy)} of the live release is not healthy"
    elif gateway.held:
        reason = "an interrupted run keeps requests waiting"
    else:
        reason = ""
    live_colour = gateway.colour if serving else "none"
    candidate = next(colour for colour in COLOURS if colour != live_colour)
    # Whatever runs on the other colour is not serving: an interrupted run left it.
    leftovers = sorted({instance.project for instance in instances if instance.colour != live_colour})
    return Plan(
        release_id=desired,
        rollout=bool(reason),
        reason=reason or f"release {desired} is live and healthy",
        colour=candidate if reason else live_colour,
        live_colour=live_colour,
        live_release=live_release,
        live_instances=sorted({instance.index for instance in serving}),
        first=not serving,
        leftovers=leftovers,
    )


def write_record(state_dir: Path, record: dict[str, Any]) -> Path:
    """Append a record with the next sequence number and return its path."""
    folder = state_dir / "records"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Another process that writes one now gets the number after this.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        records = read_records(state_dir)
        sequence = int(records[-1]["sequence"]) + 1 if records else 1
        path = folder / f"{sequence:04d}-{record['release_id']}.json"
        numbered = {"schema": RECORD_SCHEMA, "sequence": sequence, **record}
        write_atomically(path, json.dumps(numbered, indent=2, sort_keys=True) + "\n")
    finally:
        os.close(descriptor)
    return path


def prune_records(state_dir: Path, kept: list[str]) -> int:
    """Remove the oldest records beyond KEEP_RECORDS, never one of a kept release; return how many."""
    old = read_records(state_dir)[:-KEEP_RECORDS]
    gone = [record for record in old if record["release_id"] not in kept]
    for record in gone:
        (state_dir / "records" / f"{record['sequence']:04d}-{record['release_id']}.json").unlink(missing_ok=True)
    return len(gone)


def releases_to_keep(records: list[dict[str, Any]], live: str, keep: int) -> list[str]:
    """Return the live release, the one before it, and the newest good ones, ``keep`` in all at least two."""
    kept = [live]
    with contextlib.suppress(ReleaseError):
        kept.append(previous_release(records, live))
    for record in reversed(records):
        if len(kept) >= max(keep, 2):
            break
        if record.get("result") == "ok" and record["release_id"] not in kept:
            kept.append(str(record["release_id"]))
    return kept
