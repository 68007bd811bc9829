"""``slimq dev`` as one who writes functions sees it: a folder, a terminal, and curl."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from sandbox_kit import need

DEADLINE_S = 60.0
UPPER = "def handler(event, context):\n    print('seen', event)\n    return event.upper()\n"


class Dev:
    """A `slimq dev` of a folder. `said` are the lines of its terminal, `banner` the curl lines
    that it shows first."""

    def __init__(self, folder: Path, *words: str, path: str = os.environ["PATH"]) -> None:
        self.folder = folder
        environment = {name: value for name, value in os.environ.items() if "SLIMQ" not in name}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slimq", "dev", "--port", "0", *words],
            cwd=folder,
            env=environment | {"PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []
        self.banner: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        self.sees("Stop it with Ctrl-C")
        self.url = re.findall(r"http://[\w.:]+", self.banner[-1])[0]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(DEADLINE_S)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert code == 0 or kind is not None, "".join(self.said)

    def _read(self) -> None:
        for line in self._process.stdout or ():
            if line.lstrip().startswith("curl "):
                self.banner.append(line.strip())
            self.said.append(line)

    def sees(self, pattern: str) -> re.Match[str]:
        """Wait until the terminal shows something; forget what came before it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            for number, line in enumerate(list(self.said)):
                found = re.search(pattern, line)
                if found:
                    del self.said[: number + 1]
                    return found
            assert time.monotonic() < deadline, f"{pattern}: not among\n{''.join(self.said)}"
            time.sleep(0.01)

    def add(self, jobtype: str, data: str) -> None:
        paste(f"curl --data-binary '{data}' '{self.url}/add?jobtype={jobtype}'")

    def write(self, name: str, source: str) -> None:
        """Write a file as editors do: another one takes its place."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(source)
        new.rename(path)


def paste(line: str) -> Any:
    strict = 'set -euo pipefail; curl() { command curl -fsS --max-time 40 "$@"; }; '
    shell = subprocess.run(["bash", "-c", strict + line], capture_output=True, timeout=60)
    assert shell.returncode == 0, f"{line}\n{shell.stdout!r}\n{shell.stderr!r}"
    return json.loads(shell.stdout)


ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    need(shutil.which("bwrap") is not None, "bubblewrap is missing: apt-get install bubblewrap")
    need(shutil.which("curl") is not None, "curl is missing")
    return tmp_path


def test_the_curl_lines_of_the_banner_work_in_an_empty_folder(folder: Path) -> None:
    with Dev(folder) as dev:
        add, look = dev.banner
        (id_,) = paste(add)["ids"]
        dev.sees(rf"^echo +200  {id_}  hello$")
        assert paste(look)["jobs"][0]["id"] == id_


def test_a_file_that_is_written_becomes_a_function_and_shows_results_and_logs(
    folder: Path,
) -> None:
    (folder / "upper.py").write_text(UPPER)
    with Dev(folder) as dev:
        dev.sees(r"^upper +---  version 1 is ready")
        dev.add("upper", "hello")
        dev.sees(r"^upper +log  seen b'hello'")
        dev.sees(r"^upper +200  \S+  HELLO")
        dev.write("upper.py", UPPER.replace("event.upper()", "b'new'"))
        dev.sees(r"^upper +---  version 2 is ready")
        dev.add("upper", "hello")
        dev.sees(r"^upper +200  \S+  new")


def test_a_script_is_a_function_unless_another_file_has_its_name(folder: Path) -> None:
    need(shutil.which("node") is not None, "Node.js is missing")
    (folder / "upper.mjs").write_text(
        "export const handler = (event) => String(event).toUpperCase();\n"
    )
    with Dev(folder) as dev:
        dev.sees(r"^upper +---  version 1 is ready")
        dev.add("upper", "hello")
        dev.sees(r"^upper +200  \S+  HELLO")
        (folder / "upper.py").write_text(UPPER)
        dev.sees("upper.mjs and upper.py: rename all but one")


def test_a_folder_with_a_main_file_is_a_function_and_so_is_a_change_of_any_file_in_it(
    folder: Path,
) -> None:
    with Dev(folder) as dev:
        dev.write("words/lib.py", "WORD = 'one'\n")
        dev.write("words/main.py", "import lib\ndef handler(event, context): return lib.WORD\n")
        dev.sees(r"^words +---  version 1 is ready")
        dev.write("words/lib.py", "WORD = 'two'\n")
        dev.sees(r"^words +---  version 2 is ready")
        dev.add("words", "x")
        dev.sees(r"^words +200  \S+  two")


def test_an_error_of_syntax_is_shown_and_the_old_version_goes_on(folder: Path) -> None:
    (folder / "upper.py").write_text(UPPER)
    with Dev(folder) as dev:
        dev.sees(r"^upper +---  version 1 is ready")
        dev.write("upper.py", UPPER + "def broken(:\n")
        dev.sees(r"^upper +---  upper\.py, line 4: invalid syntax; version 1 goes on")
        dev.add("upper", "hello")
        dev.sees(r"^upper +200  \S+  HELLO")
        dev.write("upper.py", UPPER)
        dev.sees(r"^upper +---  version 1 is ready")


def test_a_job_that_fails_is_tried_again_soon_and_ends_well_when_the_function_is_mended(
    folder: Path,
) -> None:
    (folder / "upper.py").write_text("def handler(event, context): raise ValueError('not yet')\n")
    with Dev(folder) as dev:
        dev.sees("version 1 is ready")
        dev.add("upper", "hello")
        dev.sees(r"^upper +500  \S+  ValueError: not yet")
        dev.sees(r"File .upper\.py., line 1, in handler")
        dev.sees(r"^upper +500  \S+ \(attempt 2\)  ValueError: not yet")
        dev.write("upper.py", UPPER)
        dev.sees(r"^upper +200  \S+ \(attempt \d+\)  HELLO")


def test_data_is_kept_between_runs_and_nothing_is_deployed_twice(folder: Path) -> None:
    (folder / "upper.py").write_text(UPPER)
    with Dev(folder) as dev:
        dev.sees("version 1 is ready")
        dev.add("upper", "hello")
        dev.sees("HELLO")
    with Dev(folder) as dev:
        dev.sees(r"^upper +---  version 1 is ready")
        (job,) = paste(f"curl '{dev.url}/jobs'")["jobs"]
        assert job["status"] == 200


def test_a_file_that_is_gone_takes_no_version_with_it(folder: Path) -> None:
    (folder / "upper.py").write_text(UPPER)
    with Dev(folder) as dev:
        dev.sees("version 1 is ready")
        (folder / "upper.py").unlink()
        dev.sees(r"^upper +---  upper\.py is gone; what was deployed goes on")
        dev.add("upper", "hello")
        dev.sees("HELLO")


def test_what_can_be_no_function_is_told_and_hinders_no_other(folder: Path) -> None:
    (folder / "a b.py").write_text(UPPER)
    (folder / "none.py").write_text("x = 1\n")
    (folder / "_part.py").write_text("nonsense(\n")
    (folder / "upper.py").write_text(UPPER)
    with Dev(folder) as dev:
        dev.sees(r"^a b +---  a b can be no jobtype: rename the file")
        dev.sees(r"^none +---  none\.py: there is no handle_batch or handler")
        dev.sees(r"^upper +---  version 1 is ready")


def test_without_a_sandbox_it_says_so_and_how_to_go_on(folder: Path) -> None:
    with Dev(folder, path="/bin/nowhere") as dev:
        dev.sees("Functions do not run: ")
        dev.sees("slimq dev --unsafe-no-sandbox")
    (folder / "upper.py").write_text(UPPER)
    with Dev(folder, "--unsafe-no-sandbox") as dev:
        dev.sees("version 1 is ready")
        dev.add("upper", "hello")
        dev.sees("HELLO")


def test_the_two_commands_of_the_readme_run_a_function(folder: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("## A function in two commands")[2]
    block = section.partition("```sh\n")[2].partition("```")[0]
    make, curl = [line for line in block.splitlines() if line and line[0] != "#"]
    rule = (ROOT / "Makefile").read_text().partition(f"\n{make.removeprefix('make ')}: ")[2]
    assert rule.splitlines()[1] == "\t$(BIN)/slimq dev $(FOLDER)"
    shutil.copytree(ROOT / "examples" / "functions" / "crawl", folder / "crawl")
    with Dev(folder) as dev:
        dev.sees(r"^crawl +---  version 1 is ready")
        paste(curl.replace("localhost:3001", dev.url.removeprefix("http://")))
        dev.sees(r'^crawl +200  \S+  {"title":"A small site"')
        dev.sees(r'^crawl +200  \S+  {"title":"(Guide|More)"')
