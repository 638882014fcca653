"""Logging: one JSON object a line on stdout, and a rotating copy when a directory is given."""

import json
import logging
import logging.handlers
import sys
from datetime import UTC, datetime
from pathlib import Path

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


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
        text = json.dumps(line, ensure_ascii=False, default=str)
        return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    """The character, or its escape where a terminal would obey it, turn the line around, or show nothing."""
    return character if character.isprintable() else json.dumps(character)[1:-1]


def configure(level: str, directory: Path | None = None) -> None:
    """Send every log record and warning of the process to stdout, and to `directory`/api.log when given."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if directory:
        handlers.append(logging.handlers.RotatingFileHandler(directory / "api.log", maxBytes=10_000_000, backupCount=5))
    for handler in handlers:
        handler.setFormatter(JsonFormatter())
    logging.captureWarnings(capture=True)
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    for name in ("uvicorn", "uvicorn.error", "PIL", "timm"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
