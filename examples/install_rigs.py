"""See that this machine has what the rigs of the proofs are made of, else install it.

`make test` runs this first. What is missing is installed as root by apt-get, and nothing of it
is started; where that cannot be, it is said what is missing, and what then is not proved here:
those tests are skipped, and fail where CI is set. Its exit code is 1 then.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from packages import SBIN, can_install_packages, install_packages


class Rig(NamedTuple):
    """A Debian package, a command or file that shows that it is there, and what for."""

    package: str
    shown_by: str
    proves: str

    @property
    def is_there(self) -> bool:
        if "/" in self.shown_by:
            return any(Path("/").glob(self.shown_by))
        return shutil.which(self.shown_by, path=SBIN) is not None


RIGS = [
    Rig("libseccomp2", "usr/lib/*/libseccomp.so.2", "that the filter of system calls means them"),
    Rig("bubblewrap", "bwrap", "the sandbox of functions, and every way out of it"),
    Rig("iproute2", "ip", "machines in small: cut cables between nodes"),
    Rig("libfaketime", "usr/lib/*/faketime/libfaketime.so.1", "nodes whose clocks are wrong"),
    Rig("e2fsprogs", "mkfs.ext4", "power cuts on a real file system"),
    Rig("mount", "losetup", "power cuts and full disks on a real file system"),
]


def say(text: str) -> None:
    print(f"rigs: {text}", flush=True)


def main() -> int:
    if can_install_packages():
        install_packages(say, [rig.package for rig in RIGS if not rig.is_there])
    missing = [rig for rig in RIGS if not rig.is_there]
    for rig in missing:
        say(f"no {rig.package}; not proved here: {rig.proves}")
    if not missing:
        say("all there")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
