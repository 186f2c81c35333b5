"""What may be published, and what is refused by its name."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.content import check_files, check_relative, shown

NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=20)


def test_files_are_listed_in_order_and_empty_folders_left_out(tmp_path: Path) -> None:
    """Paths with slashes, sorted; a folder without files is nothing that a store could keep."""
    for name in ("b/model.onnx", "a.txt", "b/deep/er/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "model.savedmodel" / "assets").mkdir(parents=True)

    assert check_files(tmp_path) == ("a.txt", "b/deep/er/x", "b/model.onnx")


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    """Links to files and folders of the same model are as good as these."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights").write_text("w")
    (tmp_path / "1").symlink_to("data")
    (tmp_path / "model.onnx").symlink_to(tmp_path / "data" / "weights")

    assert check_files(tmp_path) == ("1/weights", "data/weights", "model.onnx")


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    """Only what is in it matters."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").touch()
    (tmp_path / "link").symlink_to("real")

    assert check_files(tmp_path / "link") == ("x",)


def outside(folder: Path) -> None:
    (folder.parent / "secret").write_text("s")
    (folder / "sub").mkdir()
    (folder / "sub" / "stolen").symlink_to("../../secret")


def socket_in(folder: Path) -> None:
    where = Path.cwd()
    os.chdir(folder)  # a socket's path may have 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("talk")
    finally:
        os.chdir(where)


def circle(folder: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")


def pair(first: str, second: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / first).touch()
        (folder / second).mkdir()
        (folder / second / "x").touch()

    return make


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "relative link out": (outside, r"sub/stolen is a link that leaves the folder, to .*secret"),
    "absolute link out": (lambda folder: (folder / "passwd").symlink_to("/etc/passwd"), r"passwd is a link that leaves the folder"),
    "link to a folder out": (lambda folder: (folder / "etc").symlink_to("/etc"), r"etc is a link that leaves the folder"),
    "broken link": (lambda folder: (folder / "gone").symlink_to("nowhere"), r"gone is a link to nowhere that is broken"),
    "links in a circle": (circle, r"one is a link to two that goes in circles"),
    "link to its own folder": (lambda folder: (folder / "again").symlink_to("."), r"again is a link to a folder above it"),
    "fifo": (lambda folder: os.mkfifo(folder / "pipe"), r"pipe is a fifo; only plain files"),
    "socket": (socket_in, r"talk is a socket; only plain files"),
    "link to a device": (lambda folder: (folder / "null").symlink_to("/dev/null"), r"null is a link that leaves"),
    "names that differ in case": (pair("Model.py", "model.py"), r"differ only in case: Model.py and model.py"),
    "one name in Unicode": (pair("caf\u00e9", "cafe\u0301"), r"one name in Unicode \(NFC\): 'cafe\\u0301' and 'caf\\xe9'"),
    "newline": (lambda folder: (folder / "a\nb").touch(), r"a\\nb: the name has the control character '\\n'"),
    "escape": (lambda folder: (folder / "a\x1b[2J").touch(), r"a\\x1b\[2J: the name has the control character"),
    "backslash": (lambda folder: (folder / "..\\x").touch(), r"a backslash"),
    "not UTF-8": (lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9")).touch(), r"caf\\udce9: the name is not UTF-8"),
    "empty": (lambda folder: (folder / "only" / "folders").mkdir(parents=True), r"is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_published_is_named(tmp_path: Path, case: str) -> None:
    """Each refusal names the very file, in a text that can always be printed."""
    folder = tmp_path / "model"
    folder.mkdir()
    make, message = REFUSED[case]
    make(folder)

    with pytest.raises(RepositoryError, match=message) as refused:
        check_files(folder)
    str(refused.value).encode("utf-8")


def test_no_folder_is_refused(tmp_path: Path) -> None:
    """A file, or nothing at all."""
    with pytest.raises(RepositoryError, match="gone is no folder"):
        check_files(tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Found out before anything is published."""
    (tmp_path / "locked").touch(mode=0o000)

    with pytest.raises(RepositoryError, match="locked cannot be read"):
        check_files(tmp_path)


@pytest.mark.parametrize("path", ["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "./a", "a/", "a/.", "a\\b", "a\nb", "\udcff"])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    """By its text alone, whatever lies there."""
    with pytest.raises(RepositoryError):
        check_relative(path)


@given(st.lists(NAMES, min_size=1, max_size=4).map("/".join))
def test_a_path_is_accepted_only_below_its_folder(path: str) -> None:
    """What is accepted stays below any folder and can be encoded; what is refused is refused with a text that can be printed."""
    try:
        accepted = check_relative(path)
    except RepositoryError as error:
        str(error).encode("utf-8")
        return
    assert accepted == path
    path.encode("utf-8")
    assert os.path.normpath(f"/folder/{path}") == f"/folder/{path}"


@given(st.text(st.characters(exclude_characters="\0")))
def test_every_path_can_be_shown(path: str) -> None:
    """On one line, in any encoding that a terminal may have."""
    assert "\n" not in shown(path)
    shown(path).encode("utf-8")
