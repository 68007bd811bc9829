"""The filter of system calls: its numbers, and what it says of any call."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import struct

import pytest

from sandbox_kit import need
from slimq.runner.seccomp import ARCHITECTURES, denied, program

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBERS = {  # socket, ioctl, clone, read
    "x86_64": (41, 16, 56, 0),
    "aarch64": (198, 29, 220, 63),
}


def judged(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """Do what the kernel does with the filter, and return its verdict."""
    given = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", number, arch or ARCHITECTURES[machine], 0, *given)
    steps = list(struct.iter_unpack("<HBBI", program(machine)))
    held, at = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        if code == RETURN:
            return operand
        if code == LOAD:
            held = struct.unpack_from("<I", data, operand)[0]
            at += 1
            continue
        met = {EQUAL: held == operand, AT_LEAST: held >= operand, ANY_BIT: bool(held & operand)}
        at += 1 + (if_true if met[code] else if_false)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_number_is_that_of_the_kernel(machine: str) -> None:
    """Compared with libseccomp, which has the tables of all architectures."""
    name = ctypes.util.find_library("seccomp")
    need(name is not None, "libseccomp is missing: apt-get install libseccomp2")
    resolve = ctypes.CDLL(name).seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    calls = denied(machine)
    assert len(calls) > 50
    for call, number in calls.items():
        assert resolve(ARCHITECTURES[machine], call.encode()) == number, call


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_what_is_denied_is_denied_and_all_else_allowed(machine: str) -> None:
    calls = denied(machine)
    absent = {"clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"}
    for name, number in calls.items():
        code = errno.ENOSYS if name in absent else errno.EPERM
        assert judged(machine, number) == ERRNO | code, name
    socket, _, _, _ = NUMBERS[machine]
    pair = {"x86_64": 53, "aarch64": 199}[machine]
    for number in set(range(600)) - set(calls.values()) - {socket, pair}:
        assert judged(machine, number) == ALLOW, number


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_only_sockets_of_files_and_the_internet_are_made(machine: str) -> None:
    socket, _, _, _ = NUMBERS[machine]
    allowed = [family for family in range(64) if judged(machine, socket, family, 1) == ALLOW]
    assert allowed == [1, 2, 10]
    assert judged(machine, socket, 40, 1) == ERRNO | errno.EAFNOSUPPORT
    assert judged(machine, socket, (1 << 32) | 40, 1) == ERRNO | errno.EAFNOSUPPORT


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_a_thread_may_be_cloned_and_a_namespace_not(machine: str) -> None:
    _, ioctl, clone, read = NUMBERS[machine]
    assert judged(machine, clone, 0x3D0F00) == ALLOW  # what pthread_create asks for
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judged(machine, clone, 17 | bit) == ERRNO | errno.EPERM
    assert judged(machine, ioctl, 0, 0x5413) == ALLOW  # TIOCGWINSZ
    assert judged(machine, ioctl, 0, 0x5412) == ERRNO | errno.EPERM  # TIOCSTI
    assert judged(machine, ioctl, 0, (1 << 32) | 0x5412) == ERRNO | errno.EPERM
    assert judged(machine, read) == ALLOW


def test_the_numbers_of_other_architectures_kill() -> None:
    assert judged("x86_64", 0, arch=0x40000003) == KILL  # i386, by int 0x80
    assert judged("aarch64", 0, arch=0x40000028) == KILL  # arm
    assert judged("x86_64", 0x40000000) == ERRNO | errno.ENOSYS  # x32
