"""The unit for systemd: systemd has nothing to say against it, and what it starts is a server that stops cleanly."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from tusclient.client import TusClient

from tests.examples.proxies import changed
from tests.examples.running import EXAMPLES, Program, listens
from tests.interop.goods import MIB, make_bytes
from tests.support.ports import free_port
from tests.support.wire import TIMEOUT

UNIT = EXAMPLES / "systemd" / "tusserver.service"
OURS = Path(sys.executable).with_name("tusserver")


def values(key: str) -> list[str]:
    """What the unit says for a key, each time."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with our own program in it."""
    copy = tmp_path / UNIT.name
    copy.write_text(changed(UNIT, {"/opt/tusserver/bin/tusserver": str(OURS)}))
    return copy


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_systemd_calls_the_unit_well_shut_in(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_unit_starts_takes_an_upload_and_stops_cleanly(tmp_path: Path) -> None:
    (start,) = values("ExecStart")
    port, state = free_port(), tmp_path / "tusserver"
    state.mkdir(mode=0o700)
    env = dict(value.split("=", 1) for value in values("Environment"))
    assert env["TUSSERVER_STORAGE"] == f"/var/lib/{values('StateDirectory')[0]}" == values("WorkingDirectory")[0]
    env |= {"TUSSERVER_STORAGE": str(state), "TUSSERVER_PORT": str(port)}
    program, *arguments = shlex.split(start)
    assert program.endswith("/bin/tusserver")
    source = make_bytes(MIB)

    log = tmp_path / "journal"
    with Program([OURS, *arguments], ready=lambda: listens(port), log=log, cwd=state, env=env) as server:
        uploader = TusClient(f"http://127.0.0.1:{port}/files").uploader(file_stream=BytesIO(source))
        uploader.upload()
        assert httpx.get(str(uploader.url), timeout=TIMEOUT).content == source
        assert server.stop() == 0

    assert {path.name for path in tmp_path.iterdir()} == {"tusserver", "journal"}
    assert any(path.read_bytes() == source for path in state.rglob("*") if path.is_file())
