"""RELIABILITY.md, from the lines of results.jsonl and the stories that are written by hand.

python reliability/page.py           writes it anew
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from plan import PLAN
from progress import goal_of
from results import FOLDER, ROOT, Line, of_last_commit, read, sums

PAGE = ROOT / "RELIABILITY.md"
STORIES = FOLDER / "stories.md"

_HEAD = """\
# Reliability

What the promises of [docs/guarantees.md](docs/guarantees.md) were put to before a release: kills,
power cuts, failing and full disks, simulated years, many nodes under faults. `make prove` runs
every proof in a small size, in ten minutes, and is a part of `make test`. `make prove-release`
runs them in the sizes below, with new seeds, adds a line for each run to
`reliability/results.jsonl`, and makes this page of those lines. A proof that found anything, once,
has failed.
"""
_REPEAT = """\
One run again, with its seed (without `SLIMQ_PROVE` it is the small size; a simulation has the same
trace each time, while kills and threads fall where they fall):

```sh
SLIMQ_PROVE=release SLIMQ_SEED=4711 .venv/bin/python -m pytest tests/...::test_...
```
"""
_NOTHING = "The release run of this version has not been made yet.\n"


def write() -> None:
    PAGE.write_text(page(read(), STORIES.read_text()))


def page(lines: Sequence[Line], stories: str) -> str:
    """Return the page: of the commit that was proved last, all runs."""
    last = of_last_commit(list(lines))
    return "\n".join([_HEAD, *(_results(last) if last else [_NOTHING]), stories])


def _results(lines: Sequence[Line]) -> list[str]:
    commit = lines[0]["commit"][:12]
    seconds = sum(line["seconds"] for line in lines)
    days = sorted({line["at"][:10] for line in lines})
    runs = f"{len(lines)} runs, {_time(seconds)} in all"
    return [
        f"Commit `{commit}`, {days[0]} to {days[-1]}, {runs}.\n",
        _machines(lines),
        "## Proofs\n",
        _table(["proof", "shows that", "figures", "runs", "time", "result"], _proofs(lines)),
        "## Runs\n",
        _REPEAT,
        _table(["proof", "test", "runs", "time", "seeds"], _tests(lines)),
    ]


def _machines(lines: Sequence[Line]) -> str:
    machines = {tuple(line["machine"].items()): line["machine"] for line in lines}
    rows = [
        [
            str(each["cores"]),
            f"{each['memory_gb']} GB",
            each["kernel"],
            each["filesystem"],
            each["python"],
        ]
        for each in machines.values()
    ]
    return _table(["cores", "memory", "kernel", "filesystem", "Python"], rows)


def _proofs(lines: Sequence[Line]) -> list[list[str]]:
    by_proof = _grouped(lines, "proof")
    order = [*PLAN, *sorted(by_proof.keys() - PLAN)]
    rows = []
    for proof in order:
        runs = by_proof.get(proof, [])
        time = _time(sum(line["seconds"] for line in runs)) if runs else ""
        shows = goal_of(proof).shows or _sentence(runs[0]["test"])
        rows.append([proof, shows, _figures(proof, runs), str(len(runs)), time])
        rows[-1].append(_verdict(proof, runs))
    return rows


def _verdict(proof: str, runs: Sequence[Line]) -> str:
    if not runs:
        return "not run"
    if failed := [str(line["seed"]) for line in runs if not line["passed"]]:
        return f"**failed** with seed {', '.join(failed)}"
    goals = goal_of(proof).figures
    reached = sums(runs, goals)
    if any(reached[name] < goal for name, goal in goals.items()):
        return "not reached yet"
    return "passed"


def _figures(proof: str, runs: Sequence[Line]) -> str:
    goals = goal_of(proof).figures
    parts = []
    for name, reached in sums(runs, goals).items():
        goal = f" (goal {goals[name]:,})" if goals[name] else ""
        parts.append(f"{reached:,} {_words(name)}{goal}")
    for name, values in _others(runs, goals).items():
        numbers = [value for value in values if not isinstance(value, str)]
        if numbers and any(numbers):
            parts.append(f"{_words(name)} up to {max(numbers):,}")
        else:
            parts.append(f"0 {_words(name)}" if numbers else f"{_words(name)} {values[-1]}")
    return ", ".join(parts)


def _others(runs: Iterable[Line], goals: dict[str, int]) -> dict[str, list[int | float | str]]:
    values: dict[str, list[int | float | str]] = defaultdict(list)
    for line in runs:
        for name, value in line["figures"].items():
            if name not in goals:
                values[name].append(value)
    return values


def _tests(lines: Sequence[Line]) -> list[list[str]]:
    rows = []
    for test, runs in sorted(_grouped(lines, "test").items(), key=_place):
        seeds = " ".join(str(line["seed"]) for line in runs)
        time = _time(sum(line["seconds"] for line in runs))
        rows.append([runs[0]["proof"], f"`{test}`", str(len(runs)), time, seeds])
    return rows


def _place(named: tuple[str, Sequence[Line]]) -> tuple[int, str, str]:
    order = list(PLAN)
    proof = named[1][0]["proof"]
    return (order.index(proof) if proof in PLAN else len(order), proof, named[0])


def _grouped(lines: Iterable[Line], name: str) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        groups[line[name]].append(line)
    return groups


def _sentence(test: str) -> str:
    return test.rpartition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped) + "\n"


if __name__ == "__main__":
    write()
