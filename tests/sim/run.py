"""Play one simulation, and say what happened: `python tests/sim/run.py --seed 7 --hours 2`."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sim.story import Story


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--hours", type=float, default=2.0)
    wants = parser.parse_args()
    story, since, broken = Story(wants.seed, wants.hours), time.process_time(), None
    try:
        story.run()
    except Exception as error:  # a promise that is broken, or a bug: both are to be seen
        broken = error
    tell(story, time.process_time() - since)
    if broken is None:
        return 0
    print(*story.world.last, sep="\n")
    traceback.print_exception(broken, file=sys.stdout)
    print(f"again: {story.command}")
    return 1


def tell(story: Story, seconds: float) -> None:
    for kind, count in sorted(story.world.faults.items()):
        print(f"{count:7} {kind}")
    for why, count in sorted(story.runs.again.items()):
        print(f"{count:7} ran again: {why}")
    print(f"{type(story.rig).__name__}, {len(story.nodes)} nodes, {seconds:.1f} s of CPU")
    print(", ".join(f"{name} {value}" for name, value in story.figures().items()))


if __name__ == "__main__":
    sys.exit(main())
