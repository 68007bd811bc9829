"""What may be the source of a function, in each of its forms."""

from __future__ import annotations

import io
import stat
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimq.core.bundle import digest, read_body, read_zip, to_body
from slimq.core.limits import FUNCTION_BYTES_MAX, FUNCTION_FILES_MAX, MIB
from slimq.errors import BadHandler

NAMES = st.text("abcde", min_size=1, max_size=5)
FILES = st.dictionaries(NAMES.map(lambda name: f"{name}.txt"), st.binary(), min_size=1)


def zipped(
    files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED, mode: int = stat.S_IFREG
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            item = zipfile.ZipInfo(name)
            item.external_attr = (mode | 0o644) << 16
            item.compress_type = compression
            archive.writestr(item, content)
    return stream.getvalue()


def refusal(work: Any, *arguments: Any) -> str:
    with pytest.raises(BadHandler) as refused:
        work(*arguments)
    return refused.value.detail


def test_text_is_one_file() -> None:
    assert read_body("python", "x = 1") == {"main.py": b"x = 1"}
    assert read_body("node", "x = 1") == {"main.js": b"x = 1"}
    assert read_body("deno", "x = 1") == {"main.ts": b"x = 1"}


@given(FILES)
def test_every_content_comes_back_from_the_form_in_which_it_is_kept(files: dict[str, bytes]):
    body = to_body(files)
    assert read_body("python", body) == files
    assert digest(read_body("python", body)) == digest(files)


@given(FILES)
def test_a_zip_is_the_files_in_it(files: dict[str, bytes]):
    assert read_zip(zipped(files)) == files
    assert read_zip(zipped(files, zipfile.ZIP_STORED)) == files


def test_folders_in_a_zip_are_passed_over() -> None:
    assert read_zip(zipped({"lib/": b"", "lib/a.py": b"1"})) == {"lib/a.py": b"1"}


@given(FILES, FILES)
def test_other_files_have_another_digest(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x.py", "a/../x.py", "a//x.py", "./x.py", "a/", "", "a\\x.py", "a\0.py",
     "a\nb", "x" * 256, "/".join("a" * 17), "..", "\ud800.py"],
)  # fmt: skip
def test_a_path_that_leaves_its_folder_or_is_none_is_refused(path: str) -> None:
    refusal(read_body, "python", {path: ""})


@pytest.mark.parametrize("path", ["../x.py", "/etc/passwd", "a/../../x.py", "a\\x.py"])
def test_so_is_one_in_a_zip(path: str) -> None:
    refusal(read_zip, zipped({path: b"x"}))


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_link_or_a_device_in_a_zip_is_refused(mode: int) -> None:
    assert "is a link or a device" in refusal(read_zip, zipped({"x": b"/etc"}, mode=mode))


def test_a_zip_that_unpacks_to_too_much_is_refused_however_small_it_is() -> None:
    bomb = zipped({"zeros": bytes(64 * MIB)})
    assert len(bomb) < MIB
    assert "at most" in refusal(read_zip, bomb)


def test_a_zip_that_lies_about_its_sizes_is_refused_as_well() -> None:
    bomb = zipped({"zeros": bytes(64 * MIB)})
    size = (64 * MIB).to_bytes(4, "little")
    assert bomb.count(size) == 2
    refusal(read_zip, bomb.replace(size, (10).to_bytes(4, "little")))


def test_a_file_that_is_there_twice_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.py", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.py", "2")
    assert "twice" in refusal(read_zip, stream.getvalue())


def test_an_encrypted_or_strangely_compressed_file_is_refused() -> None:
    plain = zipped({"x.py": b"1"}, zipfile.ZIP_STORED)
    at = plain.index(b"PK\x01\x02")
    encrypted = plain[: at + 8] + b"\x01" + plain[at + 9 :]
    assert "is encrypted" in refusal(read_zip, encrypted)
    assert "deflate" in refusal(read_zip, zipped({"x.py": b"1"}, zipfile.ZIP_LZMA))


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_broken_zip_is_refused_and_nothing_worse(noise: bytes, at: int) -> None:
    whole = zipped({"x.py": b"def handler(event, context): pass\n" * 5})
    broken = whole[:at] + noise + whole[at + len(noise) :]
    try:
        read_zip(broken)
    except BadHandler:
        return


@pytest.mark.parametrize(
    "body",
    [
        {},
        None,
        ["x"],
        3,
        {"x.py": 3},
        {"x.py": {"base64": "?"}},
        {"x.py": {"base64": 3}},
        {"x.py": {"base64": "", "more": 1}},
        {"x.py": "\ud800"},
        "\ud800",
        {"a": "", "a/b": ""},
        {"a.py": "", "a/__init__.py": ""},
        {str(number): "" for number in range(FUNCTION_FILES_MAX + 1)},
        "x" * (FUNCTION_BYTES_MAX + 1),
        {"a": "x" * FUNCTION_BYTES_MAX, "b": "x"},
    ],
)
def test_a_body_that_is_no_source_is_refused(body: Any) -> None:
    assert refusal(read_body, "python", body).startswith("body")
