"""What an errno of the disk means to a caller."""

from __future__ import annotations

import errno

from slimq.errors import DiskFull, JournalFailed, SlimqError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_RETRY = {"Retry-After": "1"}  # a probe write comes once a second


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def journal_error(error: OSError, what: str) -> SlimqError:
    """Return the DiskFull or JournalFailed that `error` means to the caller."""
    if is_full(error):
        return disk_full(what)
    return JournalFailed(f"{what}: {error.strerror or error}", headers=_RETRY)


def disk_stands_still(for_ms: int) -> SlimqError:
    rule = f"the disk has taken {for_ms // 1000} s so far over one write of the journal"
    return JournalFailed(f"{rule}; what waits for it is answered when it is there", headers=_RETRY)


def disk_full(what: str) -> DiskFull:
    return DiskFull(f"{what}: the disk is full", headers=_RETRY)
