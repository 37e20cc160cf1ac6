"""What every transport of hooks must do. Subclass `HooksContract` and say in a fixture `connect` how one is made.

An application is a function for each type that it wants: it gets the upload, and agrees by returning, refuses by
raising `UploadRejected`, and fails by raising anything else. A transport may carry more than that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import pytest

from tusserver.hooks.base import HookRequest, Hooks, HookType
from tusserver.protocol.errors import UploadRejected
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Upload, UploadId

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
UPLOAD = Upload(id=UploadId("abc"), created_at=NOW, length=5, metadata=Metadata("filename Yi5iaW4="))

Application = Mapping[HookType, Callable[[Upload], Awaitable[None]]]
Connect = Callable[[Application], Hooks]

ASKED = (HookType.PRE_CREATE, HookType.PRE_FINISH)
"""Questions that every transport carries."""
TOLD = (HookType.POST_CREATE, HookType.POST_TERMINATE, HookType.POST_EXPIRE)
"""Likewise what is told."""


def about(kind: HookType, upload: Upload = UPLOAD) -> HookRequest:
    return HookRequest(type=kind, upload=upload, context=None, at=NOW)


class Recorder:
    """An application that notes each upload that it gets, and then raises what it was made with."""

    def __init__(self, error: Exception | None = None) -> None:
        self.uploads: list[Upload] = []
        self.error = error

    async def __call__(self, upload: Upload) -> None:
        self.uploads.append(upload)
        if self.error is not None:
            raise self.error


class HooksContract:
    """Tests that every transport passes."""

    @pytest.fixture
    def connect(self) -> Connect:
        """Return what connects an application to a fresh transport."""
        raise NotImplementedError

    async def delivered(self, hooks: Hooks) -> None:
        """Wait until everything that was told has reached the application; for transports that deliver later."""

    # what is wanted --------------------------------------------------------------------------------------------------

    async def test_what_an_application_did_not_ask_for_is_not_wanted(self, connect: Connect) -> None:
        hooks = connect({HookType.PRE_CREATE: Recorder(), HookType.POST_EXPIRE: Recorder()})
        assert [kind for kind in HookType if hooks.wants(kind)] == [HookType.PRE_CREATE, HookType.POST_EXPIRE]

    async def test_an_application_that_asked_for_nothing_wants_nothing(self, connect: Connect) -> None:
        hooks = connect({})
        assert not any(hooks.wants(kind) for kind in HookType)

    async def test_what_is_wanted_stays_so_after_a_failure(self, connect: Connect) -> None:
        hooks = connect({HookType.PRE_FINISH: Recorder(RuntimeError("not now"))})
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever a transport raises is a failure
            await hooks.ask(about(HookType.PRE_FINISH))
        assert hooks.wants(HookType.PRE_FINISH)

    # questions -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ASKED)
    async def test_an_application_that_agrees_changes_nothing(self, connect: Connect, kind: HookType) -> None:
        application = Recorder()
        response = await connect({kind: application}).ask(about(kind))
        assert (response.refusal, response.changes, response.answer) == (None, None, None)
        assert [(upload.id, upload.length, upload.metadata.text) for upload in application.uploads] == [
            (UPLOAD.id, 5, "filename Yi5iaW4=")
        ]

    @pytest.mark.parametrize("kind", ASKED)
    async def test_a_refusal_is_an_answer_with_the_status_that_the_application_chose(
        self, connect: Connect, kind: HookType
    ) -> None:
        hooks = connect({kind: Recorder(UploadRejected("not you", status=402))})
        refusal = (await hooks.ask(about(kind))).refusal
        assert refusal is not None
        assert (refusal.status, "not you" in str(refusal)) == (402, True)

    @pytest.mark.parametrize("kind", ASKED)
    async def test_an_application_that_fails_has_not_answered(self, connect: Connect, kind: HookType) -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever a transport raises is a failure
            await connect({kind: Recorder(RuntimeError("not now"))}).ask(about(kind))

    async def test_the_same_can_be_asked_again(self, connect: Connect) -> None:
        application = Recorder(RuntimeError("not now"))
        hooks = connect({HookType.PRE_FINISH: application})
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever a transport raises is a failure
            await hooks.ask(about(HookType.PRE_FINISH))
        application.error = None
        assert (await hooks.ask(about(HookType.PRE_FINISH))).refusal is None

    async def test_a_question_can_be_cancelled(self, connect: Connect) -> None:
        started = asyncio.Event()

        async def hang(upload: Upload) -> None:
            started.set()
            await asyncio.Event().wait()

        asking = asyncio.ensure_future(connect({HookType.PRE_CREATE: hang}).ask(about(HookType.PRE_CREATE)))
        await started.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    async def test_questions_about_two_uploads_are_answered_side_by_side(self, connect: Connect) -> None:
        both = asyncio.Barrier(2)

        async def meet(upload: Upload) -> None:
            await both.wait()

        hooks = connect({HookType.PRE_CREATE: meet})
        async with asyncio.timeout(30):
            await asyncio.gather(*(hooks.ask(about(HookType.PRE_CREATE)) for _ in range(2)))

    # what is told ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", TOLD)
    async def test_what_is_told_reaches_the_application_that_wants_it(self, connect: Connect, kind: HookType) -> None:
        application, other = Recorder(), Recorder()
        hooks = connect({kind: application, HookType.PRE_CREATE: other})
        await hooks.tell(about(kind))
        await self.delivered(hooks)
        assert ([upload.id for upload in application.uploads], other.uploads) == ([UPLOAD.id], [])
