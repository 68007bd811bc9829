from __future__ import annotations

import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimq.core.limits import LOG_FIELD_MAX, LOG_ITEMS_MAX
from slimq.system.log import MALFORMED_URL, EventLog, LogBridge, bridge_logging, redact_url

NOW = 1_795_512_600_123  # 2026-11-24T09:30:00.123Z
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # all that str.splitlines() cuts at
HOSTILE = st.text(st.one_of(st.sampled_from([*BREAKS, "\x1b", '"', "\\", "\0"]), st.characters()))


class FixedClock:
    def wall_ms(self) -> int:
        return NOW

    def boot_ms(self) -> int:
        return 0


class Lines(io.StringIO):
    """Remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def log_of(level: str = "info") -> tuple[EventLog, Lines]:
    stream = Lines()
    return EventLog(stream, FixedClock(), level), stream


def test_an_event_is_one_line_of_json_with_time_level_and_name_first() -> None:
    log, stream = log_of()
    log.info("job-done", id="x", status=200, ratio=0.5, final=True, parent=None)
    assert stream.getvalue() == (
        '{"at":"2026-11-24T09:30:00.123Z","level":"info","event":"job-done",'
        '"id":"x","status":200,"ratio":0.5,"final":true,"parent":null}\n'
    )


@given(HOSTILE, HOSTILE, HOSTILE)
def test_no_text_can_forge_a_line_or_change_its_level(event: str, name: str, value: str) -> None:
    log, stream = log_of()
    log.warning(event, **{name: value}, nested={name: [value]})
    assert len(stream.writes) == 1
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().rstrip("\n").isprintable()
    assert stream.getvalue().isascii()
    (entry,) = entries(stream)
    assert entry["level"] == "warning"
    assert entry["at"] == "2026-11-24T09:30:00.123Z"


@pytest.mark.parametrize("name", ["at", "level", "event"])
def test_a_field_cannot_take_the_place_of_a_member_of_every_event(name: str) -> None:
    log, stream = log_of()
    log.info("real", **{name: "forged"})
    (entry,) = entries(stream)
    assert entry[name] != "forged"
    assert entry[f"{name}_"] == "forged"


def test_values_and_lists_are_capped() -> None:
    log, stream = log_of()
    log.info("long", text="x" * 10_000, items=["y" * 10_000] * 1000, deep=[[[[["z"]]]]])
    (entry,) = entries(stream)
    assert entry["text"] == "x" * (LOG_FIELD_MAX - 3) + "..."
    assert isinstance(entry["items"], list)
    assert len(entry["items"]) == LOG_ITEMS_MAX
    assert entry["deep"] == [[["<list>"]]]
    assert len(stream.getvalue()) < 10_000


class Payload(msgspec.Struct):
    data: bytes


def test_what_may_hold_a_payload_is_named_but_not_shown() -> None:
    log, stream = log_of()
    canary = b"canary-7f3a"
    log.info("x", a=canary, b=bytearray(canary), c=[canary], d={"e": canary}, f=Payload(canary))
    assert "canary" not in stream.getvalue()
    (entry,) = entries(stream)
    assert entry["a"] == "<11 bytes>"
    assert entry["f"] == "<Payload>"


@pytest.mark.parametrize(
    "number", [pytest.param(10**5000, id="huge"), -(10**30), float("nan"), float("inf")]
)
def test_a_number_that_json_cannot_hold_does_not_break_the_line(number: float) -> None:
    log, stream = log_of()
    log.info("x", number=number)
    (entry,) = entries(stream)
    assert isinstance(entry["number"], str)


def test_errors_and_paths_are_shown_as_text() -> None:
    log, stream = log_of()
    log.error("x", error=OSError(28, "No space left"), path=Path("/a/b"))
    (entry,) = entries(stream)
    assert entry["error"] == "OSError: [Errno 28] No space left"
    assert entry["path"] == "/a/b"


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_events_of_the_level_and_above_are_written(level: str, written: list[str]) -> None:
    log, stream = log_of(level)
    log.info("x")
    log.warning("x")
    log.error("x")
    assert [entry["level"] for entry in entries(stream)] == written


def test_a_closed_stream_breaks_nothing() -> None:
    log, stream = log_of()
    stream.close()
    log.error("nobody reads this")


class FullStream(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_stream_that_fails_breaks_nothing() -> None:
    EventLog(FullStream(), FixedClock()).error("nobody reads this")


class OneAtATime(Lines):
    """Fails when a write begins before another one has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._busy = False

    def write(self, text: str) -> int:
        assert not self._busy
        self._busy = True
        os.sched_yield()  # another thread may come in here, if nothing keeps it out
        written = super().write(text)
        self._busy = False
        return written


def test_lines_of_many_threads_do_not_mix() -> None:
    stream = OneAtATime()
    log = EventLog(stream, FixedClock())

    def write() -> None:
        for number in range(200):
            log.info("x", number=number)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(stream)) == 1600
    assert len(stream.writes) == 1600


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@example.com/hook?token=s#f", "https://example.com/hook"),
        ("http://127.0.0.1:8080/a", "http://127.0.0.1:8080/a"),
        ("http://[::1]:8080/a?b", "http://[::1]:8080/a"),
        ("http://h:99999/?secret", MALFORMED_URL),
        ("user:pass@example.com/hook", MALFORMED_URL),
        ("http://[::1/?secret", MALFORMED_URL),
        ("", MALFORMED_URL),
    ],
)
def test_a_url_is_shown_without_userinfo_query_and_fragment(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@given(st.text(), st.text())
def test_userinfo_and_query_of_no_url_are_ever_shown(path: str, more: str) -> None:
    assert "canary" not in redact_url(f"http://canary:canary@host/{path}?{more}canary#canary")
    assert "canary" not in redact_url(f"canary:canary@host/{path}?canary")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


def test_what_libraries_log_comes_out_as_events(root: logging.Logger) -> None:
    log, stream = log_of()
    bridge_logging(log)
    logging.getLogger("uvicorn.error").info("hello %s\nforged", "you")
    logging.getLogger("uvicorn.error").warning("careful")
    logging.getLogger("asyncio").debug("noise")
    first, second = entries(stream)
    assert (first["level"], first["event"], first["logger"]) == ("info", "library", "uvicorn.error")
    assert first["message"] == "hello you\nforged"
    assert second["level"] == "warning"


def test_an_exception_of_a_library_is_told_with_its_places_but_no_source() -> None:
    log, stream = log_of()
    logger = logging.Logger("lib")
    logger.addHandler(LogBridge(log))
    try:
        int("bad\nthing")
    except ValueError:
        logger.exception("it failed")
    (entry,) = entries(stream)
    assert entry["level"] == "error"
    assert entry["error"] == "ValueError: invalid literal for int() with base 10: 'bad\\nthing'"
    assert "test_log.py" in str(entry["frames"])
    assert "int(" not in stream.getvalue().replace("int()", "")
    assert "logger.exception" not in stream.getvalue()


def test_a_library_record_whose_arguments_do_not_fit_is_still_one_event() -> None:
    log, stream = log_of()
    logger = logging.Logger("lib")
    logger.addHandler(LogBridge(log))
    logger.error("%d and %d", "one")
    (entry,) = entries(stream)
    assert entry["message"] == "%d and %d"


def test_a_log_with_fields_has_them_in_every_event_and_leaves_the_other_as_it_is() -> None:
    stream = io.StringIO()
    log = EventLog(stream, FixedClock(), "warning")
    log.with_fields(worker=2).warning("died", code=1)
    log.with_fields(worker=2).info("not shown")
    log.warning("died")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["worker"], first["code"]) == (2, 1)
    assert "worker" not in second
