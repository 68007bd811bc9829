"""What one turn of the event loop accepts goes to the journal together.

Else the first of 32 callers would be a group of its own, and the others would wait for
its fsync: measured, groups of 11 to 16 instead of nearly all.
"""

from __future__ import annotations

import asyncio

from slimq.journal.append import Append
from slimq.journal.commit import GroupCommit


class Turn:
    """Stands before a GroupCommit. Used on the event loop only."""

    def __init__(self, commit: GroupCommit) -> None:
        self._commit = commit
        self._appends: list[Append] = []

    def submit(self, append: Append) -> None:
        """Queue an append; the order of these calls is the order in the journal. Raises
        ShuttingDown once the journal is closed."""
        if not self._appends:
            self._commit.check_open()
            asyncio.get_running_loop().call_soon(self._end)
        self._appends.append(append)

    def _end(self) -> None:
        """The journal is open still: it is closed turns after the last caller is gone."""
        appends, self._appends = self._appends, []
        self._commit.submit(*appends)
