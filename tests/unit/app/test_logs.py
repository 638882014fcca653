import json

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
