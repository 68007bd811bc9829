"""A loaded function, and how its batches are run."""

from __future__ import annotations

import sys

from . import sqs
from .answer import (
    AFTER,
    ANSWER_MAX,
    ERROR,
    EXTRA,
    HOOK_FAILED,
    IN_HOOK,
    IN_JOBS,
    RESULT,
    Answer,
    record,
)
from .context import About, Batch, BeforeContext, Context
from .loading import HANDLE_BATCH, find, load
from .values import (
    TRACEBACK_MAX,
    Failed,
    NoResult,
    Retry,
    kind,
    read_json,
    summary,
    to_bytes,
    to_text,
    trace_of,
)

TYPE_CHECKING = False  # see values.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Hook = Callable[[Any], object]

_OK, _RETRY, _FAILED, _ERROR, _NO_RESULT = 200, 102, 400, 500, 502
_RESULT_MAX = 64 * 1024  # text of one job; more is cut off
_PLAIN_OK = record(RESULT, _OK)
_OWN = __file__.rpartition("/")[0]


class Function:
    """Loads a function of a `folder`; raises CannotStart. `event` is what it is called with."""

    def __init__(self, answer: Answer, about: About, folder: str, words: Sequence[str]) -> None:
        module, name, event = words
        self._answer, self._about, self._folder = answer, about, folder
        loaded = load(folder, module)
        self._is_sqs = event == "sqs"
        self._handler = find(loaded, folder, name, self._is_sqs)
        self._read = read_json if event == "json" else None
        names = {name, getattr(self._handler, "__name__", "")}
        self._takes_all = self._is_sqs or HANDLE_BATCH in names
        self._before: Hook | None = getattr(loaded, "before", None)
        self._before_batch: Hook | None = getattr(loaded, "before_batch", None)
        self._after_batch: Hook | None = getattr(loaded, "after_batch", None)

    def before(self) -> None:
        if self._before is not None:
            self._before(BeforeContext(self._about))

    def run(self, payload: bytes) -> None:
        """Run a batch; what becomes of it is in the answer."""
        batch, answer, stands = Batch(payload), self._answer, self._after_batch is None
        answer.begin()
        answer.enter(IN_HOOK, stands)
        if self._succeeds("before_batch", self._before_batch, batch):
            answer.enter(IN_JOBS, stands)
            if self._takes_all:
                self._run_all(batch)
            else:
                self._run_each(batch)
            answer.enter(IN_HOOK, stands)
            self._succeeds("after_batch", self._after_batch, batch)

    def _succeeds(self, name: str, hook: Hook | None, batch: Batch) -> bool:
        try:
            if hook is not None:
                hook(Context(self._about, batch))
            return True
        except BaseException as error:
            print(trace_of(error, self._folder, _OWN), file=sys.stderr)
            why = to_text(f"{name} failed: {summary(error)}")
            self._answer.put(record(HOOK_FAILED, 0, why))
            return False

    def _run_each(self, batch: Batch) -> None:
        handler, read, put, about = self._handler, self._read, self._answer.put, self._about
        children = batch.children
        for place in range(batch.count):
            try:
                event: Any = batch.data[place]
                if read is not None:
                    event = read(event)
                value = handler(event, Context(about, batch, place))
                said = _PLAIN_OK if value is None else self._said(value)
            except BaseException as error:
                said = self._raised(error)
            put(b"".join(children.pop(place)) + said if children else said)

    def _run_all(self, batch: Batch) -> None:
        """Call what takes whole batches: what it returns is said of all jobs at once."""
        try:
            said = self._of_list(self._call_all(batch), batch.count)
        except BaseException as error:
            said = [self._raised(error)] * batch.count
        for place, records in enumerate(said):
            added = b"".join(batch.children.get(place, ()))
            self._answer.put(self._bounded(added + records))

    def _call_all(self, batch: Batch) -> Any:
        context = Context(self._about, batch)
        if self._is_sqs:
            value = self._handler(sqs.event_of(self._about, batch), context)
            return sqs.failures(value, batch.ids)
        events: list[Any] = batch.data
        if self._read is not None:
            events = [self._read(event) for event in events]
        return self._handler(events, context)

    def _of_list(self, value: Any, count: int) -> list[bytes]:
        if value is None:
            return [_PLAIN_OK] * count
        if type(value) is not list:
            raise NoResult(f"returned {kind(value)}, not a list with a result for each job")
        if len(value) > count:
            self._answer.put(record(EXTRA, 0, b"%d" % (len(value) - count)))
        return [self._item(each) for each in value[:count]]

    def _item(self, value: Any) -> bytes:
        if value is None:
            return _PLAIN_OK
        try:
            return self._raised(value) if isinstance(value, BaseException) else self._said(value)
        except BaseException as error:
            return self._raised(error)

    def _said(self, value: Any) -> bytes:
        status = _OK
        if type(value) is tuple and len(value) == 2 and type(value[0]) is int:
            status, value = value
            if not (100 <= status <= 299 or 400 <= status <= 599):
                raise NoResult(f"returned {status}: a status is 1xx, 2xx, 4xx or 5xx")
        text = b"" if value is None else to_bytes(value)[:_RESULT_MAX]
        return self._bounded(record(RESULT, status, text))

    def _bounded(self, records: bytes) -> bytes:
        if self._answer.has_room(len(records)):
            return records
        return self._failure(_ERROR, f"the jobs of a batch say at most {ANSWER_MAX} bytes")

    def _raised(self, error: BaseException) -> bytes:
        if isinstance(error, Retry):
            said = record(RESULT, _RETRY, to_text(str(error))[:_RESULT_MAX])
            return said if error.after is None else _after(error.after) + said
        if isinstance(error, Failed):
            return record(RESULT, _FAILED, to_text(str(error))[:_RESULT_MAX])
        if isinstance(error, NoResult):
            return self._failure(_NO_RESULT, str(error))
        return self._failure(_ERROR, summary(error), trace_of(error, self._folder, _OWN))

    def _failure(self, status: int, why: str, trace: str = "") -> bytes:
        text = to_text(trace)[-TRACEBACK_MAX:]
        return record(ERROR, 0, to_text(why)[:_RESULT_MAX]) + record(RESULT, status, text)


def _after(seconds: float) -> bytes:
    return record(AFTER, 0, b"%d" % min(max(0, int(1000 * seconds)), 10**12))
