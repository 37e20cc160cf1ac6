"""The record: ids, what can be read off it, and its JSON form."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.uploads import changed
from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId, as_upload_id

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

ids = st.text(LETTERS, min_size=1, max_size=128).map(UploadId)
moments = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
numbers = st.integers(0, 2**63 - 1)
uploads = st.builds(
    Upload,
    id=ids,
    created_at=moments,
    offset=numbers,
    length=st.none() | numbers,
    metadata=st.text(st.characters(max_codepoint=255), max_size=40).map(Metadata),
    role=st.sampled_from(Role),
    concat=st.none() | st.text(st.characters(max_codepoint=255), max_size=40),
    parts=st.lists(ids, max_size=3).map(tuple),
    expires_at=st.none() | moments,
    finished=st.booleans(),
    complete=st.booleans(),
    protocol=st.sampled_from(["tus", "other"]),
    storage=st.fixed_dictionaries(
        {},
        optional={
            "path": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
            "mtime_ns": numbers.map(str),
            "key": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        },
    ),
)


def an_upload(**values: Any) -> Upload:
    return changed(Upload(id=UploadId("abc"), created_at=NOW), **values)


# ids -----------------------------------------------------------------------------------------------------------------


@given(ids)
def test_letters_digits_dash_and_underscore_make_an_id(text: str) -> None:
    assert as_upload_id(text) == text


@given(st.text(max_size=200) | st.text(LETTERS + "/.%\\\0\n ", max_size=140))
@example("")
@example(".")
@example("..")
@example("../../etc/passwd")
@example("..%2f..%2fetc%2fpasswd")
@example("a/b")
@example("a\0")
@example("abc\n")
@example("abc.record")
@example("é")
@example("٣")
@example("a" * 129)
@example("a" * 300)
def test_nothing_else_is_an_id(text: str) -> None:
    if re.fullmatch(rf"[{re.escape(LETTERS)}]{{1,128}}", text):
        assert as_upload_id(text) == text
    else:
        with pytest.raises(UploadNotFound):
            as_upload_id(text)


# what an upload says of itself ---------------------------------------------------------------------------------------


def test_what_is_complete_stays_so_where_it_is_and_not_at_another_offset() -> None:
    upload = an_upload(offset=10, length=10)
    assert upload.with_progress(10, expires_at=NOW, finished=True).complete
    assert not upload.with_progress(9, expires_at=NOW, finished=False).complete


@pytest.mark.parametrize(
    ("role", "offset", "length", "pending"),
    [
        (Role.FINAL, 0, None, True),
        (Role.FINAL, 0, 10, True),
        (Role.FINAL, 10, 10, False),
        (Role.FINAL, 0, 0, False),
        (Role.PARTIAL, 0, 10, False),
        (Role.REGULAR, 0, None, False),
    ],
)
def test_only_a_final_upload_without_its_bytes_is_pending(
    role: Role, offset: int, length: int | None, pending: bool
) -> None:
    assert an_upload(role=role, offset=offset, length=length).pending is pending


# JSON ----------------------------------------------------------------------------------------------------------------


@given(uploads)
def test_an_upload_comes_back_from_json_and_from_what_is_committed_with_every_request(upload: Upload) -> None:
    again = Upload.from_json(json.loads(json.dumps(upload.to_json())))
    again = again.with_progress(
        upload.offset, expires_at=upload.expires_at, finished=upload.finished, complete=upload.complete
    )
    assert again == upload


@pytest.mark.parametrize("storage", [{}, {"path": "/a"}])
def test_an_upload_can_be_copied_pickled_and_taken_apart(storage: dict[str, str]) -> None:
    upload = an_upload(storage=storage) if storage else an_upload()
    assert copy.deepcopy(upload) == upload
    assert pickle.loads(pickle.dumps(upload)) == upload
    assert dataclasses.asdict(upload)["storage"] == storage


@pytest.mark.parametrize("fact", ["yesterday", "", "007", "+1", "1_000", "1.5"])
def test_another_store_may_mean_something_else_by_the_names_of_the_file_store(fact: str) -> None:
    upload = an_upload(storage={"path": "bucket", "mtime_ns": fact})
    assert Upload.from_json(json.loads(json.dumps(upload.to_json()))).storage == upload.storage


def test_a_record_of_a_newer_version_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="record of format 3, this version reads up to 2"):
        Upload.from_json({**an_upload().to_json(), "format": 3})


def test_only_uploads_of_another_protocol_are_hidden_from_older_versions() -> None:
    """They would take one that has all its bytes for complete, and refuse a record of format 2."""
    assert an_upload().to_json()["format"] == 1
    assert "protocol" not in an_upload().to_json()
    assert an_upload(protocol="other").to_json()["format"] == 2
    assert Upload.from_json(an_upload(protocol="other").to_json()).protocol == "other"


@pytest.mark.parametrize("field", sorted(an_upload(protocol="other").to_json()))
def test_a_record_that_lacks_a_field_is_refused(field: str) -> None:
    data = an_upload(protocol="other").to_json()
    del data[field]
    with pytest.raises(KeyError):
        Upload.from_json(data)
