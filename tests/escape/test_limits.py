"""Programs that take all they can get, get no more than their cell has, and leave nothing."""

from __future__ import annotations

import resource
import uuid

import pytest

from sandbox_kit import (
    USERS,
    Order,
    cell_of,
    need_user,
    python_of,
    run_python,
    running,
    start_launcher,
    wait_until,
)

MIB = 1024 * 1024


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> str:
    need_user(request.param)
    return str(request.param)


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid.uuid4()}"


def test_ten_gigabytes_are_not_to_be_had(user: str) -> None:
    cell = cell_of(user, memory_bytes=100 * MIB)
    program = "held = [bytearray(8 << 20) for _ in range(1280)]; print(len(held))"
    came = run_python(user, program, cell=cell)
    assert came.code != 0
    assert came.out == ""
    if user == "root":
        assert came.hit == ["memory"]
    else:
        assert "MemoryError" in came.err


def test_what_fits_is_to_be_had(user: str) -> None:
    cell = cell_of(user, memory_bytes=200 * MIB)
    came = run_python(user, "held = bytearray(100 << 20); print(len(held))", cell=cell)
    assert (came.code, came.out, came.hit) == (0, f"{100 * MIB}\n", [])


def test_files_count_as_memory(user: str) -> None:
    if user != "root":
        pytest.skip("only a control group counts files")
    cell = cell_of(user, memory_bytes=60 * MIB, tmp_bytes=500 * MIB)
    came = run_python(
        user, "f = open('/tmp/f', 'wb')\nfor _ in range(400): f.write(bytes(1 << 20))", cell=cell
    )
    assert came.code != 0
    assert came.hit == ["memory"]


def test_no_more_processes_than_allowed(user: str) -> None:
    program = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(1000)
        count += 1
except OSError:
    print(count)
"""
    came = run_python(user, program, cell=cell_of(user, processes=20))
    assert came.code == 0
    assert 10 <= int(came.out) <= 20
    assert came.hit == (["processes"] if user == "root" else [])


def test_a_fork_bomb_is_bounded_and_leaves_nothing(user: str, mark: str) -> None:
    program = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    run_python(user, program, mark, cell=cell_of(user, processes=30, cpus=0.5), seconds=1.0)
    wait_until(lambda: not running(mark))


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_a_full_disk_is_the_functions_own(user: str, folder: str) -> None:
    program = """
import sys
count = 0
try:
    with open(sys.argv[1] + "/file", "wb", buffering=0) as file:
        while True:
            count += file.write(bytes(1 << 20))
except OSError as error:
    print(error.errno, count)
"""
    came = run_python(user, program, folder, cell=cell_of(user, tmp_bytes=20 * MIB))
    code, count = map(int, came.out.split())
    assert code == 28  # ENOSPC
    assert count <= 20 * MIB


def test_no_more_open_files_than_allowed(user: str) -> None:
    program = """
import os, resource
found = []
try:
    while len(found) < 1_000_000:
        found.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    print(error.errno, found[-1])
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
"""
    came = run_python(user, program, cell=cell_of(user, open_files=100))
    assert came.out == "24 99\n"  # EMFILE
    assert "not allowed to raise maximum limit" in came.err


def test_a_tighter_limit_of_the_node_itself_holds_and_is_no_failure(user: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    program = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    came = run_python(user, program, cell=cell_of(user, open_files=hard + 1))
    assert (came.out, came.err) == (f"{hard} {hard}\n", "")


def test_no_core_is_dumped(user: str) -> None:
    came = run_python(user, "import os, resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert came.out == "(0, 0)\n"


def test_processor_time_is_shared_out() -> None:
    need_user("root")
    program = """
import time
end = time.monotonic() + 2
while time.monotonic() < end: pass
print(time.process_time())
"""
    came = run_python("root", program, cell=cell_of("root", cpus=0.25))
    assert float(came.out) < 1.2


SURVIVORS = {
    "a daemon": """
import os, signal, sys, time
if os.fork(): time.sleep(0.2); os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for number in range(1, 32):
    if number not in (9, 19): signal.signal(number, signal.SIG_IGN)
for descriptor in range(3): os.close(descriptor)
while True: time.sleep(1)
""",
    "one that ignores all signals": """
import signal, time
for number in range(1, 32):
    if number not in (9, 19): signal.signal(number, signal.SIG_IGN)
while True: time.sleep(1)
""",
    "one that stops itself": "import os; os.kill(os.getpid(), 19)",
    "a group of its own": """
import os, time
for _ in range(3):
    os.fork()
    os.setpgid(0, 0)
while True: time.sleep(1)
""",
    "one that kills its parent": """
import os, signal, time
try: os.kill(os.getppid(), signal.SIGKILL)
except OSError: pass
while True: time.sleep(1)
""",
}


@pytest.mark.parametrize("kind", SURVIVORS)
def test_nobody_survives(user: str, mark: str, kind: str) -> None:
    run_python(user, SURVIVORS[kind], mark, seconds=1.0)
    wait_until(lambda: not running(mark))


def test_the_limits_alone_kill_everyone(mark: str) -> None:
    need_user("root")
    came = run_python("root", SURVIVORS["a group of its own"], mark, seconds=1.0, by_limits=True)
    assert came.code != 0
    wait_until(lambda: not running(mark))


def test_nobody_survives_a_node_that_is_killed(user: str, mark: str) -> None:
    program = "import os, time\nos.fork()\nos.setsid()\nwhile True: time.sleep(1)"
    command = [python_of(user), "-I", "-c", program, mark]
    with start_launcher(Order(user=user, command=command, cell=cell_of(user))) as launcher:
        wait_until(lambda: len(running(mark)) >= 2)
        launcher.kill()
        launcher.communicate()
    wait_until(lambda: not running(mark))
