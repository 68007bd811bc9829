"""What ``slimq doctor`` says about functions: what holds them on this machine."""

from __future__ import annotations

from slimq.cli.checkup import Check
from slimq.runner.sandbox import Sandbox
from slimq.runner.sandbox_probe import examine


def sandbox(found: Sandbox) -> Check:
    """Launch a program in it, and say how well it is held. Without a sandbox a node is fit for
    all but functions: that is worth a warning."""
    level = examine(found)
    lacking = f": {level.lacking}" if level.lacking else ""
    detail = f"{level.summary}{lacking}"
    return Check("sandbox", "warn" if level.lacking else "ok", detail, level.advice)
