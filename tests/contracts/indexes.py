"""What every open_uploads must do. Subclass it, and say in a fixture `open_uploads` which one is meant."""

from __future__ import annotations

import asyncio

from tusserver.indexes.base import Listed, OpenUploads
from tusserver.protocol.upload import UploadId

A, B, C = (Listed(UploadId(name), size) for name, size in (("a", 5), ("b" * 128, 2**62), ("C-_9", 0)))


class OpenUploadsContract:
    """Lists that can be added to and struck out from, by several at once."""

    async def test_a_list_is_told_in_the_order_in_which_it_was_written(self, open_uploads: OpenUploads) -> None:
        sums = [await open_uploads.add("1.2.3.4", upload) for upload in (A, B, C)]
        assert sums == [(1, 5), (2, 2**62 + 5), (3, 2**62 + 5)]
        assert list(await open_uploads.read("1.2.3.4")) == [A, B, C]

    async def test_lists_know_nothing_of_each_other(self, open_uploads: OpenUploads) -> None:
        await open_uploads.add("1.2.3.4", A)
        assert await open_uploads.add("2001:db8:1:2::/64", B) == (1, 2**62)
        assert list(await open_uploads.read("2001:db8:1:2::/64")) == [B]
        assert list(await open_uploads.read("all")) == []

    async def test_what_is_struck_out_is_gone_and_what_was_added_meanwhile_is_not(
        self, open_uploads: OpenUploads
    ) -> None:
        for upload in (A, B):
            await open_uploads.add("x", upload)
        known = await open_uploads.read("x")
        await open_uploads.add("x", C)
        assert await open_uploads.replace("x", known, [A._replace(reserved=3)]) == 2
        assert list(await open_uploads.read("x")) == [(A.id, 3), C]
        assert await open_uploads.add("x", A) == (3, 8)

    async def test_who_comes_late_with_striking_out_changes_nothing(self, open_uploads: OpenUploads) -> None:
        for upload in (A, B, C):
            await open_uploads.add("x", upload)
        known = await open_uploads.read("x")
        await open_uploads.replace("x", known, [C])
        assert await open_uploads.replace("x", known, [A]) == 1
        assert list(await open_uploads.read("x")) == [C]

    async def test_a_list_of_which_nothing_is_left_is_forgotten(self, open_uploads: OpenUploads) -> None:
        await open_uploads.add("2001:db8::/64", A)
        assert list(await open_uploads.names(-1)) == ["2001:db8::/64"]
        assert await open_uploads.replace("2001:db8::/64", [A], []) == 0
        assert list(await open_uploads.names(-1)) == []
        assert await open_uploads.add("2001:db8::/64", B) == (1, 2**62)

    async def test_striking_out_from_a_list_that_is_not_there_makes_none(self, open_uploads: OpenUploads) -> None:
        assert await open_uploads.replace("x", [], []) == 0
        assert list(await open_uploads.names(-1)) == []

    async def test_of_many_who_add_at_once_each_gets_a_number_of_its_own(self, open_uploads: OpenUploads) -> None:
        uploads = [Listed(UploadId(f"upload-{number}"), 2) for number in range(50)]
        sums = await asyncio.gather(*(open_uploads.add("x", upload) for upload in uploads))
        assert sorted(sums) == [(number, 2 * number) for number in range(1, 51)]
        assert sorted(await open_uploads.read("x")) == sorted(uploads)
