"""Run a module in this process, handed what Ansible would hand it, and let it meet what a test has put here."""

from __future__ import annotations

import contextlib
import io
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import MAP_PATH, map_of, socket_of


def run_module(module: ModuleType, **arguments: Any) -> dict[str, Any]:
    """Return what a module answers, in check mode with `check`; an answer with `failed` is that of one that failed."""
    check = arguments.pop("check", False)
    printed = io.StringIO()
    with (
        patch_module_args({**arguments, "_ansible_check_mode": check}),
        contextlib.redirect_stdout(printed),
        pytest.raises(SystemExit) as ended,
    ):
        module.main()
    answer: dict[str, Any] = json.loads(printed.getvalue())
    assert bool(answer.get("failed")) == bool(ended.value.code), answer
    return answer


class Gateway:
    """The folder of a gateway, and an HAProxy that answers on its admin socket: a map, servers and counters."""

    def __init__(self, state_dir: Path, live: str) -> None:
        self.state_dir = state_dir
        self.map = {"live": live}
        # Of each server of a color whether it is up, and of each color its answers, errors and requests under way.
        self.servers = {"blue": {"0": True}, "green": {"0": True}}
        self.answers, self.errors, self.busy = {"blue": 0, "green": 0}, {"blue": 0, "green": 0}, 0
        # How often it was told to read its configuration again: each time another process answers.
        self.reloads: Callable[[], int] = lambda: 0
        for folder in (map_of(state_dir).parent, socket_of(state_dir).parent):
            folder.mkdir(parents=True)
        map_of(state_dir).write_text(f"live {live}\n")

    @property
    def map_file(self) -> str:
        """What the map's file says."""
        return map_of(self.state_dir).read_text()

    def answer(self, line: str) -> str:
        """Answer one command as HAProxy 3.0 does."""
        verb, what, *words = line.split()
        if (verb, what) == ("show", "stat"):
            return self._statistics()
        if (verb, what) == ("show", "info"):
            return f"Name: HAProxy\nPid: {self.reloads() + 8}\n\n"
        if (verb, what) == ("show", "servers"):
            return "1\n\n"
        if (verb, what) == ("show", "table"):
            return f"# table: {words[0]}\n0x1: key=all gpc0={self.errors[words[0].removeprefix('bk_')]}\n"
        if what != "map" or words[0] != MAP_PATH:
            return "Unknown command.\n"
        if verb == "show":
            return "".join(f"0x55d {key} {value}\n" for key, value in self.map.items()) + "\n"
        if verb == "del":
            del self.map[words[1]]
        else:
            self.map[words[1]] = words[2]
        return "\n"

    def _statistics(self) -> str:
        lines = ["# pxname,svname,qcur,scur,status,hrsp_2xx,rtime,check_status,addr,", "service,FRONTEND,0,0,OPEN,,,,,"]
        for color, servers in self.servers.items():
            for name, up in servers.items():
                state = "UP,0,0,L7OK" if up else "DOWN,0,0,* L4CON"
                lines.append(f"bk_{color},{name},0,0,{state},172.18.0.2:8000,")
            serves = "UP" if any(servers.values()) else "DOWN"
            lines.append(f"bk_{color},BACKEND,0,{self.busy},{serves},{self.answers[color]},20,,,")
        return "\n".join(lines) + "\n\n"

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Answer as long as this lasts."""
        gateway = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                first = self.rfile.readline().decode()
                if first != "prompt\n":
                    self.wfile.write(gateway.answer(first).encode())
                    return
                self.wfile.write(b"\n> ")
                for line in self.rfile:
                    self.wfile.write(f"{gateway.answer(line.decode())}\n> ".encode())

        with socketserver.ThreadingUnixStreamServer(str(socket_of(self.state_dir)), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


class Docker:
    """A docker command that says what a test has written down for the beginning of its arguments, and no more."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._answers = folder / "answers"
        self._answers.mkdir(parents=True)
        script = folder / "bin" / "docker"
        script.parent.mkdir()
        script.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >>"{folder}/asked"\n'
            f'for words in "$1-$2" "$1"; do\n'
            f'    [ ! -f "{self._answers}/$words" ] || exec cat "{self._answers}/$words"\n'
            "done\n"
            'echo "Cannot connect to the Docker daemon" >&2\n'
            "exit 1\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
        self._asked = folder / "asked"

    def says(self, words: str, answer: str | list[Any]) -> None:
        """Have it answer a command that begins with these words."""
        text = answer if isinstance(answer, str) else json.dumps(answer)
        (self._answers / words.replace(" ", "-")).write_text(text)

    @property
    def asked(self) -> list[str]:
        """The arguments of each call."""
        return self._asked.read_text().splitlines() if self._asked.exists() else []
