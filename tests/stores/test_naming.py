"""Readable names of finished files: safe, never overwriting, whatever a client calls its file."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.names import NAMES
from tests.support.uploads import changed
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file.finished import FIELDS, Template

UPLOAD = Upload(id=UploadId("abc"), created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), length=5, offset=5)


def called(name: str | bytes, **values: Any) -> Upload:
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
    return changed(UPLOAD, metadata=Metadata(f"filename {base64.b64encode(raw).decode()}"), **values)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"hello")
    return path


def linked(source: Path, upload: Upload, template: str = "{filename}", **options: int) -> str:
    """Give the file its name, and return that."""
    folder = source.parent / "finished"
    place = Template(folder, template, 0o700, **options).link(source, upload)
    assert place.read_bytes() == source.read_bytes()
    return str(place.relative_to(folder))


# templates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{filename}", "naïve.tar.gz"),
        ("{id}", "abc"),
        ("{id}-{filename}", "abc-naïve.tar.gz"),
        ("{stem}-{id}{suffix}", "naïve.tar-abc.gz"),
        ("{year}/{month}/{day}/{filename}", "2026/01/02/naïve.tar.gz"),
        ("uploads/{filename}", "uploads/naïve.tar.gz"),
    ],
)
def test_a_template_has_all_its_fields(source: Path, template: str, expected: str) -> None:
    assert linked(source, called("naïve.tar.gz"), template) == expected


def test_a_file_without_a_name_is_called_by_its_id(source: Path) -> None:
    assert linked(source, UPLOAD) == "abc"


def test_a_file_whose_name_has_nothing_safe_is_called_by_its_id(source: Path) -> None:
    assert linked(source, called("../..")) == "abc"


def test_a_field_that_is_empty_leaves_no_empty_folder_name(source: Path) -> None:
    assert linked(source, called("noext"), "{suffix}/{filename}") == "abc/noext"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=300) | NAMES, st.sampled_from(["{filename}", "{year}/{stem}/{filename}", "{stem}{suffix}"]))
@example("../../../evil", "{filename}")
@example("..", "{year}/{stem}/{filename}")
@example("a" * 5000, "{year}/{stem}/{filename}")
@example(b"\xff\xfe/\x00", "{filename}")
@example("{id}{0}{x}", "{filename}")
def test_no_name_leads_out_of_the_folder_or_cannot_be_made(source: Path, name: str | bytes, template: str) -> None:
    upload = called(name)
    folder = source.parent / "finished"
    place = Template(folder, template, 0o700).link(source, upload)
    try:
        assert ".." not in place.parts
        assert place.resolve().is_relative_to(folder.resolve())
        assert place.samefile(source)
    finally:
        place.unlink()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, min_size=2, max_size=6))
def test_no_file_is_ever_overwritten(tmp_path: Path, names: list[str]) -> None:
    template = Template(tmp_path / "finished", "{filename}", 0o700)
    places = []
    for number, name in enumerate(names):
        source = tmp_path / f"source{number}"
        source.write_bytes(str(number).encode())
        places.append(template.link(source, called(name, id=UploadId(f"id{number}"))))
        source.unlink()
    assert [place.read_text() for place in places] == [str(number) for number in range(len(names))]
    for place in places:
        place.unlink()


@pytest.mark.parametrize(
    "template",
    ["", "/{filename}", "../{filename}", "a/../{filename}", "./{filename}", "a//{filename}", "{filename}/"],
)
def test_a_template_that_leads_out_of_the_folder_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(ValueError, match=r"must be a relative path without \. and \.\."):
        Template(tmp_path, template, 0o700)


@pytest.mark.parametrize("template", ["{name}", "{", "{}", "{0}", "{id.x.y}", "{id!z}", "{id:d}"])
def test_a_template_that_cannot_be_read_is_refused_with_the_fields_there_are(tmp_path: Path, template: str) -> None:
    with pytest.raises(ValueError, match=r"its fields may be \{id\}, \{filename\}") as refusal:
        Template(tmp_path, template, 0o700)
    assert all(f"{{{field}}}" in str(refusal.value) for field in FIELDS)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"finished_folder .* cannot be made: Not a directory"):
        Template(tmp_path / "file" / "x", "{filename}", 0o700)


def test_a_folder_on_another_file_system_is_refused(tmp_path: Path) -> None:
    template = Template(tmp_path, "{filename}", 0o700)
    with pytest.raises(ValueError, match="must be on the same file system as /proc"):
        template.require_same_file_system(Path("/proc"))


# names that are taken ------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_gets_a_number(source: Path) -> None:
    folder = source.parent / "finished"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"first")
    assert linked(source, called("a.txt")) == "a (2).txt"
    source.write_bytes(b"changed")
    again = source.with_name("again")
    again.write_bytes(b"third")
    assert linked(again, called("a.txt")) == "a (3).txt"
    assert (folder / "a.txt").read_bytes() == b"first"


def test_a_name_that_is_this_very_file_already_is_taken_as_given(source: Path) -> None:
    assert linked(source, called("a.txt")) == "a.txt"
    assert linked(source, called("a.txt")) == "a.txt"


@pytest.mark.parametrize("leads", ["nowhere", "to the file itself", "to another file"])
def test_a_link_that_has_the_name_is_not_followed(source: Path, leads: str) -> None:
    folder = source.parent / "finished"
    folder.mkdir()
    other = source.with_name("other")
    other.write_bytes(b"precious")
    target = {"nowhere": folder / "missing", "to the file itself": source, "to another file": other}[leads]
    (folder / "a.txt").symlink_to(target)
    assert linked(source, called("a.txt")) == "a (2).txt"
    assert other.read_bytes() == b"precious"


def test_a_folder_that_has_the_name_is_left_alone(source: Path) -> None:
    (source.parent / "finished" / "a.txt").mkdir(parents=True)
    assert linked(source, called("a.txt")) == "a (2).txt"


def test_a_name_that_is_taken_too_often_gets_the_id(source: Path) -> None:
    folder = source.parent / "finished"
    folder.mkdir()
    for name in ("a.txt", "a (2).txt"):
        (folder / name).touch()
    assert linked(source, called("a.txt"), tries=3) == "a abc.txt"


def test_folders_of_names_are_made_for_the_owner_alone(source: Path) -> None:
    before = os.umask(0)
    try:
        linked(source, called("a.txt"), "{year}/{filename}")
    finally:
        os.umask(before)
    assert (source.parent / "finished" / "2026").stat().st_mode & 0o777 == 0o700


class Counted:
    """Counts the names that are tried and looked at."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.links = 0
        self.looks = 0
        patch.setattr(os, "link", self._counted("links", os.link))
        patch.setattr(os, "stat", self._counted("looks", os.stat))

    def _counted(self, what: str, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            setattr(self, what, getattr(self, what) + 1)
            return real(*args, **options)

        return call


def a_folder_with(source: Path, taken: Iterable[int]) -> Path:
    """A folder of finished files in which a.txt is taken, and these numbers of it."""
    folder = source.parent / "finished"
    folder.mkdir()
    (folder / "a.txt").touch()
    for number in taken:
        os.link(folder / "a.txt", folder / f"a ({number}).txt")
    return folder


def test_the_next_of_seven_thousand_names_is_found_in_a_few_tries(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_folder_with(source, range(2, 7001))
    counted = Counted(monkeypatch)
    assert linked(source, called("a.txt")) == "a (7001).txt"
    assert counted.links <= 6
    assert counted.looks <= 40


def test_one_process_remembers_the_last_number_of_a_name(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_folder_with(source, range(2, 1001))
    template = Template(folder, "{filename}", 0o700)
    assert template.link(source, called("a.txt")).name == "a (1001).txt"
    other = source.with_name("other")
    other.touch()
    counted = Counted(monkeypatch)
    assert template.link(other, called("a.txt")).name == "a (1002).txt"
    assert (counted.links, counted.looks) <= (6, 8)


def test_numbers_start_again_where_finished_files_were_moved_away(source: Path) -> None:
    folder = a_folder_with(source, range(2, 101))
    template = Template(folder, "{filename}", 0o700)
    assert template.link(source, called("a.txt")).name == "a (101).txt"
    for path in folder.iterdir():
        path.unlink()
    assert template.link(source, called("a.txt")).name == "a.txt"
    (folder / "a.txt").unlink()
    for number in (*range(2, 7), 1):
        (folder / ("a.txt" if number == 1 else f"a ({number}).txt")).touch()
    assert template.link(source, called("a.txt")).name == "a (7).txt"


def test_the_first_numbers_fill_gaps(source: Path) -> None:
    folder = a_folder_with(source, (2, 3, 4))
    template = Template(folder, "{filename}", 0o700)
    places = []
    for number in range(3):
        other = source.with_name(f"other{number}")
        other.touch()
        places.append(template.link(other, called("a.txt")).name)
        (folder / "a (3).txt").unlink(missing_ok=True)
    assert places == ["a (5).txt", "a (3).txt", "a (3).txt"]


@pytest.mark.parametrize("taken", [[2, 3, 4, 5, 7, 11, 19, 35], [2, 3, 4, 9, 1000], list(range(2, 60, 2))])
def test_a_number_between_gaps_is_free_and_nothing_is_overwritten(source: Path, taken: list[int]) -> None:
    folder = a_folder_with(source, taken)
    before = {path.name for path in folder.iterdir()}
    assert linked(source, called("a.txt")) not in before
    assert before < {path.name for path in folder.iterdir()}


def test_numbers_without_an_end_give_the_id(source: Path) -> None:
    taken, step = 4, 1
    numbers = [2, 3, 4]
    while taken < 1 << 42:
        taken, step = taken + step, 2 * step
        numbers.append(taken)
    a_folder_with(source, numbers)
    assert linked(source, called("a.txt")) == "a abc.txt"


@pytest.mark.parametrize("number", [1, 3, 500])
def test_a_crash_between_link_and_record_leaves_one_name_of_many(source: Path, number: int) -> None:
    """The file was linked before it died; its name is found again among all others."""
    folder = a_folder_with(source, range(2, 600))
    own = folder / ("a.txt" if number == 1 else f"a ({number}).txt")
    own.unlink()
    os.link(source, own)
    assert linked(source, called("a.txt")) == own.name
    assert source.stat().st_nlink == 2


def test_a_file_that_has_other_names_elsewhere_gets_its_own(source: Path) -> None:
    """A backup made of hard links."""
    folder = a_folder_with(source, [2])
    os.link(source, source.with_name("backup"))
    os.link(source, folder / "something else.txt")
    assert linked(source, called("a.txt")) == "a (3).txt"


def test_two_processes_that_find_the_same_number_free_both_get_one(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_folder_with(source, range(2, 100))
    real, rivals = os.link, [5]

    def link(what: Any, name: str, **options: Any) -> None:
        if name == f"a ({105 - rivals[0]}).txt" and rivals[0]:
            rivals[0] -= 1
            (folder / name).write_text("faster")
        real(what, name, **options)

    monkeypatch.setattr(os, "link", link)
    assert linked(source, called("a.txt")) == "a (105).txt"
    assert (folder / "a (100).txt").read_text() == "faster"


def test_many_threads_give_each_file_a_name_of_its_own(source: Path) -> None:
    folder = source.parent / "finished"
    template = Template(folder, "{filename}", 0o700)
    sources = [source.with_name(f"source{number}") for number in range(200)]
    for path in sources:
        path.write_text(path.name)
    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(lambda path: template.link(path, called("a.txt")), sources))
    assert [place.read_text() for place in places] == [path.name for path in sources]


def test_the_memory_of_numbers_is_bounded(source: Path) -> None:
    template = Template(source.parent / "finished", "{filename}", 0o700, remembered=3)
    for number in range(10):
        other = source.with_name(f"other{number}")
        other.touch()
        template.link(other, called(f"{number}.txt"))
    assert len(template._numbers._last) == 3
