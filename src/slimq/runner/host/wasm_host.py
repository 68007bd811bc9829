"""The program inside a warm context of lang ``wasm``: `wasm_context/main.py` says more."""

import sys

# The first word is the folder that the package wasmtime is in.
sys.path.insert(0, __file__.rpartition("/")[0])
sys.path.append(sys.argv.pop(1))

from wasm_context.main import main

if __name__ == "__main__":
    main()
