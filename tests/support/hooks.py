"""Hooks in memory: a second transport beside that of the package, which can answer all that the port can say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tusserver.hooks.base import AGREED, HookRequest, HookResponse, HookType
from tusserver.protocol.errors import UploadRejected
from tusserver.protocol.upload import Upload


class MemoryHooks:
    """Calls `application` by type, then answers what is in `responses`. Notes what it was asked and told."""

    def __init__(
        self,
        application: Mapping[HookType, Callable[[Upload], Awaitable[None]]] | None = None,
        responses: Mapping[HookType, HookResponse] | None = None,
    ) -> None:
        self.requests: list[HookRequest] = []
        self._application = dict(application or {})
        self._responses = dict(responses or {})

    def wants(self, kind: HookType) -> bool:
        """See `Hooks.wants`."""
        return kind in self._application or kind in self._responses

    async def ask(self, request: HookRequest) -> HookResponse:
        """See `Hooks.ask`."""
        self.requests.append(request)
        try:
            await self._call(request)
        except UploadRejected as error:
            return HookResponse(refusal=error)
        return self._responses.get(request.type, AGREED)

    async def tell(self, request: HookRequest) -> None:
        """See `Hooks.tell`."""
        self.requests.append(request)
        await self._call(request)

    async def _call(self, request: HookRequest) -> None:
        if (callback := self._application.get(request.type)) is not None:
            await callback(request.upload)
