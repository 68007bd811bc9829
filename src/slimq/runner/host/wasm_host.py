"""The program inside a warm context of lang ``wasm``: `wasm_context/main.py` says more."""

import sys
from importlib.util import module_from_spec, spec_from_file_location


def load(package: str) -> None:
    """Import wasmtime by its place: what is installed beside it may not even be listed here, so
    that a search would not find it."""
    spec = spec_from_file_location("wasmtime", f"{package}/__init__.py")
    if spec is None or spec.loader is None:
        raise ImportError(package)
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    load(sys.argv.pop(1))
    sys.path.insert(0, __file__.rpartition("/")[0])
    from wasm_context.main import main

    main()
