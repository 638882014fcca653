"""Action: build an image, save images on the controller, load them on a host; long steps that tell how far they are.

Archives lie in folders that only their user enters: Ansible's own of this run on the controller, of the task on a host.
What was loaded is compared with what was saved.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shlex
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ansible import constants
from ansible.errors import AnsibleActionFail

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.host_script import ActionModule as HostScript
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.host_script import Answer
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import Progress

# Arguments: images. Prints a line for each that is there.
INSPECT = """
for image; do
  docker image inspect --format "IMAGE $image {{.Id}} {{.Size}} {{json .RootFS.Layers}}" "$image" 2>/dev/null
done
exit 0
"""
# Arguments: archive, images. Docker reads what either compressor writes; the faster one is not on every machine.
SAVE = """
archive=$1; shift
{ docker save "$@"; echo $? >"$archive.code"; } | LC_ALL=C dd bs=1M status=progress 2>"$archive.log" |
  if command -v zstd >/dev/null; then zstd -q -1 -T0; else gzip -1; fi >"$archive" && [ "$(cat "$archive.code")" = 0 ]
"""
# Arguments: archive. dd says every second how much it has handed over.
LOAD = 'LC_ALL=C dd if="$1" bs=1M status=progress 2>"$1.log" | docker load'
# Arguments: folder with the sources, log, command.
BUILD = 'cd -- "$1" && log=$2 && shift 2 && exec "$@" >"$log" 2>&1'
LAST_WORDS = 'tail -n 25 -- "$1"'
# Argument: file. Its size, and the bytes that are free beside it.
SIZE = 'stat -L -c %s -- "$1"'
ROOM = """df -Pk -- "$1" | awk 'END { printf "%.0f", $4 * 1024 }'"""
REMOVE = 'docker image rm -- "$@"'

# Looks at how far a step is, as the action `watched` reads them. Argument: file.
LOOK_AT_SIZE = "stat -L -c 'progress %s' -- \"$1\""
# And what follows when dd has handed over everything.
LOOK_AT_DD = """grep -aoE '[0-9]+ bytes|records out' "$1" |
awk -v next_is="$2" '/records/ { words = " " next_is } /bytes/ { done = $1 } END { print "progress " done words }'"""
# BuildKit numbers its steps and names each once: "#7 [builder 2/6] RUN ...", then "#7 3.14 words".
LOOK_AT_BUILD = """awk '/^#[0-9]+ / {
  step = $1; words = substr($0, length(step) + 2)
  if (match(words, /^\\[[^]]*\\]/)) { name[step] = substr(words, 2, RLENGTH - 2); words = substr(words, RLENGTH + 2) }
  sub(/^[0-9]+[.][0-9]+ /, "", words)
}
END {
  of = name[step]; sub(/.* /, "", of)
  stage = name[step]; sub(/ [^ ]*$/, "", stage)
  if (of ~ /^[0-9]+[/][0-9]+$/) print "progress " of " " (stage == of ? "" : stage ": ") words
  else print "progress 0 " words
}' "$1"
"""


class Image(NamedTuple):
    """An image as an engine knows it."""

    id: str
    size: int
    layers: list[str]

    def same(self, other: Image) -> bool:
        """Return whether both are one image; an engine that keeps it in containerd has another id for its layers."""
        return self.id == other.id or (self.layers != [] and self.layers == other.layers)


def read_images(output: str) -> dict[str, Image]:
    """Return what INSPECT found, by reference."""
    found = (line.split(" ", 4)[1:] for line in output.splitlines() if line.startswith("IMAGE "))
    return {name: Image(identity, int(size), json.loads(layers) or []) for name, identity, size, layers in found}


def of_this_run(name: str) -> Path:
    """Return a path in the folder that Ansible makes for a run, for its user only, and removes when it ends."""
    return Path(constants.DEFAULT_LOCAL_TMP) / name


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process of this run at a time do it; tasks run in processes of their own."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def growing(path: Path, step: Progress) -> Iterator[None]:
    """Tell how big a file of this machine is by now."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            with contextlib.suppress(OSError):
                step.say(path.stat().st_size)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class ActionModule(HostScript):
    """Builds, saves or loads, on the host that the task runs on and with the rights that it has there."""

    # A folder for the task, which the connection's user alone may enter; removed with the task.
    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do it unless it is done."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "state": {"type": "str", "required": True, "choices": ["built", "saved", "loaded"]},
                "images": {"type": "list", "elements": "str"},
                "command": {"type": "list", "elements": "str"},
                "source_dir": {"type": "path"},
                "parcel": {"type": "dict"},
            },
            required_if=[
                ("state", "built", ["images", "command", "source_dir"]),
                ("state", "saved", ["images"]),
                ("state", "loaded", ["parcel"]),
            ],
        )
        self._vars = task_vars or {}
        self._host = self._task.delegate_to or self._vars["inventory_hostname"]
        self._local = self._connection.transport == "local"
        result["changed"] = False
        if options["state"] == "built":
            result["changed"] = self._built(options["images"][0], options["command"], options["source_dir"])
        elif options["state"] == "saved":
            result["parcel"] = self._saved(options["images"])
        else:
            images = {name: Image(*values) for name, values in options["parcel"]["images"].items()}
            result["changed"] = self._loaded(Path(options["parcel"]["archive"]), images)
        return result

    def _built(self, image: str, command: list[str], source_dir: str) -> bool:
        """Build an image that is not there; hosts that share this machine's Docker take turns."""
        with alone(of_this_run("build.lock")) if self._local else contextlib.nullcontext():
            if self._images([image]):
                return False
            (log,) = self._prepare("build.log")
            with self._progress(f"build {image}", LOOK_AT_BUILD, log, unit="steps"):
                answer = self._do(BUILD, source_dir, log, *command)
            if answer.code != 0:
                words = self._do(LAST_WORDS, log).output.strip() or answer.complaint.strip()
                raise AnsibleActionFail(
                    f"{image} could not be built. The build's last words:\n\n{words}\n\n"
                    "Run scripts/docker-build.sh --help for doing it by hand; docs/DOCKER_DEPLOYMENT.md explains "
                    "proxies, private CAs and a wheelhouse."
                )
        return True

    def _saved(self, images: list[str]) -> dict[str, Any]:
        """Have an archive of the images on the controller, made once a run; return where, and which images they are."""
        archive = of_this_run(f"images-{hashlib.sha256(' '.join([self._host, *images]).encode()).hexdigest()[:16]}")
        with alone(archive.with_suffix(".lock")):
            found = self._images(images)
            if missing := [name for name in images if name not in found]:
                raise AnsibleActionFail(
                    f"{self._host} has no image {', '.join(missing)} (see `docker image ls` there)."
                )
            if not archive.exists():
                self._save(found, archive)
        return {"archive": str(archive), "images": {name: list(image) for name, image in found.items()}}

    def _save(self, images: dict[str, Image], archive: Path) -> None:
        path, log, _ = self._prepare("archive", "archive.log", "archive.code")
        # Layers that two images share are saved once.
        total = sum(image.size for image in images.values())
        with self._progress("save the image", LOOK_AT_DD, log, "compressing", total=total, unit="B", at_most=True):
            answer = self._do(SAVE, path, *images)
        if answer.code != 0:
            raise AnsibleActionFail(answer.failure(f"The image could not be saved on {self._host}"))
        partial = archive.with_suffix(".partial")
        if self._local:
            shutil.move(path, partial)
        else:
            size = self._number(SIZE, path)
            with self.progress(self._vars, "fetch the image", size, "B") as step, growing(partial, step):
                self._connection.fetch_file(path, str(partial))
        partial.rename(archive)

    def _loaded(self, archive: Path, images: dict[str, Image]) -> bool:
        """Load the archive unless the images are there, and let nothing stay that is not what was saved."""
        if not self._differing(images):
            return False
        path, log = self._prepare("archive", "archive.log")
        size, room = archive.stat().st_size, self._number(ROOM, path)
        if room < size:
            raise AnsibleActionFail(
                f"{self._host} has only {room / 1e6:.0f} MB free in {Path(path).parents[1]}, where the image takes "
                f"{size / 1e6:.0f} MB until it is loaded. Nothing was changed. Free space there, or set "
                "ansible_remote_tmp to a folder with more."
            )
        with self._progress("copy the image", LOOK_AT_SIZE, path, total=size, unit="B"):
            self._connection.put_file(str(archive), path)
        with self._progress("load the image", LOOK_AT_DD, log, "unpacking", total=size, unit="B"):
            answer = self._do(LOAD, path)
        if answer.code != 0:
            raise AnsibleActionFail(answer.failure(f"The image could not be loaded on {self._host}"))
        if wrong := self._differing(images):
            self._do(REMOVE, *wrong)
            raise AnsibleActionFail(
                f"The image on {self._host} differs from the one that was saved ({', '.join(wrong)}), so it was "
                "removed. Run again; if it happens again, check the host's disk (`dmesg`)."
            )
        return True

    def _progress(
        self, what: str, look: str, *arguments: str, **options: Any
    ) -> contextlib.AbstractContextManager[Progress]:
        """Tell how far a step is by what a look at a file of the host says."""
        return self.progress(self._vars, what, look=shlex.join(["sh", "-c", look, "sh", *arguments]), **options)

    def _do(self, script: str, *arguments: str) -> Answer:
        """Run a script with the task's rights."""
        return self.run_script(script, list(arguments))

    def _number(self, script: str, path: str) -> int:
        """Return the number that a script says of a file."""
        answer = self._do(script, path)
        if answer.code != 0:
            raise AnsibleActionFail(answer.failure(f"{path} cannot be measured on {self._host}"))
        return int(answer.output)

    def _images(self, names: list[str]) -> dict[str, Image]:
        answer = self._do(INSPECT, *names)
        if answer.code != 0:
            raise AnsibleActionFail(answer.failure(f"Docker's images cannot be read on {self._host}"))
        return read_images(answer.output)

    def _differing(self, images: dict[str, Image]) -> list[str]:
        found = self._images(list(images))
        return [name for name, image in images.items() if name not in found or not found[name].same(image)]

    def _prepare(self, *names: str) -> list[str]:
        """Make empty files of the connection's user in the task's folder, whoever writes them; return their paths."""
        paths = [self._connection._shell.join_path(self._connection._shell.tmpdir, name) for name in names]
        self._low_level_execute_command(shlex.join(["touch", "--", *paths]), sudoable=False)
        return paths
