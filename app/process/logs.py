"""Logging: one JSON object a line on stdout, and a rotating copy when a directory is given."""

import json
import logging
import logging.handlers
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


class JsonFormatter(logging.Formatter):
    """Formats a record, with everything passed as `extra`, as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Render the record on one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = _encode(line)
        return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    """The character, or its escape where a terminal would obey it, turn the line around, or show nothing."""
    return character if character.isprintable() else json.dumps(character)[1:-1]


class PipeHandler(logging.Handler):
    """Writes to a pipe, and waits for nobody: what its reader does not take is left out, and counted.

    The output of a container is such a pipe. While the engine is down nobody reads it; once it is full, a program that
    waited to write there would serve nobody.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._rest = b""
        self._left_out = 0
        os.set_blocking(descriptor, False)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line, or count it."""
        try:
            line = self.format(record)
            if self._left_out and self._write(b""):
                gap = logging.makeLogRecord(
                    {"name": __name__, "levelname": "WARNING", "msg": f"{self._left_out} lines of log had no reader"}
                )
                self._left_out = 0 if self._write(f"{self.format(gap)}\n".encode()) else self._left_out
            self._left_out += not self._write(f"{line}\n".encode())
        except OSError:
            self.handleError(record)

    def _write(self, line: bytes) -> bool:
        """Write what is left of a line that was begun, then this one; return whether at least a part of it is out."""
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._descriptor, self._rest) :]
            self._rest = line[os.write(self._descriptor, line) :] if line else b""
        except BlockingIOError:
            return False
        return True


def to_stdout() -> logging.Handler:
    """Return what writes to stdout, be it a pipe, a file or a terminal."""
    descriptor = sys.stdout.fileno()
    return PipeHandler(descriptor) if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else logging.StreamHandler(sys.stdout)


def configure(level: str, directory: Path | None = None, name: str = "api.log") -> None:
    """Send every log record and warning of the process to stdout, and to a file of `directory` when given."""
    handlers: list[logging.Handler] = [to_stdout()]
    if directory:
        handlers.append(logging.handlers.RotatingFileHandler(directory / name, maxBytes=10_000_000, backupCount=5))
    for handler in handlers:
        handler.setFormatter(JsonFormatter())
    # What no line shows, and every record would ask for.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(capture=True)
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    for name in ("uvicorn", "uvicorn.error", "PIL", "timm"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
