"""What every workload is given."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from node import Node, serving
from receiver import Receiver, receiving


@dataclass
class Bench:
    """`scale` shortens a run: figures of a run below 1 say that it works, nothing more."""

    folder: Path
    scale: float = 1.0
    _number: count[int] = field(default_factory=count)

    def jobs(self, full: int) -> int:
        """Return how many jobs to run: at least a thousandth of the whole, and 10."""
        return max(10, full // 1000, int(full * self.scale))

    def runs(self, full: int) -> int:
        return max(1, round(full * min(1.0, 2 * self.scale)))

    def seconds(self, full: float) -> float:
        return max(0.2, full * self.scale)

    def new_folder(self) -> Path:
        """Return the path of a folder that is not there yet."""
        return self.folder / str(next(self._number))

    @contextmanager
    def limits_folder(self) -> Iterator[Path]:
        folder = self.new_folder()
        folder.mkdir()
        yield folder

    @contextmanager
    def node(self, store_url: str = "", folder: Path | None = None) -> Iterator[Node]:
        """Run a node of its own data, whose store is a file beside it or has an address."""
        settings = {"SLIMQ_STORE__URL": store_url} if store_url else {}
        with serving(folder or self.new_folder(), settings) as node:
            yield node

    @contextmanager
    def receiver(self) -> Iterator[Receiver]:
        with receiving() as receiver:
            yield receiver


def in_turns(runs: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure each in turn, `runs` times: what disturbs the machine then disturbs the node
    and its limits alike. Return the values of each."""
    rounds = [[measure() for measure in measures] for _ in range(runs)]
    return [list(values) for values in zip(*rounds, strict=True)]


def tell(text: str) -> None:
    """Say how far it is; standard output is for the figures."""
    print(f"  {text}", file=sys.stderr, flush=True)
