"""The program inside a warm context of lang ``python``: `python_context/main.py` says more."""

import sys

# Isolated Python looks nowhere but in its own library; and what is compiled once starts faster
# than this file, which never is.
sys.path.insert(0, __file__.rpartition("/")[0])

from python_context.main import main

if __name__ == "__main__":
    del sys.path[0]
    main()
