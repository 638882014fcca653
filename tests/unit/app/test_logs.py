import json
import logging

from app.logs import JsonFormatter
from tests.unit.app.support import fresh


def test_every_line_is_json_also_a_librarys_warning() -> None:
    code = (
        "import logging, warnings\n"
        "from app import logs\n"
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
