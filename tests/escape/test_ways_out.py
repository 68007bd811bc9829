"""Every way out of the sandbox that is known, tried by a real program in a real sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import pytest

from escape.outside import SECRET, Outside
from escape.ways_out import WAYS
from sandbox_kit import ESCAPE, USERS, cell_of, need_user, python_of, run_inside

Led = Callable[..., dict[str, str]]


# Ways that some machines close for everybody, and those that the last step of the launch
# closes with or without a sandbox.
MAY_BE_CLOSED = {
    "ask_the_metadata_service",
    "attach_to_a_process",
    "compare_processes",
    "gain_privileges_by_exec",
    "have_a_terminal",
    "inherit_descriptors",
    "inherit_the_environment",
    "io_uring",
    "join_a_namespace",
    "load_a_kernel",
    "load_a_module",
    "open_kernel_cryptography",
    "open_vsock",
    "read_a_disk",
    "read_the_kernel_log",
    "see_network_devices",
    "use_the_numbers_of_x32",
}


@pytest.fixture(scope="module")
def led(outside: Outside) -> Led:
    """Return what all ways led to, for a user; all are tried once, by one program."""

    @cache
    def of(user: str, unsafe: bool = False) -> dict[str, str]:
        need_user(user)
        cell = cell_of(user, outside.source, ESCAPE / "ways_out.py")
        program = [python_of(user), "-I", str(ESCAPE / "ways_out.py"), str(outside.list)]
        came = run_inside(user, program, cell, unsafe=unsafe, variables={"CANARY": SECRET})
        assert came.code == 0, came.err
        return json.loads(came.out)

    return of


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("user", USERS)
def test_no_way_leads_out(led: Led, user: str, way: str) -> None:
    assert not led(user)[way].startswith("OUT"), led(user)[way]


@pytest.mark.parametrize("user", USERS)
def test_no_process_outside_is_harmed(led: Led, outside: Outside, user: str) -> None:
    led(user)
    assert outside.victim.poll() is None


def test_as_root_each_client_is_a_user_of_its_own() -> None:
    need_user("root")
    users = [
        run_inside("root", ["/usr/bin/id", "-u"], cell_of("root", client=client)).out
        for client in ("acme", "globex", "acme")
    ]
    assert users[0] == users[2] != users[1]
    assert "0\n" not in users


def test_without_a_sandbox_the_same_ways_lead_out(led: Led) -> None:
    """Otherwise they would prove nothing. Last, because it kills the victim."""
    found = {way for way, end in led("root", unsafe=True).items() if end.startswith("OUT")}
    assert set(WAYS) - found <= MAY_BE_CLOSED
