from __future__ import annotations

import pytest

from tests.contracts.hooks import Application, Connect, HooksContract, Recorder, about
from tusserver.hooks.base import Hooks, HookType
from tusserver.hooks.callables import CallableHooks
from tusserver.protocol.errors import ShuttingDown, TusError, UploadLocked, UploadNotFound, UploadRejected

NAMES = {
    HookType.PRE_CREATE: "before_create",
    HookType.POST_CREATE: "on_created",
    HookType.PRE_FINISH: "on_finished",
    HookType.POST_TERMINATE: "on_terminated",
    HookType.POST_EXPIRE: "on_expired",
}


def connect_callables(application: Application) -> Hooks:
    return CallableHooks(**{NAMES[kind]: callback for kind, callback in application.items()})


class TestCallables(HooksContract):
    @pytest.fixture
    def connect(self) -> Connect:
        return connect_callables


async def test_what_a_callback_raises_when_it_is_told_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await CallableHooks(on_expired=Recorder(ZeroDivisionError())).tell(about(HookType.POST_EXPIRE))


@pytest.mark.parametrize("error", [UploadNotFound(), UploadLocked(), ShuttingDown()], ids=repr)
async def test_what_passes_by_itself_is_no_refusal_of_a_finished_upload(error: TusError) -> None:
    """A callback may ask us, as for another upload, and let pass what it gets."""
    with pytest.raises(type(error)):
        await CallableHooks(on_finished=Recorder(error)).ask(about(HookType.PRE_FINISH))


@pytest.mark.parametrize("error", [UploadNotFound(), ShuttingDown(), UploadRejected()], ids=repr)
async def test_whatever_refusal_comes_before_the_creation_is_one(error: TusError) -> None:
    response = await CallableHooks(before_create=Recorder(error)).ask(about(HookType.PRE_CREATE))
    assert response.refusal is error
