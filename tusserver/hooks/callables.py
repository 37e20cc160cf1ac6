"""Hooks that are coroutine functions of an embedding app, called in its own process and awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tusserver.hooks.base import AGREED, HookRequest, HookResponse, HookType
from tusserver.protocol.errors import TusError
from tusserver.protocol.upload import Upload

Callback = Callable[[Upload], Awaitable[None]]
"""Called with an upload as it is at that moment."""


class CallableHooks:
    """Calls what was given for the moment, if anything was. None of them is told later or again if it failed,
    except `on_finished`: that is asked until it returns.
    """

    def __init__(
        self,
        before_create: Callback | None = None,
        on_created: Callback | None = None,
        on_finished: Callback | None = None,
        on_terminated: Callback | None = None,
        on_expired: Callback | None = None,
    ) -> None:
        given = {
            HookType.PRE_CREATE: before_create,
            HookType.POST_CREATE: on_created,
            HookType.PRE_FINISH: on_finished,
            HookType.POST_TERMINATE: on_terminated,
            HookType.POST_EXPIRE: on_expired,
        }
        self._callbacks = {kind: callback for kind, callback in given.items() if callback is not None}

    def wants(self, kind: HookType) -> bool:
        """See `Hooks.wants`."""
        return kind in self._callbacks

    async def ask(self, request: HookRequest) -> HookResponse:
        """See `Hooks.ask`. A callback refuses by raising `UploadRejected`, or another 4xx that does not pass by itself.

        Before the creation anything that is raised refuses it.
        """
        try:
            await self._callbacks[request.type](request.upload)
        except TusError as error:
            if request.type is HookType.PRE_CREATE or _refuses(error):
                return HookResponse(refusal=error)
            raise
        return AGREED

    async def tell(self, request: HookRequest) -> None:
        """See `Hooks.tell`."""
        await self._callbacks[request.type](request.upload)


def _refuses(error: TusError) -> bool:
    """Whether a callback says no, and nothing that passes by itself or that it has met when it asked us."""
    return 400 <= error.status < 500 and error.status not in (404, 408, 409, 423, 429)
