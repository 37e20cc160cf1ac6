from __future__ import annotations

from datetime import timedelta

import pytest

from tests.contracts.hooks import NOW, UPLOAD
from tusserver.hooks.base import HookType, UploadChanges
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import UploadId


def test_the_names_of_hooks_are_those_of_tusd_and_one_of_ours() -> None:
    assert [str(kind) for kind in HookType] == [
        "pre-create",
        "post-create",
        "post-receive",
        "pre-finish",
        "post-finish",
        "pre-terminate",
        "post-terminate",
        "post-expire",
    ]


def test_changes_that_say_nothing_change_nothing() -> None:
    assert UploadChanges().apply(UPLOAD) == UPLOAD


def test_changes_are_in_the_record_that_is_stored() -> None:
    later = NOW + timedelta(hours=1)
    changes = UploadChanges(id=UploadId("mine"), metadata=Metadata("a Yg=="), expires_at=later)
    changed = changes.apply(UPLOAD)
    assert (changed.id, changed.metadata.text, changed.expires_at) == ("mine", "a Yg==", later)


@pytest.mark.parametrize(
    "changes",
    [
        UploadChanges(id=UploadId("../../evil")),
        UploadChanges(id=UploadId("")),
        UploadChanges(id=UploadId("x" * 129)),
        UploadChanges(metadata=Metadata("no base64!")),
        UploadChanges(metadata=Metadata("a Yg==\r\nX: y")),
    ],
)
def test_what_is_no_id_and_no_metadata_is_not_stored(changes: UploadChanges) -> None:
    with pytest.raises(ValueError, match="a hook gave"):
        changes.apply(UPLOAD)
