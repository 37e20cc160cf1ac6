"""Clients that come back go on where they were: of five languages, directly and through proxies, whatever the link did.

`python -m tests.interop.returning` plays the same several times and tells how many requests each needed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.returning.cases import CASES, is_certain, play_all
from tests.interop.returning.clients import CLIENTS
from tests.interop.returning.ways import WAYS


@pytest.mark.timeout(900)  # the first run builds the drivers
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_comes_back_finishes_its_one_upload(client: str, way: str, tmp_path: Path) -> None:
    lacks = CLIENTS[client].lacks() or WAYS[way].lacks()
    if lacks is not None:
        pytest.skip(lacks)
    cases = [case for case in CASES.values() if is_certain(case, CLIENTS[client], WAYS[way])]
    runs = play_all(cases, CLIENTS[client], WAYS[way], tmp_path / "runs")
    failed = [run.story() for run in runs if run.complaints]
    assert not failed, "\n\n".join(failed)
