"""Programs that try to get out of the sandbox. Runs inside; imports nothing of ours.

Usage: ``python ways_out.py FILE``; it has a JSON object of what there is outside (see
`test_ways_out.Outside`). Prints a JSON object: for each way, in words, what it led to. What
begins with OUT led out; all else was denied.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"
TARGETS: dict[str, Any] = {}
WAYS: dict[str, Callable[[], str]] = {}
TIMEOUT_S = 0.5


def way(function: Callable[[], str]) -> Callable[[], str]:
    WAYS[function.__name__] = function
    return function


def calls(name: str, x86_64: int, aarch64: int, *arguments: int) -> None:
    """Add a way: a system call with arguments that mean nothing. The kernel answers EPERM or
    ENOSYS without looking at them when it is denied, and anything else when it is not."""

    def attempt() -> str:
        words = [ctypes.c_long(word) for word in arguments]
        ctypes.set_errno(0)
        LIBC.syscall(ctypes.c_long(x86_64 if X86 else aarch64), *words)
        code = ctypes.get_errno()
        denied = code in (errno.EPERM, errno.ENOSYS, errno.EACCES)
        return ("" if denied else "OUT: ") + (errno.errorcode[code] if code else "it worked")

    WAYS[name] = attempt


def opened(path: str, mode: str = "rb") -> str:
    with open(path, mode) as file:
        return f"OUT: {path}: {file.read(40)!r}" if "r" in mode else f"OUT: wrote to {path}"


def all_of(*attempts: Callable[[], str]) -> str:
    """What led out stands first."""
    found = [outcome(attempt) for attempt in attempts]
    return "; ".join(sorted(found, key=lambda end: not end.startswith("OUT")))


def outcome(attempt: Callable[[], str]) -> str:
    try:
        return attempt()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


# --- files -----------------------------------------------------------------


@way
def read_the_passwords() -> str:
    return opened("/etc/shadow")


@way
def read_the_environment_of_others() -> str:
    paths = glob.glob("/proc/*/environ")
    for path in paths:
        try:
            with open(path, "rb") as file:
                if TARGETS["secret"].encode() in file.read():
                    return f"OUT: {path}"
        except OSError:
            continue
    return f"not in {len(paths)} processes"


@way
def see_processes_outside() -> str:
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                if TARGETS["victim_mark"].encode() in file.read():
                    return f"OUT: {path}"
        except OSError:
            continue
    return "none"


@way
def read_the_journal() -> str:
    return opened(TARGETS["journal"])


@way
def list_the_data_folder() -> str:
    return f"OUT: {os.listdir(TARGETS['data'])}"


@way
def read_the_files_of_another_context() -> str:
    return opened(TARGETS["other_tmp"])


@way
def follow_a_link_out() -> str:
    link = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"link-{os.getpid()}")
    os.symlink(TARGETS["journal"], link)
    try:
        return opened(link)
    finally:
        os.unlink(link)


@way
def go_through_process_one() -> str:
    return all_of(
        *[
            lambda path=path: opened(path + TARGETS["journal"])
            for path in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/self/cwd/../..")
        ],
        lambda: opened("/proc/1/environ"),
        lambda: opened("/proc/1/mem"),
    )


@way
def change_the_source() -> str:
    return opened(TARGETS["source"], "ab")


@way
def change_the_system() -> str:
    attempts = [
        lambda path=path: opened(f"{path}/slimq-escape-{os.getpid()}", "wb")
        for path in ("/usr", "/usr/bin", "/etc", "/dev", "/", "/var/tmp", "/run", "/proc")
    ]
    return all_of(*attempts)


@way
def change_the_kernel() -> str:
    paths = ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/self/oom_score_adj")
    attempts = [lambda path=path: opened(path, "wb") for path in paths[:2]]

    def spare_me() -> str:
        with open(paths[2], "w") as file:
            file.write("-1000")
        return "OUT: nothing will kill us"

    return all_of(*attempts, spare_me)


@way
def read_the_kernel() -> str:
    paths = ("/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem", "/proc/kallsyms-none")
    return all_of(*[lambda path=path: opened(path) for path in paths])


@way
def see_the_hardware() -> str:
    return f"OUT: {os.listdir('/sys')[:3]}"


@way
def read_a_disk() -> str:
    with open("/proc/partitions") as file:
        disks = [line.split()[3] for line in file.readlines()[2:]]
    return all_of(*[lambda disk=disk: opened(f"/dev/{disk}") for disk in disks])


@way
def make_a_device() -> str:
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"device-{os.getpid()}")
    os.mknod(path, 0o060600, os.makedev(7, 0))
    os.unlink(path)
    return "OUT: made a block device"


# --- processes -------------------------------------------------------------


@way
def attach_to_a_process() -> str:
    ctypes.set_errno(0)
    done = LIBC.syscall(
        ctypes.c_long(101 if X86 else 117), 16, ctypes.c_long(TARGETS["victim"]), 0, 0
    )
    if done == 0:
        os.waitpid(TARGETS["victim"], 0x40000000)
        LIBC.syscall(ctypes.c_long(101 if X86 else 117), 17, ctypes.c_long(TARGETS["victim"]), 0, 0)
        return "OUT: attached"
    return errno.errorcode[ctypes.get_errno()]


@way
def kill_a_process_outside() -> str:
    os.kill(TARGETS["victim"], signal.SIGKILL)
    return "OUT: killed"


@way
def kill_process_one() -> str:
    """Process 1 is the sandbox's own, or the machine's: neither may be killed by us. As root
    without a sandbox this must not be tried: signal 0 asks only."""
    os.kill(1, 0)
    return "OUT: may" if os.getuid() == 0 else "process 1 of the same user, in a namespace"


@way
def become_root() -> str:
    return all_of(*[lambda call=call: _become(call) for call in (os.setuid, os.setgid, _regroup)])


def _become(call: Callable[[int], None]) -> str:
    call(0)
    return f"OUT: {call.__name__} 0"


def _regroup(group: int) -> None:
    os.setgroups([group])


@way
def have_capabilities() -> str:
    with open("/proc/self/status") as file:
        held = [line for line in file if line.startswith("Cap") and int(line.split()[1], 16)]
    return f"OUT: {held}" if held else "none"


@way
def gain_privileges_by_exec() -> str:
    with open("/proc/self/status") as file:
        free = [line for line in file if line.startswith("NoNewPrivs:\t0")]
    return "OUT: set-user-id programs work" if free else "no new privileges"


@way
def run_before_all_others() -> str:
    return all_of(
        lambda: f"OUT: nice {os.nice(-5)}",
        lambda: f"OUT: {os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))}",
    )


@way
def inherit_descriptors() -> str:
    found = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    extra = [number for number in found if number > 2 and os.path.exists(f"/proc/self/fd/{number}")]
    names = [os.readlink(f"/proc/self/fd/{number}") for number in extra]
    own = [name for name in names if not name.startswith(("/proc/", "/dev/null"))]
    own = [name for name in own if not name.endswith("ways_out.py")]
    return f"OUT: {own}" if own else "0, 1, 2"


@way
def inherit_the_environment() -> str:
    return "OUT" if TARGETS["secret"] in os.environ.values() else f"{sorted(os.environ)}"


# --- the network -----------------------------------------------------------


def _talk(family: int, kind: int, address: object) -> str:
    with socket.socket(family, kind) as link:
        link.settimeout(TIMEOUT_S)
        link.connect(address)
        link.send(b"out?")
        return f"OUT: {link.recv(16)!r}"


@way
def connect_to_loopback() -> str:
    return _talk(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", TARGETS["tcp"]))


@way
def connect_to_loopback_6() -> str:
    return _talk(socket.AF_INET6, socket.SOCK_STREAM, ("::1", TARGETS["tcp6"]))


@way
def send_datagrams() -> str:
    return _talk(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", TARGETS["udp"]))


@way
def ask_the_metadata_service() -> str:
    with socket.socket() as link:
        link.settimeout(TIMEOUT_S)
        link.connect(("169.254.169.254", 80))
    return "OUT: connected"


@way
def see_network_devices() -> str:
    with open("/proc/net/dev") as file:
        names = [line.split(":")[0].strip() for line in file if ":" in line]
    others = [name for name in names if name != "lo"]
    return f"OUT: {others}" if others else "lo"


@way
def find_a_route() -> str:
    with open("/proc/net/route") as file:
        routes = file.read().splitlines()[1:]
    return f"OUT: {len(routes)} routes" if routes else "no route"


@way
def connect_to_an_abstract_socket() -> str:
    return _talk(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + TARGETS["abstract"])


@way
def connect_to_a_unix_socket() -> str:
    return _talk(socket.AF_UNIX, socket.SOCK_STREAM, TARGETS["unix"])


def _socket(name: str, family: int, kind: int, protocol: int = 0) -> None:
    def attempt() -> str:
        socket.socket(family, kind, protocol).close()
        return "OUT: opened"

    WAYS[f"open_{name}"] = attempt


_socket("netlink", 16, socket.SOCK_RAW)
_socket("vsock", 40, socket.SOCK_STREAM)
_socket("packets", 17, socket.SOCK_RAW)
_socket("raw_ip", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
_socket("kernel_cryptography", 38, socket.SOCK_SEQPACKET)


@way
def find_shared_memory() -> str:
    found = LIBC.shmget(TARGETS["shm_key"], 0, 0)
    return "OUT: attached" if found >= 0 else errno.errorcode[ctypes.get_errno()]


# --- the kernel ------------------------------------------------------------

NEW_USER, NEW_MOUNTS, NEW_NET = 0x10000000, 0x00020000, 0x40000000


@way
def mount_a_file_system() -> str:
    place = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"mount-{os.getpid()}")
    os.mkdir(place)
    try:
        if LIBC.mount(b"none", place.encode(), b"tmpfs", 0, None) == 0:
            LIBC.umount2(place.encode(), 2)
            return "OUT: mounted"
        return errno.errorcode[ctypes.get_errno()]
    finally:
        os.rmdir(place)


def _in_a_copy(number: int, *arguments: int) -> str:
    """Try a call that would change this process for good in a copy of it."""
    pid = os.fork()
    if pid == 0:
        done = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(word) for word in arguments])
        os._exit(0 if done >= 0 else ctypes.get_errno())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode[code] if code else "OUT: it worked"


@way
def make_a_user_namespace() -> str:
    return _in_a_copy(272 if X86 else 97, NEW_USER)


@way
def make_other_namespaces() -> str:
    return all_of(
        *[lambda flag=flag: _in_a_copy(272 if X86 else 97, flag) for flag in (NEW_MOUNTS, NEW_NET)]
    )


@way
def clone_into_a_user_namespace() -> str:
    pid = LIBC.syscall(ctypes.c_long(56 if X86 else 220), ctypes.c_long(NEW_USER | 17), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
        return "OUT: it worked"
    return errno.errorcode[ctypes.get_errno()]


@way
def join_a_namespace() -> str:
    def join(path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY)
        return _in_a_copy(308 if X86 else 268, descriptor, 0)

    return all_of(*[lambda kind=kind: join(f"/proc/1/ns/{kind}") for kind in ("net", "pid", "mnt")])


@way
def type_into_the_terminal() -> str:
    ctypes.set_errno(0)
    byte = ctypes.c_char(b"x")
    LIBC.ioctl(0, ctypes.c_ulong(0x5412), ctypes.byref(byte))
    code = ctypes.get_errno()
    return errno.errorcode[code] if code == errno.EPERM else "OUT: the kernel was asked"


@way
def have_a_terminal() -> str:
    return opened("/dev/tty", "wb")


@way
def use_the_numbers_of_x32() -> str:
    if not X86:
        return "there are none"
    done = LIBC.syscall(ctypes.c_long(0x40000000 + 39))
    return "OUT: it worked" if done >= 0 else errno.errorcode[ctypes.get_errno()]


calls("trace_me", 101, 117, 99)
calls("load_a_kernel_program", 321, 280, 999, 0, 0)
calls("use_the_key_ring", 250, 219, 0, -3, 0)
calls("add_a_key", 248, 217, 0, 0, 0, 0, 0)
calls("io_uring", 425, 425, 0, 0)
calls("userfaultfd", 323, 282, -1)
calls("watch_performance", 298, 241, 0, 0, -1, -1, 0)
calls("read_the_kernel_log", 103, 116, 10, 0, 0)
calls("open_by_handle", 304, 265, -100, 0, 0)
calls("name_a_handle", 303, 264, -100, 0, 0, 0, 0)
calls("load_a_module", 175, 105, 0, 0, 0)
calls("load_a_kernel", 246, 104, 0, 99, 0, 0)
calls("reboot", 169, 142, 0, 0, 0)
calls("set_the_clock", 227, 112, 0, 0)
calls("set_the_time", 164, 170, 1, 0)
calls("change_the_root", 161, 51, 0)
calls("pivot_the_root", 155, 41, 0, 0)
calls("open_a_mount", 428, 428, -100, 0, 0)
calls("make_a_file_system", 430, 430, 0, 0)
calls("move_a_mount", 429, 429, -1, 0, -1, 0, 0)
calls("unmount", 166, 39, 0, 0)
calls("swap_on", 167, 224, 0, 0)
calls("name_the_host", 170, 161, 0, 0)
calls("clone3", 435, 435, 0, 0)
calls("read_the_memory_of_another", 310, 270, 1, 0, 0, 0, 0, 99)
calls("take_a_descriptor", 438, 438, -1, 0, 0)
calls("compare_processes", 312, 272, 1, 1, 99, 0, 0)
calls("watch_all_files", 300, 262, 0, 0)
calls("change_personality", 135, 92, 0xFFFFFFFF)

if __name__ == "__main__":
    with open(sys.argv[1]) as given:
        TARGETS |= json.load(given)
    print(json.dumps({name: outcome(attempt) for name, attempt in WAYS.items()}))
