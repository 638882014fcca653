"""Releases of a service on one host: their identity, their records, and what a run has to do."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import Instance

COLORS = ("blue", "green")
# The gateway holds requests back while the color after this prefix is replaced.
HOLD = "hold-"
# What the gateway's map says when nobody gets requests.
NOBODY = "none"
WORDS = (NOBODY, *COLORS, *(f"{HOLD}{color}" for color in COLORS))
# The name of a release's folder, as a pattern of file names and as a regular expression; what else lies beside it is
# somebody's own.
IDENTITY = "[0-9a-f]" * 12
# Below the state folder; role model_bundle puts them there.
BUNDLES = "bundles"
# Beside them: what the service's image makes of them for the host's CPU.
DERIVED = "derived"
RECORD_SCHEMA = 1
# Records of releases that are no longer kept: enough to see what happened in the last months.
KEEP_RECORDS = 200


class ReleaseError(Exception):
    """A release or record that was asked for is not there, or cannot be read."""


def release_id(image_id: str, bundle_sha256: str, settings: dict[str, Any]) -> str:
    """Return the identity of a release: 12 hexadecimal digits over what it runs, nothing else."""
    canonical = json.dumps([image_id, bundle_sha256, settings], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def derived_folder(state_dir: Path, release: dict[str, Any]) -> Path:
    """Return where lies what the release's image makes of its bundle, for this host's CPU."""
    bundle, image = release["bundle"]["sha256"], release["image"]["id"].removeprefix("sha256:")
    return state_dir / DERIVED / f"{bundle[:12]}-{image[:12]}"


def bundle_folder(state_dir: Path, release: dict[str, Any]) -> Path:
    """Return where the release's bundle lies on this host; raise ReleaseError when that is no bundle's place."""
    names = [str(release.get("bundle", {}).get(key, "")) for key in ("name", "version")]
    if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names):
        raise ReleaseError(f"no bundle is called {' '.join(names)!r}")
    return state_dir.joinpath(BUNDLES, *names)


def put_aside(path: Path) -> None:
    """Move what lies where something of ours belongs into a new folder beside it; nothing is thrown away."""
    with contextlib.suppress(OSError):
        # An engine leaves an empty folder where it was told to mount a file that is not there.
        path.rmdir()
        return
    path.replace(Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{path.name}.aside-")) / path.name)


def write_atomically(path: Path, content: str, mode: int = 0o644) -> None:
    """Write the file so that a reader, or a power cut, sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        Path(temporary).chmod(mode)
        if path.is_dir() and not path.is_symlink():
            put_aside(path)
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


def parse_record(path: Path) -> dict[str, Any]:
    """Read a record; raise ReleaseError saying why it is none that this version understands."""
    record = read_json(path)
    schema = record.get("schema", RECORD_SCHEMA)
    if not isinstance(schema, int) or schema > RECORD_SCHEMA:
        raise ReleaseError(f"{path} has schema {schema}; this version reads up to {RECORD_SCHEMA}")
    words = all(isinstance(record.get(key), str) for key in ("release_id", "action", "result"))
    parts = all(isinstance(record.get(key, {}), dict) for key in ("image", "bundle"))
    if not (words and parts and isinstance(record.get("sequence"), int)):
        raise ReleaseError(f"{path} is no record of a release")
    return record


def record_files(state_dir: Path) -> list[Path]:
    """Return the files that lie where the records are, in the order of their names."""
    folder = state_dir / "records"
    return sorted(folder.glob("*.json")) if folder.is_dir() else []


def read_records(state_dir: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records of the host in the order of their sequence numbers, and a sentence for each unreadable one.

    Records explain what happened; a run that cannot read one knows less, and goes on.
    """
    records, unreadable = [], []
    for path in record_files(state_dir):
        try:
            records.append(parse_record(path))
        except ReleaseError as error:
            # Another process may have pruned it.
            if path.exists():
                unreadable.append(str(error))
    return sorted(records, key=lambda record: int(record["sequence"])), unreadable


def next_sequence(state_dir: Path) -> int:
    """Return a number that no record has, be it readable or not."""
    named = [re.match(r"\d+", path.name) for path in record_files(state_dir)]
    written = [int(record["sequence"]) for record in read_records(state_dir)[0]]
    return max([0, *written, *(int(found[0]) for found in named if found)]) + 1


def is_kept(folder: Path) -> bool:
    """Return whether the folder of a release holds what its containers are started from."""
    try:
        release = read_json(folder / "release.json")
        files = ["release.env", "service.env", *release["settings"]["compose_files"]]
        known = all(isinstance(text, str) for text in (release["image"]["id"], release["bundle"]["sha256"]))
        return known and release["release_id"] == folder.name and all((folder / name).is_file() for name in files)
    except (ReleaseError, KeyError, TypeError):
        return False


def kept_releases(state_dir: Path) -> list[str]:
    """Return the releases that can be gone back to, by id."""
    folder = state_dir / "releases"
    return sorted(entry.name for entry in folder.iterdir() if is_kept(entry)) if folder.is_dir() else []


def read_release(state_dir: Path, identity: str) -> dict[str, Any]:
    """Return ``release.json`` of a kept release; raise ReleaseError naming those that are kept."""
    folder = state_dir / "releases" / identity
    if not is_kept(folder):
        raise ReleaseError(
            f"release {identity} is not kept on this host; kept are: {', '.join(kept_releases(state_dir)) or 'none'}. "
            "`playbooks/status.yml` lists them"
        )
    return read_json(folder / "release.json")


def good_releases(records: Iterable[dict[str, Any]]) -> list[str]:
    """Return the releases that served one after the other, the newest last, without those that were gone back from."""
    served: list[str] = []
    for record in records:
        if record["result"] != "ok":
            continue
        identity, before = record["release_id"], record.get("previous") or ""
        # What served before although no record says so: its record was lost, or its run died before it wrote one.
        if before and before not in (identity, *served[-1:]) and record["action"] == "deploy":
            served.append(before)
        if record["action"] == "rollback" and identity in served:
            while served[-1] != identity:
                served.pop()
        if served[-1:] != [identity]:
            served.append(identity)
    return served


def previous_release(records: list[dict[str, Any]], live: str, kept: Collection[str]) -> str:
    """Return the newest good release before the live one that can be started again; raise ReleaseError without one.

    When nothing is live, that is the last good one.
    """
    served = good_releases(records)
    if live in served:
        while served[-1] != live:
            served.pop()
    for identity in reversed(served):
        if identity != live and identity in kept:
            return identity
    before = f"before {live}" if live else "on this host"
    raise ReleaseError(
        f"there is no release to go back to: none that is kept was good {before}. Kept are: "
        f"{', '.join(sorted(kept)) or 'none'}. Name one with -e inference_service_release=ID, or deploy"
    )


@dataclass(frozen=True)
class Gateway:
    """What the gateway does now: the word in its memory and in its map file, '' where there is none that it knows."""

    serving: str
    configured: str

    @property
    def word(self) -> str:
        """Where requests go, or will go when the gateway starts."""
        return self.serving or self.configured

    @property
    def color(self) -> str:
        """The color of that word, '' or none when there is none."""
        return self.word.removeprefix(HOLD)

    @property
    def held(self) -> bool:
        """Whether requests wait for a color that is being replaced."""
        return self.word.startswith(HOLD)

    def mended(self, color: str) -> str:
        """Return the word that belongs into memory and map file when the color is what serves."""
        if self.held and self.color == color:
            return self.word
        return color if color in COLORS else NOBODY


@dataclass
class Plan:
    """What a run has to do on this host, and why."""

    release_id: str
    rollout: bool
    reason: str
    color: str
    live_color: str
    live_release: str
    live_instances: list[str]
    first: bool
    strategy: str = "blue_green"
    leftovers: list[str] = field(default_factory=list)
    gateway_word: str = NOBODY
    astray: str = ""


def serving_color(instances: list[Instance], gateway: Gateway, good: Sequence[str] = ()) -> str:
    """Return the color that serves, or would serve if the gateway had not lost its word for it; else `none`.

    What runs counts more than a word: a map that names nobody, or a color that does not run, is a damaged map when
    the other color runs a release that was good (the newest of good, which is in order, comes first).
    """
    running = {instance.color for instance in instances if instance.state == "running"}
    present = {instance.color for instance in instances}
    if gateway.color in running or (gateway.held and gateway.color in present):
        return gateway.color
    for release in reversed(good):
        for color in COLORS:
            if any(item.color == color and item.release == release and item.healthy for item in instances):
                return color
    if gateway.color in present:
        return gateway.color
    healthy = [color for color in COLORS if any(item.color == color and item.healthy for item in instances)]
    return healthy[0] if healthy and not gateway.word else NOBODY


def find_astray(gateway: Gateway, word: str) -> str:
    """Return how the gateway's memory or its map file differs from the word that belongs there, or ''."""
    if gateway.serving not in ("", word):
        return f"the gateway sends requests to {gateway.serving} instead of {word}"
    if gateway.configured != word:
        return f"the gateway's map file names {gateway.configured or 'nobody'} instead of {word}"
    return ""


def choose_strategy(asked: str, held: bool, roomy: bool) -> str:
    """Return blue_green where a second copy fits beside the first, else recreate; roomy where each GPU takes two."""
    if held:
        # A run died while it replaced the instance; only this way knows how to bring the old one back.
        return "recreate"
    if asked != "auto":
        return asked
    return "blue_green" if roomy else "recreate"


def make_plan(
    desired: str,
    indices: list[str],
    instances: list[Instance],
    gateway: Gateway,
    good: Sequence[str] = (),
    cut_off: Collection[str] = (),
) -> Plan:
    """Compare the wanted release with the containers and the gateway that are really there.

    cut_off has the names of the instances that nothing can put back on the service's network.
    """
    live_color = serving_color(instances, gateway, good)
    serving = [instance for instance in instances if instance.color == live_color]
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
    elif any(instance.name in cut_off for instance in serving):
        reason = "the Docker network that the live release was made for is gone"
    elif gateway.held:
        reason = "an interrupted run keeps requests waiting"
    else:
        reason = ""
    word = gateway.mended(live_color)
    candidate = next(color for color in COLORS if color != live_color)
    # Whatever runs on the other color is not serving: an interrupted run left it.
    leftovers = sorted({instance.project for instance in instances if instance.color != live_color})
    return Plan(
        release_id=desired,
        rollout=bool(reason),
        reason=reason or f"release {desired} is live and healthy",
        color=candidate if reason else live_color,
        live_color=live_color,
        live_release=live_release,
        live_instances=sorted({instance.index for instance in serving}),
        first=not serving,
        leftovers=leftovers,
        gateway_word=word,
        astray=find_astray(gateway, word),
    )


def write_record(state_dir: Path, record: dict[str, Any]) -> Path:
    """Append a record with the next sequence number and return its path."""
    folder = state_dir / "records"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Another process that writes one now gets the number after this.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        sequence = next_sequence(state_dir)
        path = folder / f"{sequence:04d}-{record['release_id']}.json"
        numbered = {"schema": RECORD_SCHEMA, "sequence": sequence, **record}
        write_atomically(path, json.dumps(numbered, indent=2, sort_keys=True) + "\n")
    finally:
        os.close(descriptor)
    return path


def prune_records(state_dir: Path, kept: list[str]) -> int:
    """Remove the oldest records beyond KEEP_RECORDS, never one of a kept release; return how many."""
    old = read_records(state_dir)[0][:-KEEP_RECORDS]
    paths = [
        state_dir / "records" / f"{record['sequence']:04d}-{record['release_id']}.json"
        for record in old
        if record["release_id"] not in kept
    ]
    gone = [path for path in paths if path.is_file()]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


def releases_to_keep(records: list[dict[str, Any]], live: str, keep: int, kept: Collection[str]) -> list[str]:
    """Return the live release, the one before it, and the newest good ones that are kept, ``keep`` in all or two."""
    stay = [live]
    with contextlib.suppress(ReleaseError):
        stay.append(previous_release(records, live, kept))
    for record in reversed(records):
        if len(stay) >= max(keep, 2):
            break
        identity = str(record["release_id"])
        if record["result"] == "ok" and identity in kept and identity not in stay:
            stay.append(identity)
    return stay
