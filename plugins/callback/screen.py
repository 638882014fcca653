"""Callback: a run for the person who waits for it: a line a phase and host, progress meanwhile, failures in full."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shlex
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.executor import task_result
from ansible.playbook.block import Block
from ansible.playbook.task import Task
from ansible.playbook.task_include import TaskInclude
from ansible.release import __version__ as ansible_version

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import COLLECTION
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import FOLDER, read_progress

if TYPE_CHECKING:

    class DefaultCallback:
        """What this callback uses of Ansible's default one, which ships no types."""

        _display: Any

        def __init__(self) -> None:
            """Make the callback."""

        def v2_playbook_on_stats(self, _stats: Any) -> None:
            """Print the recap."""

        def get_option(self, _name: str) -> Any:
            """Return an option of the callback."""

        def _clean_results(self, _result: dict[str, Any], _action: str) -> None: ...

        def _dump_results(self, _result: dict[str, Any]) -> str: ...

        def _get_diff(self, _diff: Any) -> str: ...

        def _handle_warnings(self, _result: dict[str, Any]) -> None: ...
else:
    from ansible.plugins.callback.default import CallbackModule as DefaultCallback

DOCUMENTATION = r"""
name: screen
type: stdout
short_description: A run for people
description:
  - A phase is a role, or what a task file of role inference_service stands for; its line has its time. Phases that
    change nothing and take no time share a line.
  - On a terminal the last lines say what is under way, and are rewritten in place. Elsewhere a line says it every five
    seconds, without colors or cursor movements.
  - With C(-v) the output is Ansible's own default one.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as C(stdout_callback)
author: The maintainers
"""

# Task files that are tables of contents: what they include are phases of their own.
CONTENTS = {"inference_service": ("main", "rollout")}
# A step that shows nothing for so long tells how far it is, so that five seconds are never silent.
SILENCE = 4.5
TICK = 0.5
# A phase that takes longer, changes something or has more to say gets a line of its own.
SHORT_SECONDS = 2.0
SHORT_NOTE = 60
# What a clock would round to nothing.
NO_TIME = 0.05
# Of what is under way on more hosts than that, the rest is counted.
MOST_LIVE = 10
WIDTH_ELSEWHERE = 110
# A line of a message that says what it is, as in "Device:  cpu"; such lines stand side by side.
LABELED = re.compile(r"[A-Z]\w*: +\S")
# Actions that show what they do as they do it.
SPEAKS_ITSELF = (f"{COLLECTION}.service_logs",)
NOTHING_SAID = ("", "All assertions passed")


def clock(seconds: float) -> str:
    """Write a duration."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def amount(step: dict[str, Any], now: float) -> str:
    """Write how far a step is, of how much, how fast, and what it says besides."""
    done, total, unit, elapsed = step["done"], step["total"], step["unit"], now - step["began"]
    words, of = [], " of at most " if step["at_most"] else " of "
    if unit == "B":
        scale, name = (1e9, "GB") if max(done, total) >= 1e9 else (1e6, "MB")
        figures = [
            f"{each / scale:.{1 if max(done, total) / scale < 10 else 0}f}" for each in (done, *([total] * bool(total)))
        ]
        words.append(f"{of.join(figures)} {name}")
        if done and elapsed > 1:
            words.append(f"{done / elapsed / 1e6:.1f} MB/s")
    elif unit == "s":
        # What the host said is some seconds old.
        seconds = max(done, elapsed)
        words.append(f"{seconds:.0f}{of}{total:.0f} s" if total else clock(seconds))
    elif total:
        words.append(f"{done:g}{of}{total:g} {unit}".rstrip())
    return ", ".join([*words, *([step["detail"]] if step["detail"] else [])])


def places_of(task: Any) -> list[tuple[str, str]]:
    """Return where the task stands, from the playbook inwards: role and task file, '' where there is none."""
    found: list[tuple[str, str]] = []
    node = task
    while node is not None:
        if isinstance(node, Task):
            path = Path(node.get_path().rpartition(":")[0])
            role = node._role.get_name().rpartition(".")[2] if node._role else ""
            found.insert(0, (role, path.stem if path.parent.name in ("tasks", "handlers") else ""))
        node = node._parent
    return found


def phase_of(places: list[tuple[str, str]], play: str) -> str:
    """Return the phase that a task belongs to, that of the outermost file that is one; '' for what comes before one."""
    for role, file in places:
        if role and file not in CONTENTS.get(role, ()):
            # What Ansible puts before a role's tasks, the look at its arguments, is in no file.
            return "" if role in CONTENTS and not file else (role if file in ("main", "") else file).replace("_", " ")
    role, file = places[-1] if places else ("", "")
    return (role or file).replace("_", " ") or play


def is_rescued(task: Any) -> bool:
    """Return whether the role goes on in a rescue when the task fails, which will say more of it."""
    child, node = task, task._parent
    while node is not None:
        if isinstance(node, Block) and node.rescue:
            outside = (*node.rescue, *node.always)
            if not any(child._uuid == each._uuid for each in outside):
                return bool(node._role)
        child, node = node, node._parent
    return False


def text_of(message: Any) -> str:
    """Return a message as lines, without what Ansible puts before every one of a failed task."""
    text = "\n".join(map(str, message)) if isinstance(message, (list, tuple)) else str(message)
    for word in ("Task", "Action", "Module"):
        text = text.removeprefix(f"{word} failed: ")
    return text


def failures(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what failed: the items of a loop, else the result itself."""
    items = [item for item in result.get("results") or [] if isinstance(item, dict)]
    failed = [item for item in items if item.get("failed") or item.get("unreachable") or item.get("failed_when_result")]
    return failed or [result]


def failure_text(result: dict[str, Any]) -> str:
    """Return everything that a person needs of one failure."""
    parts = [text_of(result.get("msg", "")).strip() or str(result.get("censored", ""))]
    if "cmd" in result:
        command = result["cmd"]
        parts.insert(0, shlex.join(map(str, command)) if isinstance(command, list) else str(command))
    for key in ("stdout", "stderr", "module_stdout", "module_stderr"):
        said = str(result.get(key) or "").strip()
        if said and said not in parts[0]:
            parts.append(said)
    return "\n".join(part for part in parts if part) or "no reason given"


def failure_texts(result: dict[str, Any]) -> str:
    """Return the same of all that failed, with the labels of a loop's items."""
    lines = []
    for each in failures(result):
        label = each.get("_ansible_item_label", each.get("item"))
        lines.append(f"{label}: {failure_text(each)}" if isinstance(label, str) else failure_text(each))
    return "\n".join(lines)


@dataclass
class Track:
    """What one host goes through: its phase, and what its task in this moment is."""

    host: str
    phase: str = ""
    began: float = 0.0
    last: float = 0.0
    changes: int = 0
    notes: list[str] = field(default_factory=list)
    # The sentence of the task that runs.
    task: str = ""
    # When the one before ended, and when something was last shown of the host.
    idle: float = 0.0
    said: float = 0.0
    # Short phases that wait for company on their line.
    waiting: list[str] = field(default_factory=list)
    # The sentence of a failed task and what it said, as long as a rescue may say it better.
    failed: str = ""
    held: str = ""
    reasons: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)


class Beside:
    """A stream whose writer first gets the foot of the terminal out of its way."""

    def __init__(self, stream: Any, before: Callable[[], None]) -> None:
        self._stream, self._before = stream, before

    def write(self, text: str) -> int:
        """Write below everything that stays."""
        self._before()
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Foot:
    """The last lines of a terminal, rewritten in place until somebody writes; the cursor rests where they begin."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._streams = sys.stdout, sys.stderr
        self._drawn = False

    def begin(self) -> None:
        """Make way for whatever this process prints; the processes of tasks have streams of their own."""
        sys.stdout, sys.stderr = (Beside(stream, self.erase) for stream in self._streams)

    def end(self) -> None:
        """Leave the terminal as others know it."""
        self.erase()
        sys.stdout, sys.stderr = self._streams

    def draw(self, lines: list[str]) -> None:
        """Show these lines, as far as the terminal has room."""
        columns, rows = shutil.get_terminal_size()
        shown = [line[: columns - 1] for line in lines[: max(0, rows - 1)]]
        up = f"\x1b[{len(shown) - 1}A" if len(shown) > 1 else ""
        # A process is never forked while somebody holds this lock, and nobody prints.
        with self._display._lock:
            self.erase()
            if shown:
                self._write("\n".join(shown) + up + "\r")
            self._drawn = bool(shown)

    def erase(self) -> None:
        """Remove the lines."""
        with self._display._lock:
            if self._drawn:
                self._drawn = False
                self._write("\r\x1b[J")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._streams[0].write(text)
            self._streams[0].flush()


def for_people(method: Callable[..., None]) -> Callable[..., None]:
    """Let Ansible's own callback do it when the run is verbose."""

    @functools.wraps(method)
    def choose(self: CallbackModule, *args: Any, **options: Any) -> None:
        if self._display.verbosity:
            getattr(DefaultCallback, method.__name__)(self, *args, **options)
        else:
            with self._lock:
                method(self, *args, **options)

    return choose


class CallbackModule(DefaultCallback):
    """Follows each host from phase to phase."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "screen"

    def __init__(self) -> None:
        # On an older Ansible this screen fails at every result, the refusal of that Ansible included.
        if not hasattr(task_result, "CallbackTaskResult"):
            raise AnsibleError(
                f"This is ansible-core {ansible_version}, which is too old for these playbooks. Nothing was started. "
                "Run .venv/bin/ansible-playbook of the checkout, which `make setup` installs."
            )
        super().__init__()
        # Events come from Ansible's threads, the clock ticks in another.
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._tracks: dict[str, Track] = {}
        self._sentences: dict[str, str] = {}
        self._phases: dict[str, str] = {}
        # Those of task files of playbooks, not of roles.
        self._of_playbooks: set[str] = set()
        self._play_name = ""
        # Where tasks say how far they are.
        self._progress: Path | None = None
        live = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self._foot = Foot(self._display) if live else None

    # The run as a whole

    @for_people
    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Make the folder where tasks say how far they are, and start the clock."""
        # In Ansible's own folder of this run: nobody else reads it, and it goes when the run ends.
        self._progress = Path(constants.DEFAULT_LOCAL_TMP) / "progress"
        self._progress.mkdir(mode=0o700, exist_ok=True)
        os.environ[FOLDER] = str(self._progress)
        atexit.register(self._end)
        if self._foot:
            self._foot.begin()
        threading.Thread(target=self._tick, daemon=True).start()

    @for_people
    def v2_playbook_on_play_start(self, play: Any) -> None:
        """End the phases of the play before."""
        self._end_phases()
        self._play = play
        # In the line of a phase, what is behind a comma is too much.
        self._play_name = play.get_name().strip().partition(",")[0]

    @for_people
    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Say it where hosts were meant; a group that is empty means none."""
        if self._play.hosts:
            self._say(f"{self._play_name}: no hosts matched", constants.COLOR_SKIP)

    @for_people
    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Say nothing: the hosts' failures and the recap do."""

    @for_people
    def v2_playbook_on_stats(self, stats: Any) -> None:
        """End everything, and give the recap that scripts read."""
        self._end()
        super().v2_playbook_on_stats(stats)
        sys.stdout.flush()

    # Tasks

    @for_people
    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Keep the task's sentence, which is complete only now."""
        self._sentences[task._uuid] = (task.name or task.action).rpartition(" | ")[2]

    @for_people
    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Keep the handler's sentence."""
        self._sentences[task._uuid] = (task.name or task.action).rpartition(" | ")[2]

    @for_people
    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Begin a phase where the task's is another than the host's."""
        if isinstance(task, TaskInclude):
            return
        track, phase, now = self._track(host.get_name()), self._phase(task), time.monotonic()
        if phase and track.phase != phase:
            self._end_phase(track)
            track.phase, track.began, track.last = phase, now, 0.0
        if not track.task and now - track.idle > TICK:
            track.said = now
        track.task = "" if task.action in SPEAKS_ITSELF else self._sentence(task)

    @for_people
    def v2_runner_on_ok(self, result: Any) -> None:
        """Count a change, and keep what the task has to say."""
        self._handle_warnings(result.result)
        if isinstance(result.task, TaskInclude):
            return
        track = self._ended(result)
        changed, found = bool(result.result.get("changed")), list(self._messages(result))
        track.changes += changed
        if changed and context.CLIARGS.get("check") and not found:
            found = [self._sentence(result.task)]
        for message in found:
            self._note(track, message)

    @for_people
    def v2_runner_on_skipped(self, result: Any) -> None:
        """Forget the task."""
        self._handle_warnings(result.result)
        self._idle(self._track(result.host.get_name()))

    @for_people
    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Show a failure at once, in full unless a rescue may say more."""
        self._handle_warnings(result.result)
        track = self._ended(result)
        self._fail(track, result, failure_texts(result.result), ignored=ignore_errors)

    @for_people
    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Show why the host cannot be reached."""
        self._handle_warnings(result.result)
        track = self._ended(result)
        ignored = bool(result.task.ignore_unreachable)
        self._fail(track, result, f"unreachable: {failure_texts(result.result)}", ignored=ignored)

    @for_people
    def v2_on_file_diff(self, result: Any) -> None:
        """Show what --diff shows."""
        results = result.result.get("results", [result.result]) if result.task.loop else [result.result]
        diffs = [self._get_diff(each["diff"]) for each in results if each.get("diff") and each.get("changed")]
        text = "".join(diffs)
        if text:
            track = self._track(result.host.get_name())
            self._flush(track)
            self._say(f"{self._name(track)}{self._sentence(result.task)}")
            self._say(text)

    @for_people
    def v2_runner_retry(self, result: Any) -> None:
        """Say how often a task was tried, where its progress is shown."""
        tried = result.result
        self._track(
            result.host.get_name()
        ).task = f"{self._sentence(result.task)} (tried {tried['attempts']} of {tried['retries']} times)"

    @for_people
    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Say nothing."""

    @for_people
    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Say nothing: the whole loop's result has it."""

    @for_people
    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Say nothing: the whole loop's result has it."""

    @for_people
    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Say nothing."""

    # What is shown

    def _track(self, host: str) -> Track:
        return self._tracks.setdefault(host, Track(host))

    def _name(self, track: Track) -> str:
        return track.host.ljust(max(map(len, self._tracks))) + "  "

    def _sentence(self, task: Any) -> str:
        return self._sentences.get(task._uuid) or (task.name or task.action).rpartition(" | ")[2]

    def _phase(self, task: Any) -> str:
        if task._uuid not in self._phases:
            places = places_of(task)
            self._phases[task._uuid] = phase = phase_of(places, self._play_name)
            if not any(role for role, _ in places):
                self._of_playbooks.add(phase)
        return self._phases[task._uuid]

    def _ended(self, result: Any) -> Track:
        """Return the host of a task that ended."""
        track = self._track(result.host.get_name())
        if not track.phase:
            track.phase, track.began = self._phase(result.task), time.monotonic()
        idle = self._idle(track)
        # What is only said takes no time, and is no phase.
        if result.task.action not in constants._ACTION_DEBUG:
            track.last = idle
        return track

    def _idle(self, track: Track) -> float:
        track.task, track.idle = "", time.monotonic()
        return track.idle

    def _messages(self, result: Any) -> Iterable[str]:
        """Return what the task wants people to read."""
        content, action = result.result, result.task.action
        for each in content.get("results", [content]) if result.task.loop else [content]:
            if not isinstance(each, dict) or each.get("skipped"):
                continue
            if action in constants._ACTION_DEBUG and "msg" not in each:
                self._clean_results(each, action)
                yield self._dump_results(each).strip()
            elif each.get("_ansible_verbose_always") and text_of(each.get("msg", "")) not in NOTHING_SAID:
                message = each["msg"]
                yield self._dump_results({"msg": message}).strip() if isinstance(message, dict) else text_of(message)
            elif isinstance(each.get("note"), str):
                yield each["note"]

    def _note(self, track: Track, message: str) -> None:
        """Keep a short message for the line of the phase; show a long one now."""
        message = message.strip("\n")
        if message in track.known:
            return
        track.known.add(message)
        if "\n" not in message:
            track.notes.append(message)
            return
        self._end_phase(track)
        self._flush(track)
        lines = message.split("\n")
        if all(LABELED.match(line) for line in lines):
            self._say(self._side_by_side(self._name(track), [" ".join(line.split()) for line in lines]))
            return
        self._say("")
        if not message.startswith(track.host):
            self._say(f"{track.host}:")
            message = textwrap.indent(message, "  ")
        self._say(message)

    def _room(self) -> int:
        return shutil.get_terminal_size().columns - 1 if self._foot else WIDTH_ELSEWHERE

    def _side_by_side(self, name: str, words: list[str]) -> str:
        """Return as few lines as these words need behind the host's name."""
        lines = [words[0]]
        for word in words[1:]:
            together = f"{lines[-1]}   {word}"
            fits = len(name) + len(together) <= self._room()
            lines[-1:] = [together] if fits else [lines[-1], word]
        return "\n".join(f"{' ' * len(name) if number else name}{line}" for number, line in enumerate(lines))

    def _fail(self, track: Track, result: Any, text: str, ignored: bool) -> None:
        sentence = self._sentence(result.task)
        said = " ".join(text.split())
        if not all(reason in said for reason in track.reasons):
            self._release(track)
        self._end_phase(track, "·" if ignored else "✗", sentence)
        track.failed, track.held = sentence, ""
        if ignored or not is_rescued(result.task):
            self._body(track, text)
        else:
            track.held = text
            track.reasons = [" ".join(failure_text(each).split()) for each in failures(result.result)]

    def _release(self, track: Track) -> None:
        """Show what a failed task said and nobody said better."""
        if track.held:
            self._say(f"{self._name(track)}{track.failed}:", constants.COLOR_ERROR)
            self._body(track, track.held)
        track.held = ""

    def _body(self, track: Track, text: str) -> None:
        """Show a failure's message below its line, as it is; on a terminal no word is cut."""
        indent = " " * len(self._name(track))
        lines = text.split("\n")
        if self._foot:
            wrapper = textwrap.TextWrapper(
                width=max(40, shutil.get_terminal_size().columns - len(indent)),
                break_long_words=False,
                break_on_hyphens=False,
            )
            lines = [part for line in lines for part in wrapper.wrap(line) or [""]]
        stderr = self.get_option("display_failed_stderr")
        self._say("\n".join(f"{indent}{line}".rstrip() for line in lines), constants.COLOR_ERROR, stderr)

    def _end_phase(self, track: Track, mark: str = "✓", sentence: str = "") -> None:
        """Give the phase its line, or a place on the line of short ones; one that did nothing has none."""
        phase, notes, changes = track.phase, track.notes, track.changes
        seconds = max(0.0, track.last - track.began)
        track.phase, track.notes, track.changes = "", [], 0
        if not track.last and notes:
            self._flush(track)
            self._say(f"{self._name(track)}{'; '.join(notes)}")
        if not phase or not track.last:
            return
        entry = f"{mark} {phase} {clock(seconds)}"
        if sentence:
            self._flush(track)
            if notes:
                self._say(f"{self._name(track)}{phase}: {'; '.join(notes)}")
            color = constants.COLOR_ERROR if mark == "✗" else constants.COLOR_SKIP
            self._say(f"{self._name(track)}{entry}: {sentence}", color)
        elif changes or seconds >= SHORT_SECONDS or len(" ".join(notes)) > SHORT_NOTE:
            self._flush(track)
            color = constants.COLOR_CHANGED if changes else constants.COLOR_OK
            changed = f"{changes} {'would change' if context.CLIARGS.get('check') else 'changed'}"
            words = [*([changed] if changes else []), *notes]
            self._say(f"{self._name(track)}{entry}{': ' * bool(words)}{'; '.join(words)}", color)
        elif notes or not (phase == self._play_name or (phase in self._of_playbooks and seconds < NO_TIME)):
            # What a playbook itself does on the way, without a word or a change, is no news.
            entry += f" ({' '.join(notes)})" if notes else ""
            if track.waiting and len(self._name(track) + "   ".join([*track.waiting, entry])) > self._room():
                self._flush(track)
            track.waiting.append(entry)

    def _end_phases(self) -> None:
        for track in self._tracks.values():
            self._end_phase(track)
            track.task = ""
            self._release(track)

    def _flush(self, track: Track) -> None:
        """Show the short phases that wait."""
        if track.waiting:
            line, track.waiting = "   ".join(track.waiting), []
            self._say(f"{self._name(track)}{line}", constants.COLOR_OK)
        track.said = time.monotonic()

    def _say(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        self._display.display(text, color=color, stderr=stderr)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        if self._foot and not self._over.is_set():
            self._foot.draw(self._under_way(time.monotonic()))

    # The clock

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            with self._lock, contextlib.suppress(Exception):
                now = time.monotonic()
                if self._foot:
                    self._foot.draw(self._under_way(now))
                else:
                    self._break_silence(now)

    def _steps(self) -> dict[str, dict[str, Any]]:
        """Return the progress of each host that tells it."""
        return {step["host"]: step for step in read_progress(self._progress)} if self._progress else {}

    def _doing(self, track: Track, steps: dict[str, dict[str, Any]], now: float) -> str:
        step = steps.get(track.host)
        words = f"{step['what']} {amount(step, now)}" if step else track.task
        return f"{track.phase} {clock(now - track.began)}: {words}"

    def _under_way(self, now: float) -> list[str]:
        """Return a line for each host that does something: its short phases, and how far it is with this one."""
        steps, busy = self._steps(), [track for track in self._tracks.values() if track.task]
        lines, columns = [], shutil.get_terminal_size().columns
        for track in busy[:MOST_LIVE]:
            doing = f"{'⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏'[int(now / TICK) % 10]} {self._doing(track, steps, now)}"
            line = self._name(track) + "   ".join([*track.waiting, doing])
            lines.append(line if len(line) < columns else self._name(track) + doing)
        return [*lines, *([f"and {len(busy) - MOST_LIVE} more hosts"] if len(busy) > MOST_LIVE else [])]

    def _break_silence(self, now: float) -> None:
        """Say how far a host is that was silent for long."""
        silent = [track for track in self._tracks.values() if track.task and now - track.said >= SILENCE]
        if not silent:
            return
        steps = self._steps()
        for track in silent:
            self._flush(track)
        for track in silent[:MOST_LIVE]:
            self._say(f"{self._name(track)}… {self._doing(track, steps, now)}")
        if len(silent) > MOST_LIVE:
            self._say(f"… and {len(silent) - MOST_LIVE} more hosts")

    def _end(self) -> None:
        """Stop the clock, and show what was kept back."""
        with self._lock:
            if self._over.is_set():
                return
            self._over.set()
            for track in self._tracks.values():
                track.task = ""
            self._end_phases()
            for track in self._tracks.values():
                self._flush(track)
            if self._foot:
                self._foot.end()
