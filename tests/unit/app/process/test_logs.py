import json
import logging
import os
import subprocess
import sys
from subprocess import PIPE

from app.process.logs import JsonFormatter
from tests.unit.app.support import fresh


def test_every_line_is_json_also_a_librarys_warning() -> None:
    code = (
        "import logging, warnings\n"
        "from app.process import logs\n"
        "logs.configure('info')\n"
        "warnings.warn('an argument is\\nout of date')\n"
        "logging.getLogger('app').info('done', extra={'code': 'fine'})\n"
    )
    done = fresh(code)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["level"], first["logger"]) == ("warning", "py.warnings")
    assert "an argument is\nout of date" in first["message"]
    assert (second["level"], second["message"], second["code"]) == ("info", "done", "fine")
    assert not done.stderr


def test_what_a_terminal_would_obey_or_turn_around_is_escaped_and_the_rest_readable() -> None:
    path = "/\u202egpj.exe \u2066\u200b\x9b31m\x7f\x1b[2J\u2028\ud800\U000e0041 Käse 猫"
    line = JsonFormatter().format(logging.makeLogRecord({"msg": "request", "path": path}))
    assert line.isprintable()
    assert "Käse 猫" in line
    assert json.loads(line)["path"] == path


def test_a_reader_that_is_gone_stops_nobody_and_every_line_stays_whole() -> None:
    """The engine of a container may be down for hours; its pipe takes 64 KiB."""
    code = (
        "import logging, sys\n"
        "from app.process import logs\n"
        "logs.configure('info')\n"
        "for number in range(2000):\n"
        "    logging.getLogger('app').info('x' * 6000, extra={'number': number})\n"
        "print('done', file=sys.stderr, flush=True)\n"
        "sys.stdin.read()\n"
        "logging.getLogger('app').info('read again')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        # Nobody has read a byte of stdout until now.
        assert process.stderr.readline() == b"done\n"
        head = os.read(process.stdout.fileno(), 2**20)
        process.stdin.close()
        lines = [json.loads(line) for line in (head + process.stdout.read()).splitlines()]
    written = [line for line in lines if "number" in line]
    assert [line["number"] for line in written] == list(range(len(written)))
    assert lines[-2]["message"] == f"{2000 - len(written)} lines of log had no reader"
    assert lines[-1]["message"] == "read again"
