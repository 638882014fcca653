"""Base of the actions that run a few lines of shell on the host, and read what they said whatever the connection adds.

A terminal of ssh ends lines with CR LF and mixes both outputs, sudo leaves an empty line, login shells greet, and ssh
says good-bye. So output, complaints and exit code of the lines come between markers that no other program knows.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ActionModule as Watched

# Exit code of a script whose end nobody saw.
CUT = -1

# Arguments: the two halves of the marker, which a message that quotes this command has not in one piece; the script,
# and its own arguments. Its output goes straight through; what it complains about is kept until it has ended.
AROUND = """
m=$1$2 s=$3
shift 3
exec 3>&1
echo "$m<"
e=$(sh -c "$s" sh "$@" 2>&1 >&3 3>&-)
c=$?
printf '\\n%s %s\\n%s\\n%s>\\n' "$m" "$c" "$e" "$m"
"""

# What a program of the host says, and what to do about it; the first that is found counts.
STEPS = {
    r"password is required|Missing \w+ password|no password was provided": (
        "Give the password with -K, or let this user become root without one."
    ),
    r"not in the sudoers file|not allowed to (?:execute|run)|may not run sudo|not allowed to preserve": (
        "Connect as a user who may become root (ansible_user), or let the host's administrator allow this one."
    ),
    r"Incorrect \w+ password|incorrect password|Sorry, try again|Authentication (?:token|failure)": (
        "Give the right password with -K (or ansible_become_password)."
    ),
    r"must have a tty": (
        "Take requiretty out of the host's sudoers (`visudo`), or give sudo a terminal with ANSIBLE_PIPELINING=false."
    ),
    r"(?:flock|sync|base64): (?:command )?not found": "Install util-linux and coreutils there.",
    r": (?:command )?not found": "Install that there, or set ansible_become_method to what the host has.",
    r"No space left on device|Disk quota exceeded": "Free space there (`df -h`, `df -i`).",
    r"Read-only file system": "Make the file system writable; `dmesg` says why it is not.",
    r"Permission denied|Operation not permitted": "Fix the permissions there.",
    r"Input/output error": "Look at the disk (`dmesg`).",
    r"the connection ended": "Look whether the host is up, then run again.",
}

# Of what else is on the connection's outputs, this is never a reason.
NOISE = re.compile(
    r"(?:Shared c|C)onnection to \S+ closed\.|BECOME-SUCCESS-\w+|\[?sudo\b[^\n]*?\] ?password[^\n:]*:|^Password: ?"
    r"|Premature end of stream[^\n]*|>>> Standard (?:Output|Error)"
    r"|We trust you have received the usual lecture[\s\S]*?(?:visible|responsibility)\.",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Answer:
    """What a script said; a code of None says that it did not run at all."""

    code: int | None
    output: str
    complaint: str

    def failure(self, effect: str) -> str:
        """Return effect and reason, in the host's own words, and what to do."""
        words = self.complaint.strip() or self.output.strip() or f"exit code {self.code}, without a word"
        reason = re.sub(r"\s*\n\s*", "; ", words).rstrip(".")
        return f"{'The host ran nothing' if self.code is None else effect}: {reason}. {next_step(reason)}"


def command_line(script: str, arguments: list[str], halves: tuple[str, str]) -> str:
    """Return the command that runs the script on the host between markers; any login shell understands it."""
    words = shlex.join([*halves, script, *arguments])
    return f"sh -c {one_line(f'set -- {words}{AROUND}')}"


def one_line(program: str) -> str:
    """Return a program of sh as one quoted word without ends of line, which csh and fish read as sh does."""
    return f"""'eval "$(echo {base64.b64encode(program.encode()).decode()} | base64 -d)"'"""


def read_answer(marker: str, output: str, errors: str = "") -> Answer:
    """Find the answer of the script in what came over the connection."""
    # A terminal makes one sequence of every end of line, and this is the one.
    end, same = r"(?P<end>\r*\n)", "(?P=end)"
    pattern = f"{marker}<{end}(.*?){same}{marker} (\\d+){same}(.*?){same}{marker}>"
    if found := re.search(pattern, output, re.DOTALL):
        newline, said, code, complaint = found.groups()
        return Answer(int(code), said.replace(newline, "\n"), complaint.replace(newline, "\n"))
    if f"{marker}<" in output:
        return Answer(CUT, "", "the connection ended before the command did")
    lines = [line.strip() for line in NOISE.sub("", f"{errors}\n{output}".replace("\r", "")).splitlines()]
    return Answer(None, "", "\n".join(line for line in lines if line) or "it said nothing")


def next_step(reason: str) -> str:
    """Return what to do about the reason."""
    known = (step for pattern, step in STEPS.items() if re.search(pattern, reason, re.IGNORECASE))
    return next(known, "Fix that on the host, then run again.")


class ActionModule(Watched):
    """Runs scripts of the shell on the host; a base of other actions, and nothing by itself."""

    one_line = staticmethod(one_line)

    @staticmethod
    def said_instead(result: Mapping[str, Any]) -> Answer:
        """Return what came over the connection in place of a module's result."""
        return read_answer(secrets.token_hex(8), str(result["module_stdout"]), str(result["module_stderr"]))

    def run_script(self, script: str, arguments: list[str], executable: str | None = None) -> Answer:
        """Run the script with arguments, by another shell when one is named."""
        halves = secrets.token_hex(8), secrets.token_hex(8)
        command = command_line(script, arguments, halves)
        if executable:
            # As Ansible ends the commands of its own shell: ssh may drop what a process says last.
            command += " && sleep 0"
        try:
            answer = self._low_level_execute_command(command, executable=executable)
        except AnsibleConnectionFailure:
            # The host is unreachable, which Ansible tells from a failure.
            raise
        except AnsibleError as error:
            # The connection has judged what sudo or su said.
            return read_answer("".join(halves), "", str(error))
        return read_answer("".join(halves), answer["stdout"], answer["stderr"])
