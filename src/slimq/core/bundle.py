"""The source of a function: its files, however they came.

::

    "def handler(event, context): ..."                        one file: main.py, main.js ...
    {"hash.py": "import lib ...", "lib.py": "...",            several, by their paths;
     "logo.png": {"base64": "iVBORw0K..."}}                   bytes that are no text in base64
    a zip                                                     becomes the second form

All forms are checked alike, and again wherever files are made of them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from slimq.core.handler import bad_field
from slimq.core.language import LANGUAGES, PYTHON
from slimq.core.limits import FUNCTION_BYTES_MAX, FUNCTION_DEPTH_MAX, FUNCTION_FILES_MAX

Files = dict[str, bytes]  # by path, with slashes, relative
Body = str | dict[str, Any]

ZIP_MARK = b"PK"  # what every zip starts with, and no source
WASM_MARK = b"\0asm"  # and every compiled module of WebAssembly

_NAME_MAX = 255  # bytes; what common filesystems take
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_body(lang: str, body: object) -> Files:
    """Return the files that the body of a handler holds; raise BadHandler naming the rule."""
    if isinstance(body, str):
        return _checked({LANGUAGES[lang].text: _encoded("body", body)})
    if not isinstance(body, Mapping):
        raise bad_field("body", 'the source as text, or {"path": "text", ...} for several files')
    return _checked({path: _content(path, value) for path, value in body.items()})


def to_body(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return files as the body of a handler holds them."""
    return {path: _written(files[path]) for path in sorted(files)}


def file_sizes(lang: str, body: object) -> dict[str, int]:
    """Return the bytes of each file that the body of a function holds, without looking closer."""
    files = body if isinstance(body, Mapping) else {LANGUAGES[lang].text: body}
    return {path: _size(files[path]) for path in sorted(files)}


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    written: str = value["base64"]
    return len(written) // 4 * 3 - written[-2:].count("=")


def read_zip(data: bytes) -> Files:
    """Return the files of a zip; raise BadHandler for one that is broken, too large when
    unpacked, or has anything but files and folders in it. What it claims is not believed."""
    files: Files = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for item in archive.infolist():
                if item.is_dir():
                    continue
                _check_item(item)
                if item.filename in files:
                    raise bad_field("body", f"{shown(item.filename)} is in the zip twice")
                room = FUNCTION_BYTES_MAX - sum(map(len, files.values()))
                with archive.open(item) as stream:
                    files[item.filename] = stream.read(room + 1)
                _check_size(files)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise bad_field("body", f"not a zip that can be read: {error}") from error
    return _checked(files)


def digest(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of files, the same for the same paths and contents."""
    whole = hashlib.sha256()
    for path in sorted(files):
        name = path.encode()
        whole.update(b"%d %d\n" % (len(name), len(files[path])) + name + files[path])
    return whole.hexdigest()


def _check_item(item: zipfile.ZipInfo) -> None:
    mode = item.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise bad_field("body", f"{shown(item.filename)} is a link or a device, not a file")
    if item.flag_bits & 1:
        raise bad_field("body", f"{shown(item.filename)} is encrypted")
    if item.compress_type not in _COMPRESSIONS:
        raise bad_field("body", f"{shown(item.filename)} is compressed by another way than deflate")
    if item.orig_filename != item.filename:
        raise bad_field("body", f"{shown(item.orig_filename)} has a NUL or backslash in its name")


def _content(path: object, value: object) -> bytes:
    field = f"body[{shown(path)}]"
    if isinstance(value, str):
        return _encoded(field, value)
    if isinstance(value, Mapping) and value.keys() == {"base64"}:
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            pass
    raise bad_field(field, 'the content as text, or as {"base64": "..."}')


def _written(content: bytes) -> Any:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def _encoded(field: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise bad_field(field, "valid Unicode") from None


def _checked(files: Files) -> Files:
    _check_size(files)
    if not files:
        raise bad_field("body", "at least one file")
    for path in files:
        _check_path(path)
        if path.endswith(f"/__init__{PYTHON}") and path[: -len("/__init__.py")] + PYTHON in files:
            raise bad_field("body", f"{shown(path)} collides with the module of the same name")
        folders = {path[:at] for at, char in enumerate(path) if char == "/"}
        for taken in folders & files.keys():
            rule = f"{shown(path)} collides: {shown(taken)} is both a file and a folder"
            raise bad_field("body", rule)
    return files


def _check_size(files: Mapping[str, bytes]) -> None:
    if len(files) > FUNCTION_FILES_MAX:
        raise bad_field("body", f"at most {FUNCTION_FILES_MAX} files")
    if sum(map(len, files.values())) > FUNCTION_BYTES_MAX:
        raise bad_field("body", f"at most {FUNCTION_BYTES_MAX} bytes in all files, unpacked")


def _check_path(path: object) -> None:
    if not isinstance(path, str) or not path.isprintable() or "\\" in path:
        raise bad_field("body", f"{shown(path)}: a path is printable text, without backslashes")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        rule = "a path is relative, and no part of it is empty, . or .."
        raise bad_field("body", f"{shown(path)}: {rule}")
    too_long = any(len(part.encode()) > _NAME_MAX for part in parts)
    if too_long or len(parts) > FUNCTION_DEPTH_MAX:
        rule = f"at most {FUNCTION_DEPTH_MAX} parts, each of at most {_NAME_MAX} bytes"
        raise bad_field("body", f"{shown(path)}: {rule}")


def shown(path: object) -> str:
    """Return a path as errors quote it."""
    text = ascii(path)
    return text if len(text) <= 80 else text[:80] + "..."
