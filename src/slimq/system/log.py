"""The log: one JSON object a line, one line an event.

    {"at":"2026-11-24T09:30:00.000Z","level":"info","event":"job-done","id":"...","status":200}

Nothing that a caller sends can forge a line or hide one: the line is ASCII, so that every
control character and every line separator of Unicode is escaped (CWE-117). Values are
capped, and what could carry a payload (bytes, objects) is named, never shown (CWE-532).
"""

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from os import PathLike, fspath
from typing import Any, TextIO
from urllib.parse import urlsplit

from slimq.core.limits import LOG_FIELD_MAX, LOG_ITEMS_MAX
from slimq.system.clock import Clock

LEVELS = ("info", "warning", "error")
MALFORMED_URL = "<malformed URL>"
CUT = "..."  # ends a value that was longer
_INTEGER_MAX = 1 << 63  # common readers of JSON hold no more
_DEPTH_MAX = 3
_OWN = frozenset({"at", "level", "event"})


class EventLog:
    """Writes events of `level` and above to `stream`: one ``write`` a line. Thread-safe.
    Every event has the fields `always`.

    A stream that is closed, broken or full loses lines and breaks nothing: the node must
    not stop because nobody reads its log.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Clock,
        level: str = "info",
        always: Mapping[str, Any] | None = None,
    ) -> None:
        self._always = always or {}
        self._stream = stream
        self._clock = clock
        self._threshold = LEVELS.index(level)
        self._lock = threading.Lock()

    def with_fields(self, **always: Any) -> EventLog:
        """Return a log to the same stream whose every event has these fields. For another
        process: it shares no lock with this one."""
        level = LEVELS[self._threshold]
        return EventLog(self._stream, self._clock, level, {**self._always, **always})

    def info(self, event: str, /, **fields: Any) -> None:
        self._log("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._log("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._log("error", event, fields)

    def _log(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if LEVELS.index(level) < self._threshold:
            return
        line = _line(self._clock.wall_ms(), level, event, {**self._always, **fields})
        try:
            with self._lock:
                self._stream.write(line)
                self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            pass


def _line(at: int, level: str, event: str, fields: Mapping[str, Any]) -> str:
    entry = {"at": _time_text(at), "level": level, "event": _text(event)}
    for name, value in fields.items():
        entry[f"{name}_" if name in _OWN else _text(name)] = _value(value)
    return json.dumps(entry, ensure_ascii=True, separators=(",", ":")) + "\n"


def _time_text(ms: int) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _text(text: str) -> str:
    return text if len(text) <= LOG_FIELD_MAX else text[: LOG_FIELD_MAX - len(CUT)] + CUT


def _value(value: Any, depth: int = 0) -> Any:
    """Return what may be shown of a value, as JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, BaseException):
        return _text(f"{type(value).__name__}: {value}")
    if isinstance(value, PathLike):
        return _value(fspath(value))
    return _container(value, depth)


def _number(number: float) -> Any:
    if isinstance(number, int):
        return int(number) if abs(number) < _INTEGER_MAX else "<a huge number>"
    finite = number - number == 0
    return float(number) if finite else str(float(number))


def _container(value: Any, depth: int) -> Any:
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        items = list(value.items())[:LOG_ITEMS_MAX]
        return {_text(str(_value(name))): _value(item, depth + 1) for name, item in items}
    if depth < _DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [_value(item, depth + 1) for item in list(value)[:LOG_ITEMS_MAX]]
    return f"<{type(value).__name__}>"


def redact_url(url: str) -> str:
    """Return an http URL as a log may show it: without userinfo, query and fragment."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return MALFORMED_URL
    if parts.scheme not in ("http", "https") or not host:
        return MALFORMED_URL
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{parts.path}"


def frames(error: BaseException) -> list[str]:
    """Return where an error came from, the innermost call first: places in the code only,
    no source and no values."""
    calls = traceback.extract_tb(error.__traceback__)
    return [f"{call.filename}:{call.lineno} {call.name}" for call in reversed(calls)]


class LogBridge(logging.Handler):
    """Makes events of what libraries tell the `logging` module (uvicorn, asyncio)."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name, "message": _message(record)}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields |= {"error": error, "frames": frames(error)}
        if record.levelno >= logging.ERROR:
            self._log.error("library", **fields)
        elif record.levelno >= logging.WARNING:
            self._log.warning("library", **fields)
        else:
            self._log.info("library", **fields)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # the arguments do not fit the text
        return str(record.msg)


def bridge_logging(log: EventLog) -> LogBridge:
    """Send all that the `logging` module gets from now on to `log`, and nowhere else."""
    bridge = LogBridge(log)
    root = logging.getLogger()
    root.handlers[:] = [bridge]
    root.setLevel(logging.INFO)
    return bridge
