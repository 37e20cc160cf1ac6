"""Asks an application, while a body comes in, whether more of it is wanted."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from tusserver.hooks.base import HookResponse
from tusserver.protocol.dialect import RequestContext
from tusserver.protocol.upload import Upload
from tusserver.service.intake import Intake
from tusserver.service.lifecycle import Lifecycle

logger = logging.getLogger("tusserver")

INTERVAL = 1.0
"""Seconds between two questions about one body."""


class PostReceive:
    """Of one body. The body does not wait for an answer, and a question that fails changes nothing."""

    def __init__(self, lifecycle: Lifecycle, intake: Intake, context: RequestContext) -> None:
        self._lifecycle = lifecycle
        self._intake = intake
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._asked_at = self._loop.time()
        self._asking: asyncio.Task[None] | None = None
        self._refusal: HookResponse | None = None

    @property
    def stopped(self) -> bool:
        """Whether the application ended the body: then the upload is to be removed. Not if it ended before."""
        return self._refusal is not None and self._intake.stop_reason is self._refusal.refusal

    def raise_refusal(self) -> NoReturn:
        """Raise why the body was stopped, and let go of it."""
        response, self._refusal = self._refusal, None
        assert response is not None
        refusal, answer = response.refusal, response.answer
        del response
        assert refusal is not None
        self._intake.forget_stop_reason()
        if answer is not None:
            self._context.set_answer(answer, refusal)
        try:
            raise refusal
        finally:
            del refusal  # its traceback holds this frame

    def committed(self, upload: Upload) -> None:
        """Ask about an upload that got bytes, unless that was done just now."""
        now = self._loop.time()
        if self._asking is None and now - self._asked_at >= INTERVAL:
            self._asked_at = now
            self._asking = self._loop.create_task(self._ask(upload))

    async def _ask(self, upload: Upload) -> None:
        try:
            response = await self._lifecycle.ask_while_receiving(upload, self._context)
        except Exception:
            logger.warning("asking about a body failed", exc_info=True, extra={"upload_id": upload.id})
        else:
            if response.refusal is not None:
                self._refusal = response
                self._intake.stop(response.refusal)
            elif response.answer is not None:
                self._context.set_answer(response.answer, None)
        finally:
            self._asking = None

    async def end(self) -> None:
        """Ask no more; an answer that is not here yet is not waited for."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
