"""Packages and environments of functions, with real wheels, virtualenvs and builders."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from function_kit import with_runner
from runner_kit import FunctionBench

from sandbox_kit import running
from slimq.core import status
from slimq.errors import BadHandler
from slimq.runner.environments import Interpreter
from slimq.runner.function import FunctionRunner
from slimq.runner.packages import command_of
from wheel_kit import builder_of, make_wheel, need_builder

SHOUT = "import shout\ndef handler(event, context): return shout.loud(event)\n"
LOUD = "def loud(data): return data.upper()\n"
WHERE = "import sys\ndef handler(event, context): return sys.prefix\n"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    need_builder()
    folder = tmp_path / "wheels"
    make_wheel(folder, "shout", "1.0", shout=LOUD)
    return folder


def built(functions: FunctionBench) -> list[str]:
    return sorted(path.name for path in (functions.folder / "packages").iterdir())


def test_packages_are_built_once_for_all_functions_that_need_the_same(
    functions: FunctionBench, wheels: Path
) -> None:
    async def work(runner: FunctionRunner) -> None:
        batches = [
            functions.of(SHOUT, [b"a"], requirements=["shout"]),
            functions.of({"f.py": SHOUT, "requirements.txt": "Shout\n"}, [b"a"], version=2),
            functions.of(
                '# /// script\n# dependencies = ["shout"]\n# ///\n' + SHOUT, [b"a"], version=3
            ),
        ]
        for ran in await asyncio.gather(*map(runner.run, batches)):
            assert [result.text for result in ran.results] == [b"A"]

    with_runner(functions, work, builder=builder_of(wheels))
    (name,) = built(functions)
    assert len(name) == 64
    assert (functions.folder / "packages" / name).stat().st_mode & 0o777 == 0o755
    # The next node finds them, and asks no builder.
    with_runner(functions, work, builder={"PATH": "/nowhere"})


def test_a_build_that_fails_refuses_the_deploy_with_the_last_words_of_the_builder(
    functions: FunctionBench, wheels: Path
) -> None:
    async def work(runner: FunctionRunner) -> None:
        batch = functions.of(SHOUT, [b"a"], requirements=["shout>=2"])
        with pytest.raises(BadHandler, match=r"(?s)shout>=2.*No matching distribution"):
            await runner.try_out(batch.handler)
        ran = await runner.run(batch)
        assert ran.results[0].status == status.RETRY_LATER
        assert "No matching distribution" in ran.results[0].error
        make_wheel(wheels, "shout", "2.0", shout=LOUD)
        batch = functions.of(SHOUT, [b"a"], requirements=["shout>=2"], version=2)
        await runner.try_out(batch.handler)  # a deploy tries anew at once
        assert (await runner.run(batch)).results[0].text == b"A"

    with_runner(functions, work, builder=builder_of(wheels))
    assert len(built(functions)) == 1


def test_nothing_that_is_built_runs_outside_a_context(
    functions: FunctionBench, wheels: Path, tmp_path: Path
) -> None:
    """A source distribution would run its build, as would an address: neither is taken."""
    mark = tmp_path / "ran"
    folder = tmp_path / "evil-1.0"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (folder / "backend.py").write_text(f"open({str(mark)!r}, 'w')\n")
    subprocess.run(["tar", "czf", wheels / "evil-1.0.tar.gz", "evil-1.0"], cwd=tmp_path, check=True)

    async def work(runner: FunctionRunner) -> None:
        batch = functions.of(SHOUT, [b"a"], requirements=["evil"])
        with pytest.raises(BadHandler, match="No matching distribution"):
            await runner.try_out(batch.handler)
        with pytest.raises(BadHandler, match="no address, path or option"):
            runner.check(
                functions.of(SHOUT, [b"a"], requirements=[f"evil @ file://{folder}"]).handler
            )

    with_runner(functions, work, builder=builder_of(wheels))
    assert not mark.exists()


def test_a_builder_that_is_stopped_leaves_nothing(functions: FunctionBench, wheels: Path) -> None:
    async def work(runner: FunctionRunner) -> None:
        batch = functions.of(SHOUT, [b"a"], requirements=["shout"])
        trying = asyncio.create_task(runner.try_out(batch.handler))
        loop = asyncio.get_running_loop()
        silent, _ = await loop.run_in_executor(None, index.accept)
        with silent:
            assert len(runner.facts()["building"]) == 1
            assert builders(functions) != []
            trying.cancel()
            await runner.close()
        assert builders(functions) == []

    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(60)
        address = f"http://127.0.0.1:{index.getsockname()[1]}/"
        builder = builder_of(wheels) | {"PIP_INDEX_URL": address}
        del builder["PIP_NO_INDEX"]
        with_runner(functions, work, builder=builder)
    assert built(functions) == []


def builders(functions: FunctionBench) -> list[int]:
    return running(str(functions.folder / "packages"))


def test_an_environment_is_shared_by_all_that_name_it(
    functions: FunctionBench, wheels: Path, tmp_path: Path
) -> None:
    venv = tmp_path / "imaging"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "inside.py").write_text("NAME = 'inside'\n")
    (site / "shout.py").write_text("def loud(data): return b'of the environment'\n")
    source = "import inside, sys\ndef handler(event, context): return [inside.NAME, sys.prefix]\n"

    async def work(runner: FunctionRunner) -> None:
        for version in (1, 2):
            batch = functions.of(source, [b"x"], eid="imaging", version=version)
            await runner.try_out(batch.handler)
            ran = await runner.run(batch)
            assert ran.results[0].text.decode() == f'["inside","{venv}"]'
        assert str(venv) in functions.cells[-1].readable
        plain = await runner.run(functions.of(source, [b"x"], version=3))
        assert "No module named 'inside'" in plain.results[0].error
        batch = functions.of(SHOUT, [b"x"], eid="imaging", version=4)
        assert (await runner.run(batch)).results[0].text == b"of the environment"
        batch = functions.of(SHOUT, [b"x"], eid="imaging", requirements=["shout"], version=5)
        assert (await runner.run(batch)).results[0].text == b"X"

    environments = {"imaging": str(venv)}
    with_runner(functions, work, environments=environments, builder=builder_of(wheels))


def test_an_environment_that_nobody_named_is_refused(functions: FunctionBench) -> None:
    async def work(runner: FunctionRunner) -> None:
        with pytest.raises(BadHandler, match=r"options\.eid: .* there are: imaging"):
            runner.check(functions.of(WHERE, [b"x"], eid="other").handler)

    with_runner(functions, work, environments={"imaging": sys.prefix})


@pytest.mark.parametrize("said", ["", "echo 3 9 1 cpython-39; echo /usr; echo /usr"])
def test_an_environment_that_does_not_run_or_is_too_old_is_told_at_the_deploy(
    functions: FunctionBench, tmp_path: Path, said: str
) -> None:
    python = tmp_path / "python"
    if said:
        python.write_text(f"#!/bin/sh\n{said}\n")
        python.chmod(0o755)

    async def work(runner: FunctionRunner) -> None:
        batch = functions.of(WHERE, [b"x"], eid="old")
        with pytest.raises(
            BadHandler, match=f"environment old .{python}. (does not run|is Python 3 9)"
        ):
            await runner.try_out(batch.handler)
        assert (await runner.run(batch)).results[0].status == status.RETRY_LATER

    with_runner(functions, work, environments={"old": str(python)})


def test_a_python_that_a_function_does_not_fit_is_told_at_the_deploy(
    functions: FunctionBench,
) -> None:
    async def work(runner: FunctionRunner) -> None:
        source = '# /// script\n# requires-python = ">=4.0"\n# ///\n' + WHERE
        with pytest.raises(BadHandler, match=r"needs Python >=4\.0; this is 3\."):
            await runner.try_out(functions.of(source, [b"x"]).handler)

    with_runner(functions, work)


def test_the_files_of_a_function_go_before_its_packages(
    functions: FunctionBench, wheels: Path
) -> None:
    async def work(runner: FunctionRunner) -> None:
        files = {"main.py": SHOUT, "shout.py": "def loud(data): return b'own'\n"}
        ran = await runner.run(functions.of(files, [b"x"], requirements=["shout"]))
        assert ran.results[0].text == b"own"

    with_runner(functions, work, builder=builder_of(wheels))


@pytest.mark.parametrize("variable", ["PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"])
def test_uv_builds_where_it_is_and_pip_was_given_no_settings(tmp_path: Path, variable: str) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    python = Interpreter(Path("/python"), (3, 11, 0), "tag", ())

    def builder(*files: str, **environ: str) -> str:
        return command_of(environ, python, tmp_path, ["x>=1"], files, tmp_path / "none")[0]

    assert builder(PATH=str(tmp_path)) == str(uv)
    assert builder(PATH="/nowhere") == sys.executable
    assert builder(PATH=str(tmp_path), **{variable: "x"}) == sys.executable
    assert builder("~/pip.conf", PATH=str(tmp_path), HOME=str(tmp_path)) == str(uv)
    (tmp_path / "pip.conf").touch()
    assert builder("~/pip.conf", PATH=str(tmp_path), HOME=str(tmp_path)) == sys.executable


def test_uv_is_found_beside_slimq_when_path_does_not_name_it(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    python = Interpreter(Path("/python"), (3, 11, 0), "tag", ())
    words = command_of({"PATH": "/nowhere"}, python, tmp_path, ["x>=1"], (), tmp_path)
    assert words[:3] == [str(uv), "pip", "install"]
