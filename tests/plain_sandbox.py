"""What stands for a sandbox where a test is not about it: functions run as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimq.runner.cell import Cell


@dataclass
class PlainLaunch:
    """A launch without a sandbox around it; `limits` that bound nothing."""

    argv: list[str]
    env: dict[str, str]
    pass_fds: Sequence[int] = ()

    @property
    def limits(self) -> PlainLaunch:
        return self

    def close_fds(self) -> None:
        """There are none."""

    def kill(self) -> None:
        """There is no group."""

    def hit(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        """There is no group."""


class PlainSandbox:
    """Runs functions as they are. For tests alone: they are our own. `cells` gets those that
    were asked for."""

    def __init__(self, cells: list[Cell] | None = None) -> None:
        self.cells = [] if cells is None else cells

    def launch(self, command: Sequence[str], cell: Cell) -> PlainLaunch:
        self.cells.append(cell)
        return PlainLaunch(list(command), cell.variables())
