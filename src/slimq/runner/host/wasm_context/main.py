"""The life of a context: compile a module, then run an instance of it for each batch.

Started with the same words and descriptors as `python_context/main.py`, which describes the
protocol; here MODULE is the path of a file, and there are no PACKAGES and no SITE.
"""

import os
import sys

from python_context.answer import Answer
from python_context.context import About
from python_context.loading import CannotStart
from python_context.main import Memory
from python_context.values import summary, to_text

from .module import Module

_MESSAGE_MAX = 4096


def main() -> None:
    control, batch, descriptor = (int(word) for word in sys.argv[1:4])
    _mode, folder, _packages, _site, file, _name, _event, *about = sys.argv[4:]
    os.dup2(1, 2)  # one log, in the order in which it was said
    memory = Memory()
    os.write(control, b"B")
    try:
        answer = Answer(descriptor)
        module = Module(answer, About(control, about), folder, file, memory.taken)
    except CannotStart as error:
        said = f"N{error.file}\0{error.line}\0{error}"
        os.write(control, to_text(said)[:_MESSAGE_MAX])
        return
    except Exception as error:
        os.write(control, to_text(f"N{file}\0\0{summary(error)}")[:_MESSAGE_MAX])
        return
    os.write(control, b"Y%d" % memory.taken())
    while size := os.read(control, 64):
        module.run(os.pread(batch, int(size), 0))
        os.write(control, b"D%d" % memory.taken())
