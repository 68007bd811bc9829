"""What a node and a context share: two memory files and a socket.

The node writes a batch into one file. The context says into the other what became of each job,
the moment it is known. The socket carries a few bytes each way (`host/python_host.py` has the
formats). So nobody waits for the other to read, a batch costs two turns of the loop whatever its
size, and what jobs said before the context died is not lost.

Neither side believes the other: the node maps nothing, and the context cannot shrink what it
maps.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from struct import Struct
from typing import NamedTuple

from slimq.core.job import Job
from slimq.core.limits import ANSWER_MAX, MIB

NOT_TAKEN, IN_HOOK, IN_JOBS = 0, 1, 2  # phases of an answer
MESSAGE_MAX = 8 * 1024

_HEAD = Struct("<QBB6x")  # where the records end, the phase, whether results stand
_EMPTY = _HEAD.pack(_HEAD.size, NOT_TAKEN, 0)
_ANSWER_BYTES = 64 * 1024  # to begin with
_BATCH_KEPT_MAX = MIB  # a larger batch is not left in memory behind its run


class Answer(NamedTuple):
    """`records` as `function_verdict.py` reads them; `stands` says that each result counts as
    soon as it is there."""

    records: bytes
    phase: int
    stands: bool


class Exchange:
    """Owns its descriptors; `theirs` are to be handed to the context, then `hand_over` called."""

    def __init__(self) -> None:
        self._batch = os.memfd_create("slimq-batch", os.MFD_CLOEXEC)
        self._answer = _growing_file(_ANSWER_BYTES)
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket, self._theirs = pair
        self.socket.setblocking(False)
        self._is_closed = False

    @property
    def theirs(self) -> Sequence[int]:
        return self._theirs.fileno(), self._batch, self._answer

    def hand_over(self) -> None:
        self._theirs.close()

    def give(self, payload: bytes) -> None:
        """Hand a batch over, and forget the answer to the one before."""
        os.pwrite(self._answer, _EMPTY, 0)
        os.pwrite(self._batch, payload, 0)
        with suppress(OSError):  # the context is gone: its end is heard of elsewhere
            self.socket.send(b"%d" % len(payload))

    def hear(self) -> bytes | None:
        """Return what the context says: b'' at the end, None when it says nothing now."""
        try:
            return self.socket.recv(MESSAGE_MAX)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def said(self) -> int:
        """Return how much of the answer is there, and -1 when no job is under way."""
        end, phase, _ = _HEAD.unpack(os.pread(self._answer, _HEAD.size, 0))
        return int(end) if phase == IN_JOBS else -1

    def answer(self) -> Answer:
        end, phase, stands = _HEAD.unpack(os.pread(self._answer, _HEAD.size, 0))
        size = min(end, ANSWER_MAX + MIB) - _HEAD.size
        records = os.pread(self._answer, size, _HEAD.size) if size > 0 else b""
        return Answer(records, phase, bool(stands))

    def forget(self, payload_bytes: int) -> int:
        """Let go of a large batch; return what the answers take, which never shrink."""
        if payload_bytes > _BATCH_KEPT_MAX:
            os.ftruncate(self._batch, 0)
        return os.fstat(self._answer).st_size

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._theirs.close()
        self.socket.close()
        os.close(self._batch)
        os.close(self._answer)


def payload_of(jobs: Sequence[Job], timeout_ms: int, job_timeout_ms: int) -> bytes:
    """Return a batch as the context reads it."""
    ids = " ".join([job.id for job in jobs])
    attempts = " ".join([str(job.attempt) for job in jobs])
    head = f"{len(jobs)} {timeout_ms} {job_timeout_ms}\n{ids}\n{attempts}\n".encode()
    return head + b"\n".join([job.data for job in jobs])


def _growing_file(size: int) -> int:
    """Return a memory file that may grow, and that nobody can shrink."""
    descriptor = os.memfd_create("slimq-answer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return descriptor
