"""What ``slimq doctor`` says about functions: what holds and what runs them on this machine."""

from __future__ import annotations

from slimq.cli.checkup import Check
from slimq.runner.programs import Missing, Programs, version_of
from slimq.runner.sandbox import Sandbox
from slimq.runner.sandbox_probe import examine


def sandbox(found: Sandbox) -> Check:
    """Launch a program in it, and say how well it is held. Without a sandbox a node is fit for
    all but functions: that is worth a warning."""
    level = examine(found)
    lacking = f": {level.lacking}" if level.lacking else ""
    detail = f"{level.summary}{lacking}"
    return Check("sandbox", "warn" if level.lacking else "ok", detail, level.advice)


def languages(programs: Programs) -> Check:
    """Ask each interpreter for its version. A node is fit without those that nobody needs: that
    one is missing is told, and is no warning; that one cannot be used is."""
    versions = {
        lang: each if isinstance(each, Missing) else version_of(each)
        for lang, each in programs.items()
    }
    broken = [
        str(version)
        for lang, version in versions.items()
        if isinstance(version, Missing) and not isinstance(programs[lang], Missing)
    ]
    said = [
        f"{lang} {version}" if isinstance(version, str) else f"no {lang} ({version})"
        for lang, version in versions.items()
    ]
    return Check("functions", "warn" if broken else "ok", ", ".join(said), "; ".join(broken))
