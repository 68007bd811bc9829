"""Landlock, a second layer of the kernel over files, TCP and signals: is it there?"""

from __future__ import annotations

import ctypes

_CREATE_RULESET = 444  # the same number on every architecture
_GIVE_VERSION = 1


def version() -> int:
    """Return the version of the kernel's Landlock; 0 when it has none, or it is switched off."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.syscall(
        ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(_GIVE_VERSION)
    )
    return max(0, int(number))
