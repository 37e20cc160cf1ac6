"""Asks an application, while a body comes in, whether more of it is wanted."""

from __future__ import annotations

import asyncio
import logging

from tusserver.protocol.dialect import RequestContext
from tusserver.protocol.errors import TusError
from tusserver.protocol.upload import Upload
from tusserver.service.intake import Intake
from tusserver.service.lifecycle import Lifecycle

logger = logging.getLogger("tusserver")

INTERVAL = 1.0
"""Seconds between two questions about one body."""


class PostReceive:
    """Of one body. The body does not wait for an answer, and a question that fails changes nothing."""

    def __init__(self, lifecycle: Lifecycle, intake: Intake, context: RequestContext) -> None:
        self.refusal: TusError | None = None
        """Why the application stopped the body, if it did: then the upload is to be removed."""
        self._lifecycle = lifecycle
        self._intake = intake
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._asked_at = self._loop.time()
        self._asking: asyncio.Task[None] | None = None

    def committed(self, upload: Upload) -> None:
        """Ask about an upload that got bytes, unless that was done just now."""
        now = self._loop.time()
        if self._asking is None and now - self._asked_at >= INTERVAL:
            self._asked_at = now
            self._asking = self._loop.create_task(self._ask(upload))

    async def _ask(self, upload: Upload) -> None:
        try:
            refusal = await self._lifecycle.ask_while_receiving(upload, self._context)
        except Exception:
            logger.warning("asking about a body failed", exc_info=True, extra={"upload_id": upload.id})
        else:
            if refusal is not None:
                self.refusal = refusal
                self._intake.stop(refusal)
        finally:
            self._asking = None

    async def end(self) -> None:
        """Ask no more; an answer that is not here yet is not waited for."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
