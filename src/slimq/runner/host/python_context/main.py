r"""The life of a context: load a function, then run batch after batch until the node goes.

Started as ``python_host.py CONTROL BATCH ANSWER MODE FOLDER PACKAGES SITE MODULE NAME EVENT CLIENT
JOBTYPE VERSION MEMORY_MB``, where the first three are descriptors:

    CONTROL   SOCK_SEQPACKET. To here:  <size>                 run what is in BATCH
                              From here: B                     here we are; now the function
                                        Y<bytes>               it is loaded
                                        N<file>\0<line>\0<why> it cannot be run
                                        P<place> <done> <total> progress of a job
                                        D<bytes>               the batch is done
    BATCH     memory file, see `context.Batch`
    ANSWER    memory file, see `answer.Answer`

PACKAGES is the folder of those that the function needs, or ''. SITE is ``site`` when it finds what
is installed for this interpreter, else ''.

MODE is ``run``, or ``check``: compile all files and load the function, but call nothing of it.
Whoever ends before B does not do so because of the function. Bytes are the memory that this
process takes. Standard output and error are the log; nothing is
read from them.
"""

import os
import sys
from io import TextIOWrapper

from .answer import Answer
from .context import About
from .function import Function
from .loading import CannotStart, check_syntax, extend_path
from .values import summary, to_text

_MESSAGE_MAX = 4096


def main() -> None:
    control, batch, descriptor = (int(word) for word in sys.argv[1:4])
    mode, folder, packages, site, *words = sys.argv[4:]
    os.dup2(1, 2)  # one log, in the order in which it was said
    assert isinstance(sys.stdout, TextIOWrapper), "Python makes no other"
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.stderr = sys.stdout
    sys.argv = [words[0]]
    for each in (control, batch, descriptor):
        os.set_inheritable(each, False)
    answer = Answer(descriptor)
    _forbid_forks(answer, (control, batch, descriptor))
    os.write(control, b"B")
    function = _start(control, answer, mode, (folder, packages, site), words)
    if function is None:
        return
    memory = Memory()
    os.write(control, b"Y%d" % memory.taken())
    while size := os.read(control, 64):
        function.run(os.pread(batch, int(size), 0))
        _flush()
        os.write(control, b"D%d" % memory.taken())


def _start(
    control: int, answer: Answer, mode: str, places: tuple[str, str, str], words: list[str]
) -> Function | None:
    """Return the loaded function, or say why there is none."""
    folder = places[0]
    try:
        extend_path(*places)
        if mode == "check":
            check_syntax(folder)
        function = Function(answer, About(control, words[3:]), folder, words[:3])
        if mode == "run":
            function.before()
        return function
    except BaseException as error:
        why = error if isinstance(error, CannotStart) else CannotStart(_before_failed(error))
        said = f"N{why.file}\0{why.line}\0{why}"
        os.write(control, to_text(said)[:_MESSAGE_MAX])
        return None


def _before_failed(error: BaseException) -> str:
    return f"before failed: {summary(error)}"


def _forbid_forks(answer: Answer, descriptors: tuple[int, ...]) -> None:
    """A fork that a function makes is not the context: nothing it does is an answer."""

    def in_child() -> None:
        answer.leave()
        for each in descriptors:
            os.close(each)

    os.register_at_fork(after_in_child=in_child)


class Memory:
    """What this process takes. (The peak that getrusage tells is at first that of the node.)"""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/statm", os.O_RDONLY)
        self._page = os.sysconf("SC_PAGE_SIZE")

    def taken(self) -> int:
        try:
            return int(os.pread(self._file, 100, 0).split()[1]) * self._page
        except (OSError, IndexError):  # a function closed it
            return 0


def _flush() -> None:
    try:
        sys.stdout.flush()
    except Exception:  # a function may have closed or replaced it
        return
