"""Action: check a bundle's files against its manifest; the host needs only a shell, and what it says is judged here.

A module would say the same; packing and starting one takes longer than reading a bundle does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.host_script import ActionModule as HostScript
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.host_script import Answer

MANIFEST = "bundle.json"
# Arguments: folder, files below it. Prints a line each, either SIZE SHA256 or nothing for a file that is not there.
MEASURE = """
cd -- "$1" || exit 1
shift
for file; do
  [ -f "$file" ] || { echo; continue; }
  size=$(stat -L -c %s -- "$file") && sum=$(sha256sum <"$file") || exit 1
  echo "$size ${sum%% *}"
done
"""
# Argument: folder. Prints the manifest; exit code 3 says that there is none.
READ = f'[ -f "$1/{MANIFEST}" ] || exit 3; cat "$1/{MANIFEST}"'
NO_MANIFEST = 3

# Runs a script of the shell with arguments on the host.
Shell = Callable[[str, list[str]], "Answer"]


class UnreadableError(Exception):
    """The bundle's files cannot be read; the message says why, and what to do."""


def listed_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries (file, sha256, bytes) that the manifest lists."""
    entries = [manifest["weights"], manifest["labels"], manifest["golden"], *manifest["golden_samples"]]
    return [{"file": str(entry["file"]), "sha256": entry["sha256"], "bytes": entry["bytes"]} for entry in entries]


def measure(shell: Shell, folder: str, files: list[str]) -> list[tuple[int, str] | None]:
    """Return bytes and SHA-256 of each file, None for one that is not there; raise UnreadableError."""
    answer = shell(MEASURE, [folder, *files])
    lines = [line.split() for line in answer.output.split("\n")[: len(files)]]
    if answer.code != 0 or len(lines) != len(files):
        raise UnreadableError(answer.failure(f"The bundle in {folder} cannot be read"))
    return [(int(fields[0]), fields[1]) if len(fields) == 2 else None for fields in lines]


def compare(path: str, entry: dict[str, Any], found: tuple[int, str] | None) -> str:
    """Return what is wrong with one listed file, or ''."""
    if found is None:
        return f"{path} is missing"
    if found[0] != entry["bytes"]:
        return f"{path} has {found[0]} bytes, its manifest says {entry['bytes']}"
    return f"{path} differs from the checksum in its manifest" if found[1] != entry["sha256"] else ""


def read_bundle(shell: Shell, folder: str) -> dict[str, Any]:
    """Return identity and problems of the bundle in the folder; raise UnreadableError."""
    source = f"{folder}/{MANIFEST}"
    facts: dict[str, Any] = {"exists": False, "sha256": "", "name": "", "version": "", "source_sha256": ""}
    answer = shell(READ, [folder])
    if answer.code == NO_MANIFEST:
        return {**facts, "problems": [f"{source} is missing"]}
    if answer.code != 0:
        raise UnreadableError(answer.failure(f"The bundle in {folder} cannot be read"))
    try:
        manifest = json.loads(answer.output)
        entries = listed_files(manifest)
        identity = {key: str(manifest[key]) for key in ("name", "version")}
        identity["source_sha256"] = str(manifest["source"]["sha256"])
        problem = ""
    except (ValueError, KeyError, TypeError) as error:
        entries, identity, problem = [], {}, f"{source} is not a bundle manifest ({error!r})"
    own, *found = measure(shell, folder, [MANIFEST, *(entry["file"] for entry in entries)])
    if own is None:
        raise UnreadableError(f"{source} has vanished while the bundle was read. Run again.")
    problems = [compare(f"{folder}/{entry['file']}", entry, it) for entry, it in zip(entries, found, strict=True)]
    return {
        **facts,
        **identity,
        "exists": True,
        "sha256": own[1],
        "problems": [each for each in [problem, *problems] if each],
    }


class ActionModule(HostScript):
    """Reads a bundle on the host, in check mode too."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return identity and problems of the bundle; changes nothing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec({"path": {"type": "path", "required": True}})
        result["changed"] = False
        try:
            result.update(read_bundle(self.run_script, options["path"]))
        except UnreadableError as error:
            result.update(failed=True, msg=str(error))
        return result
