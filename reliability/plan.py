"""What a release has to show: for each proof, the figures that its runs reach together.

A proof that is not named here runs once, in its release size. A figure of 0 has no goal, and is
summed all the same; all other figures are shown by their largest value.
"""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    """`shows` ends the sentence: this shows that ..."""

    shows: str
    figures: dict[str, int]


ONCE = Goal("", {})

PLAN = {
    "planted bugs": Goal(
        "the suite can fail: each bug is caught by the test that is named for it",
        {"planted": 0, "caught": 0},
    ),
    "T1": Goal(
        "kills at any moment lose nothing that was accepted, and make no half requests",
        {"kills": 2_000, "acked": 1_000_000},
    ),
    "T1b": Goal("so does a kill at every single system call of a life", {"kills": 0}),
    "T2": Goal("a power cut at any moment loses nothing that was accepted", {"images": 5_000}),
    "T2b": Goal(
        "neither does one on a file system that keeps no promise but fsync's", {"states": 200_000}
    ),
    "T2c": Goal(
        "damage is local, wherever the journal is cut or a bit of it flips",
        {"cuts": 50_000, "flips": 400_000, "holes": 0, "wrong": 0},
    ),
    "T3": Goal(
        "the promises hold in any order of faults, in simulated time",
        {"hours": 1_000, "seeds": 500, "faults": 10_000},
    ),
    "T4": Goal("accepting goes on while the store is down", {"jobs": 900_000, "rejected": 0}),
    "T5": Goal("no caller can break the surface", {"calls": 20_000}),
    "T6": Goal("a full disk refuses, and never lies", {"cycles": 100}),
    "T7": Goal("a failing or halting disk refuses, and never lies", {"faults": 0, "stalls": 0}),
    "T8": Goal(
        "both stores do what the model of a job's life does",
        {"sqlite_runs": 2_000, "postgres_runs": 2_000, "steps": 200_000, "differences": 0},
    ),
    "T9": Goal(
        "many nodes under faults lose nothing, and every second run has its fault",
        {"jobs": 150_000, "faults": 200},
    ),
    "T10": Goal("zombies change nothing, and their jobs are taken over in time", {"zombies": 0}),
    "T11": Goal("restarts under load lose nothing and cut off no answer", {"restarts": 0}),
    "T12": Goal("no client can starve another", {}),
    "T13": Goal("every content arrives as it was sent", {"cases": 200_000}),
    "T14": Goal("jobs that failed together do not come back together", {"jobs": 0}),
    "T15": Goal("an old snapshot and dead rows do not stop PostgreSQL", {}),
    "T17": Goal("slow callers are ended, and harm no other", {"callers": 0}),
}
