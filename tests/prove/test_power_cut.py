"""Power cuts: of the disk below the file system anything is left that a disk may leave.

A node lives on an ext4 whose disk writes down each write and flush. For each of many moments
an image of that disk is made; it is mounted, its journal read into its store, and all that was
acknowledged before that moment must be there, once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from crash_kit import (
    LEFT,
    Disk,
    Images,
    check_file_system,
    mounted,
    need_disks,
    scratch,
)
from node_kit import Node, wait_until
from power_kit import Judge, Request, live, recover, when_run

from proof_kit import Proof

IMAGES_OF_A_LIFE = 500
BOOTS = 5
START_EVERY = 50  # on so many images one real node is started
FSCK_EVERY = 10
WINDOW_MS = 1000  # it is 50 ms, on a machine that has time for it


@pytest.mark.proof("T2")
@pytest.mark.timeout(300)
def test_after_a_power_cut_at_any_moment_all_that_was_acknowledged_is_there_once(
    proof: Proof,
) -> None:
    need_disks()
    chance = random.Random(proof.seed)
    wanted = proof.size(submission=300, release=5_000)
    figures: Counter[str] = Counter()
    window_ms = 0.0
    while figures["images"] < wanted:
        with scratch() as folder:
            count = min(IMAGES_OF_A_LIFE, wanted - figures["images"])
            judge = cut_again_and_again(folder, chance, count)
        most_ms = WINDOW_MS + longest_pause_ms(judge.requests)
        assert judge.window_ms <= most_ms, "more than the last that was buffered is lost"
        figures += judge.figures
        window_ms = max(window_ms, judge.window_ms)
    assert figures["purged_images"] > 0, "no power was cut after a purge"
    proof.report(**figures, lost=0, twice=0, window_ms=round(window_ms))


def longest_pause_ms(requests: Sequence[Request]) -> float:
    """Return for how long nothing was answered: a killed node that starts again syncs what it
    left then, which takes seconds on a busy machine."""
    answered = sorted(request.acked_at for request in requests if request.acked_at)
    return max(after - before for before, after in pairwise(answered)) / 1e6


def cut_again_and_again(folder: Path, chance: random.Random, count: int) -> Judge:
    """Let a node live, then cut its power at so many moments."""
    disk = Disk(folder)
    with disk.mounted() as place:
        requests = live(place, folder / "ran", chance, BOOTS)
    log = disk.log()
    judge = Judge(requests, when_run(folder / "ran"))
    images = Images(disk.base, log, chance)
    cuts = sorted(chance.choices(range(len(log)), k=count))
    for number, cut in enumerate(cuts):
        image, left = folder / "image", LEFT[number % len(LEFT)]
        print(f"the power is cut before entry {cut} of {len(log)}, what is left: {left}")
        images.make(image, cut, left)
        with mounted(image, folder / "cut") as place:
            judge.judge(recover(place / "data"), log[cut].at)
            if number % START_EVERY == START_EVERY - 1:
                start_on(place)
        if number % FSCK_EVERY == 0:
            check_file_system(image)
    return judge


def start_on(place: Path) -> None:
    """A node starts there, brings in what waits, and ends."""
    with Node(place) as node:
        wait_until(node.is_all_in, "the journal is in the store")
        assert node.problems() == ""
        assert node.quit() == 0
