"""The system calls that a function may not make, as a filter for the kernel (seccomp).

A list of what is forbidden, not of what is allowed: functions bring libraries that nobody
here knows. What is forbidden either takes the machine apart (mounts, modules, clocks), looks
into other processes, opens the newest and least tried parts of the kernel, or speaks to
something other than files and the internet. Capabilities and namespaces forbid most of it
already: the filter is what still holds when a bug of the kernel defeats those.

The filter is a program of classic BPF (linux/filter.h): 8 bytes an instruction,

    code:u16  jump if true:u8  jump if false:u8  operand:u32

over `struct seccomp_data` (linux/seccomp.h): nr at 0, arch at 4, six arguments of 8 bytes
from 16 on. Both architectures are little-endian.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT, _ARGUMENT_BYTES = 0, 4, 16, 8
_ALLOW = 0x7FFF0000
_KILL = 0x80000000  # the process: a call by another architecture's numbers is an attack
_ERRNO = 0x00050000
_X32_NUMBERS = 0x40000000  # x86_64 only: a second set of numbers for the same calls

_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: no netlink, vsock, packet, alg, ...
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into, or paste to, a terminal
_CLONE_NEW = 0x7E020000  # every CLONE_NEW* that clone takes


class _Call(NamedTuple):
    """The number of a system call; None where the architecture has none."""

    x86_64: int | None
    aarch64: int | None


# Answered with ENOSYS, as by a kernel without them: callers then go the older way.
_ABSENT = {
    "clone3": _Call(435, 435),  # its flags are in memory, where no filter can look
    "io_uring_enter": _Call(426, 426),
    "io_uring_register": _Call(427, 427),
    "io_uring_setup": _Call(425, 425),
}

_FORBIDDEN = {
    "_sysctl": _Call(156, None),
    "acct": _Call(163, 89),
    "add_key": _Call(248, 217),
    "adjtimex": _Call(159, 171),
    "bpf": _Call(321, 280),
    "chroot": _Call(161, 51),
    "clock_adjtime": _Call(305, 266),
    "clock_settime": _Call(227, 112),
    "delete_module": _Call(176, 106),
    "fanotify_init": _Call(300, 262),
    "finit_module": _Call(313, 273),
    "fsconfig": _Call(431, 431),
    "fsmount": _Call(432, 432),
    "fsopen": _Call(430, 430),
    "fspick": _Call(433, 433),
    "get_kernel_syms": _Call(177, None),
    "init_module": _Call(175, 105),
    "ioperm": _Call(173, None),
    "iopl": _Call(172, None),
    "kcmp": _Call(312, 272),
    "kexec_file_load": _Call(320, 294),
    "kexec_load": _Call(246, 104),
    "keyctl": _Call(250, 219),
    "lookup_dcookie": _Call(212, 18),
    "migrate_pages": _Call(256, 238),
    "modify_ldt": _Call(154, None),
    "mount": _Call(165, 40),
    "mount_setattr": _Call(442, 442),
    "move_mount": _Call(429, 429),
    "move_pages": _Call(279, 239),
    "name_to_handle_at": _Call(303, 264),
    "nfsservctl": _Call(180, 42),
    "open_by_handle_at": _Call(304, 265),
    "open_tree": _Call(428, 428),
    "perf_event_open": _Call(298, 241),
    "personality": _Call(135, 92),
    "pidfd_getfd": _Call(438, 438),
    "pivot_root": _Call(155, 41),
    "process_madvise": _Call(440, 440),
    "process_vm_readv": _Call(310, 270),
    "process_vm_writev": _Call(311, 271),
    "ptrace": _Call(101, 117),
    "query_module": _Call(178, None),
    "quotactl": _Call(179, 60),
    "quotactl_fd": _Call(443, 443),
    "reboot": _Call(169, 142),
    "request_key": _Call(249, 218),
    "setdomainname": _Call(171, 162),
    "sethostname": _Call(170, 161),
    "setns": _Call(308, 268),
    "settimeofday": _Call(164, 170),
    "swapoff": _Call(168, 225),
    "swapon": _Call(167, 224),
    "sysfs": _Call(139, None),
    "syslog": _Call(103, 116),
    "umount2": _Call(166, 39),
    "unshare": _Call(272, 97),
    "uselib": _Call(134, None),
    "userfaultfd": _Call(323, 282),
    "ustat": _Call(136, None),
    "vhangup": _Call(153, 58),
}

# Allowed, but not with every argument.
_CLONE = _Call(56, 220)
_IOCTL = _Call(16, 29)
_SOCKET = _Call(41, 198)
_SOCKETPAIR = _Call(53, 199)

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*, linux/audit.h


def denied(machine: str) -> dict[str, int]:
    """Return the numbers of all calls that are denied whatever their arguments, by name."""
    found = {name: getattr(call, machine) for name, call in (_FORBIDDEN | _ABSENT).items()}
    return {name: number for name, number in found.items() if number is not None}


def program(machine: str = "") -> bytes:
    """Return the filter for an architecture (this machine's). Raises KeyError for one that
    it is not written for."""
    machine = machine or platform.machine()
    parts = [*_guard(machine)]
    parts += [part for call in _ABSENT.values() for part in _deny(call, machine, errno.ENOSYS)]
    parts += [part for call in _FORBIDDEN.values() for part in _deny(call, machine, errno.EPERM)]
    parts += _judge(_CLONE, machine, 0, [(_ANY_BIT, _CLONE_NEW)], _fail(errno.EPERM), _ALLOW)
    parts += _judge(
        _IOCTL,
        machine,
        1,
        [(_EQUAL, _TIOCSTI), (_EQUAL, _TIOCLINUX)],
        _fail(errno.EPERM),
        _ALLOW,
    )
    families = [(_EQUAL, family) for family in _FAMILIES]
    for call in (_SOCKET, _SOCKETPAIR):
        parts += _judge(call, machine, 0, families, _ALLOW, _fail(errno.EAFNOSUPPORT))
    return b"".join([*parts, _step(_RETURN, _ALLOW)])


def _guard(machine: str) -> Iterator[bytes]:
    """Let only numbers of this architecture pass, and load the number."""
    yield _step(_LOAD, _ARCH_AT)
    yield _step(_EQUAL, ARCHITECTURES[machine], 1, 0)
    yield _step(_RETURN, _KILL)
    yield _step(_LOAD, _NUMBER_AT)
    if machine == "x86_64":
        yield _step(_AT_LEAST, _X32_NUMBERS, 0, 1)
        yield _step(_RETURN, _fail(errno.ENOSYS))


def _deny(call: _Call, machine: str, code: int) -> Iterator[bytes]:
    number = getattr(call, machine)
    if number is not None:
        yield _step(_EQUAL, number, 0, 1)
        yield _step(_RETURN, _fail(code))


def _judge(
    call: _Call,
    machine: str,
    argument: int,
    tests: list[tuple[int, int]],
    when_met: int,
    otherwise: int,
) -> Iterator[bytes]:
    """End with `when_met` if the low half of an argument meets one of the tests, each an
    instruction and its operand. The kernel ignores the high half of all arguments here."""
    yield _step(_EQUAL, getattr(call, machine), 0, 1 + 2 * len(tests) + 1)
    yield _step(_LOAD, _ARGUMENTS_AT + argument * _ARGUMENT_BYTES)
    for code, operand in tests:
        yield _step(code, operand, 0, 1)
        yield _step(_RETURN, when_met)
    yield _step(_RETURN, otherwise)


def _fail(code: int) -> int:
    return _ERRNO | code


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)
