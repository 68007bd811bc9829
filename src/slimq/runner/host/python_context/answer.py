"""What the jobs of a batch said, in a memory file that the node reads."""

import mmap
import os
from struct import Struct

HEAD_BYTES = 16
IN_HOOK, IN_JOBS = 1, 2  # phases
RESULT, ERROR, AFTER, CHILD, HOOK_FAILED, EXTRA, DIED = range(1, 8)  # kinds of records
ANSWER_MAX = 64 * 1024 * 1024

_RECORD, _END, _PHASE = Struct("<BHI"), Struct("<Q"), Struct("<BB")


def record(kind: int, status: int = 0, payload: bytes = b"") -> bytes:
    return _RECORD.pack(kind, status, len(payload)) + payload


class Answer:
    """The file::

        0   u64   where the records end
        8   u8    phase: 0 not taken, 1 in a hook, 2 in the jobs
        9   u8    1: results stand as they come; 0: only when `after_batch` has ended
        16  records: u8 kind, u16 status, u32 length, and so many bytes

    Kinds: 1 the result of the next job, with its text. Before the result of a job: 2 an error,
    3 ms until it is tried again, 4 a child ``jobtype|data``. At the end: 5 a hook failed, 6 how
    many results there are too many, 7 what ran the jobs died, and this process did not. A record
    counts from the moment in which the end is behind it, so that it is there whatever becomes of
    this process.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._size = len(self._map)
        self._end = HEAD_BYTES

    def begin(self) -> None:
        """Forget the answer to the batch before."""
        self._end = HEAD_BYTES

    def enter(self, phase: int, stands: bool) -> None:
        _PHASE.pack_into(self._map, 8, phase, stands)

    def put(self, records: bytes) -> None:
        start, end = self._end, self._end + len(records)
        if end > self._size:
            self._size = max(end, 2 * self._size)
            self._map.resize(self._size)
        self._map[start:end] = records
        self._end = end
        _END.pack_into(self._map, 0, end)

    def has_room(self, size: int) -> bool:
        return self._end + size <= ANSWER_MAX

    def leave(self) -> None:
        """Make that this process can write nothing any more: it is a copy of another."""
        self._map.close()
