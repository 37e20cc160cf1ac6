"""Drives one upload with tuspy or aiotus.

The only argument is the job, as JSON: `client`, `path`, and `endpoint` or the `url` of an upload that is there already.
The only line on stdout tells the outcome, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


def upload_with_tuspy(job: dict[str, Any]) -> str:
    """It has no retries unless told so: those of docs/clients.md, a little faster."""
    from tusclient.client import TusClient

    uploader: Any = TusClient(job["endpoint"]).uploader(job["path"], url=job["url"], retries=5, retry_delay=1)
    uploader.upload()
    return str(uploader.url)


def upload_with_aiotus(job: dict[str, Any]) -> str:
    """It goes on with an upload only within one call, so there is no `url` for it."""
    import aiotus

    with open(job["path"], "rb") as file:
        location = asyncio.run(aiotus.upload(job["endpoint"], file))
    if location is None:
        raise RuntimeError("it gave up")
    return str(location)


def main() -> None:
    job = json.loads(sys.argv[1])
    outcome: dict[str, str | None] = {"url": None, "error": None}
    try:
        outcome["url"] = {"tuspy": upload_with_tuspy, "aiotus": upload_with_aiotus}[job["client"]](job)
    except Exception as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(outcome))  # noqa: T201 - this is how it answers


if __name__ == "__main__":
    main()
