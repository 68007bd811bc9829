"""The last step into the sandbox: give up what is left, then become the program.

Usage: ``python -I -S confine.py FD``. The descriptor has the words, each ended by a NUL:

    egress=FD:PORT  listen there on loopback, and hand the socket out by this descriptor
    keep=COUNT      close every descriptor from this number on
    limit=NAME:N    a resource limit, by its name in the module `resource`; a tighter one stays
    uid=N           become this user, without a group or a capability (as root only)
    landlock=1      forbid all files but those below, and TCP unless there is tcp=1
    read=PATH  write=PATH  device=PATH  look=PATH    (look: read, but execute nothing)
    folder=PATH     where the program starts
    env=NAME=VALUE  all of its environment
    run=WORD        its path and its arguments

Everything here runs before the first line of a function. It exits with 125, and says why on
standard error, when a step fails: half a sandbox is none.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
CLOSE_RANGE = 436
GIVE_VERSION, PATH_BENEATH = 1, 1
SET_NO_NEW_PRIVS, DROP_FROM_BOUNDS = 38, 24
CAPABILITIES_3 = 0x20080522

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DEVICES = 1 << 6 | 1 << 11
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
BITS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # and 16 of later ones
RIGHTS = {
    "read": EXECUTE | READ_FILE | READ_DIR,
    "write": ~MAKE_DEVICES,
    "device": WRITE_FILE | READ_FILE | READ_DIR | TRUNCATE | IOCTL_DEVICE,
    "look": READ_FILE | READ_DIR,
}
TCP = 0b11  # bind, connect
SCOPES = 0b11  # abstract sockets and signals of those outside


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call; raise OSError when it fails."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    answer = int(LIBC.syscall(ctypes.c_long(number), *words))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def words_of(descriptor: int) -> dict[str, list[str]]:
    """Return the values of each key, in order."""
    with os.fdopen(descriptor, "rb") as file:
        words = os.fsdecode(file.read()).split("\0")
    found: dict[str, list[str]] = {}
    for word in words[:-1]:
        key, _, value = word.partition("=")
        found.setdefault(key, []).append(value)
    return found


def bound(kind: int, most: int) -> None:
    """Set a limit. One of the node that is tighter stays: nobody may raise it here."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def hand_out(descriptor: int, port: int) -> None:
    """Give whoever started us a socket that belongs to the network of the sandbox."""
    import socket

    with socket.socket(fileno=descriptor) as link, socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        socket.send_fds(link, [b"L"], [listener.fileno()])


def become(uid: int) -> None:
    """Leave root for good. The bounding set goes first: it takes a capability to empty it."""
    number = 0
    while LIBC.prctl(DROP_FROM_BOUNDS, number, 0, 0, 0) == 0:
        number += 1
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = CAPABILITIES_3.to_bytes(4, sys.byteorder) + bytes(4)
    if LIBC.capset(header, bytes(24)) != 0:  # the inheritable ones were left
        raise OSError(ctypes.get_errno(), "capset")


def landlock(words: dict[str, list[str]]) -> None:
    """Forbid what is not named, a second time and by other means than mounts."""
    version = call(CREATE_RULESET, None, 0, GIVE_VERSION)
    handled = (1 << BITS_OF_VERSION.get(version, 16)) - 1
    tcp = 0 if "tcp" in words else TCP
    size = 8 if version < 4 else 16 if version < 6 else 24
    fields = b"".join(field.to_bytes(8, sys.byteorder) for field in (handled, tcp, SCOPES))
    rules = call(CREATE_RULESET, fields[:size], size, 0)
    for kind, rights in RIGHTS.items():
        for path in words.get(kind, ()):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            given = rights & handled & (-1 if stat.S_ISDIR(os.fstat(place).st_mode) else OF_FILES)
            rule = given.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
            call(ADD_RULE, rules, PATH_BENEATH, rule, 0)
            os.close(place)
    call(RESTRICT_SELF, rules, 0)
    os.close(rules)


def confine(words: dict[str, list[str]]) -> None:
    """Do what the words say, and become the program."""
    for egress in words.get("egress", ()):
        hand_out(*map(int, egress.split(":")))
    call(CLOSE_RANGE, int(words["keep"][0]), 0x7FFFFFFF, 0)
    for limit in words.get("limit", ()):
        name, _, most = limit.partition(":")
        bound(getattr(resource, name), int(most))
    if "uid" in words:
        become(int(words["uid"][0]))
    if LIBC.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if "landlock" in words:
        landlock(words)
    os.chdir(words["folder"][0])
    environment = dict(word.split("=", 1) for word in words.get("env", ()))
    os.execve(words["run"][0], words["run"], environment)  # noqa: S606  no shell: that is wanted


if __name__ == "__main__":
    try:
        confine(words_of(int(sys.argv[1])))
    except (OSError, ValueError) as error:
        print("slimq sandbox:", error, file=sys.stderr)
        sys.exit(125)
