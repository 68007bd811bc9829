"""What runs inside a warm context of lang ``wasm``: a module of WebAssembly, by wasmtime. What is
the same as in contexts of lang ``python`` is taken from there."""
