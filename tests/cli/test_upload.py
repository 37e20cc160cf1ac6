"""`tusserver upload` at a real server: what arrives, what survives a cut, and what is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.support.proxy import Fault, Proxy
from tests.support.server import TusServer
from tests.support.tus import eventually
from tests.support.wire import TIMEOUT

BYTES = bytes(range(256)) * 8192  # 2 MiB

Upload = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TusServer]:
    """One server for all tests of this file."""
    with TusServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def proxy(server: TusServer) -> Iterator[Proxy]:
    """A bad network in front of it."""
    with Proxy(server.host) as proxy:
        yield proxy


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has uploaded nothing so far."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUSSERVER_")}
    return {**kept, "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def upload(tmp_path: Path, environ: dict[str, str]) -> Upload:
    """Run the command in its own process."""

    def upload(*arguments: object, stdin: bytes | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "tusserver", "upload", *map(str, arguments)],
            cwd=tmp_path,
            env={**environ, **more},
            input=stdin,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return upload


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to upload."""
    path = tmp_path / "photo.raw"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def stored(run: Run, server: TusServer) -> Callable[[str], dict[str, Any]]:
    """All that the server knows of an upload."""

    def stored(url: str) -> dict[str, Any]:
        shown = run("show", url.strip().rpartition("/")[2], "--json", "--storage", server.storage)
        assert shown.code == 0, shown.err
        facts: dict[str, Any] = json.loads(shown.out)
        return facts

    return stored


Stored = Callable[[str], dict[str, Any]]


def events(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The lines of --json."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def remembered(tmp_path: Path) -> list[Path]:
    """What is kept for another try."""
    return list((tmp_path / "state/tusserver/uploads").iterdir())


def test_a_file_arrives_and_its_address_is_all_that_is_printed(
    upload: Upload, server: TusServer, file: Path, stored: Stored, tmp_path: Path
) -> None:
    done = upload(file, server.url)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    facts = stored(done.stdout)
    assert Path(facts["file"]).read_bytes() == BYTES
    assert facts["metadata"] == {"filename": "photo.raw"}
    assert remembered(tmp_path) == []


def test_checksums_and_metadata_of_an_empty_file_and_of_a_folder_arrive(
    upload: Upload, server: TusServer, stored: Stored, tmp_path: Path
) -> None:
    inner = tmp_path / "album" / "may"
    inner.mkdir(parents=True)
    (inner / "one.txt").write_bytes(b"one")
    (tmp_path / "album" / os.fsdecode(b"\xff.bin")).write_bytes(b"")
    done = upload("album", server.url, "--checksum", "sha256", "--metadata", "who=\u00e9", "--json", "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    places = {}
    for event in events(done):
        if event["event"] == "done":
            facts = stored(event["url"])
            assert facts["metadata"]["who"] == "\u00e9"
            places[facts["metadata"]["relativePath"]] = Path(facts["file"]).read_bytes()
    assert places == {"album/may/one.txt": b"one", "album/\ufffd.bin": b""}


@pytest.mark.parametrize("size", [0, 5, 9_000_000], ids=["nothing", "little", "more-than-a-part"])
def test_standard_input_arrives(upload: Upload, server: TusServer, stored: Stored, size: int) -> None:
    data = os.urandom(size)
    done = upload("-", server.url, "--name", "dump.sql", stdin=data)
    assert (done.returncode, done.stderr) == (0, "")
    facts = stored(done.stdout)
    assert Path(facts["file"]).read_bytes() == data
    assert facts["metadata"]["filename"] == "dump.sql"


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
@pytest.mark.parametrize("known", [True, False], ids=["file", "stdin"])
def test_a_cut_is_survived_by_sending_the_rest_only(
    upload: Upload, proxy: Proxy, server: TusServer, file: Path, stored: Stored, fault: Fault, known: bool
) -> None:
    proxy.fail(fault, after=1_500_000)
    done = upload(file if known else "-", proxy.through(server.url), "--json", stdin=None if known else BYTES)
    told = events(done)
    assert done.returncode == 0
    assert [event["event"] for event in told] == ["started", "waiting", "started", "done"]
    assert told[2]["offset"] > 0
    assert Path(stored(told[-1]["url"])["file"]).read_bytes() == BYTES


def test_the_same_command_goes_on_after_it_gave_up_and_fresh_begins_anew(
    upload: Upload, proxy: Proxy, server: TusServer, file: Path, stored: Stored, tmp_path: Path
) -> None:
    url = proxy.through(server.url)
    proxy.fail(Fault.RESET, after=1_500_000)
    given_up = upload(file, url, "--retries", "0")
    assert given_up.returncode == 1
    assert given_up.stderr.startswith("tusserver: photo.raw: gave up after one try: ")
    assert len(remembered(tmp_path)) == 1
    again = events(upload(file, url, "--json"))
    assert [event["event"] for event in again] == ["started", "done"]
    assert again[1]["resumed_from"] > 0
    assert Path(stored(again[1]["url"])["file"]).read_bytes() == BYTES

    proxy.fail(Fault.RESET, after=1_500_000)
    assert upload(file, url, "--retries", "0").returncode == 1
    fresh = events(upload(file, url, "--json", "--fresh"))
    assert fresh[-1]["resumed_from"] == 0


def test_a_changed_file_and_an_upload_that_the_server_forgot_begin_anew(
    upload: Upload, proxy: Proxy, server: TusServer, file: Path, run: Run, stored: Stored
) -> None:
    url = proxy.through(server.url)
    proxy.fail(Fault.RESET, after=1_500_000)
    first = events(upload(file, url, "--retries", "0", "--json"))
    assert first[-1]["event"] == "failed"
    assert run("remove", first[-1]["url"].rpartition("/")[2], "--storage", server.storage).code == 0
    proxy.fail(Fault.RESET, after=1_500_000)
    second = events(upload(file, url, "--retries", "0", "--json"))
    assert second[-1]["event"] == "failed"
    assert second[-1]["url"] != first[-1]["url"]
    file.write_bytes(BYTES[::-1])
    third = events(upload(file, url, "--json"))
    assert third[-1]["resumed_from"] == 0
    assert Path(stored(third[-1]["url"])["file"]).read_bytes() == BYTES[::-1]


def test_ctrl_c_leaves_what_the_same_command_resumes_and_a_second_one_is_told(
    upload: Upload, proxy: Proxy, server: TusServer, file: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    url = proxy.through(server.url)
    proxy.fail(Fault.STALL, after=1_500_000)
    command = [sys.executable, "-m", "tusserver", "upload", str(file), url]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as first:
        assert proxy.failed.wait(TIMEOUT)
        second = upload(file, url)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == "tusserver: photo.raw: another command is uploading this file to this server\n"
        first.send_signal(signal.SIGINT)
        assert first.wait(TIMEOUT) == 130
        assert first.stderr is not None
        assert first.stderr.read() == "tusserver: interrupted; the same command goes on from there\n"
    again = events(upload(file, url, "--json"))
    assert again[-1]["event"] == "done"
    assert again[-1]["resumed_from"] > 0


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    tmp_path: Path, file: Path, environ: dict[str, str]
) -> None:
    server = TusServer(tmp_path / "data").start()
    try:
        with Proxy(server.host) as proxy:
            proxy.slow(piece=16_384, pause=0.02)
            command = [sys.executable, "-m", "tusserver", "upload", str(file), proxy.through(server.url), "--json"]
            with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as client:
                assert eventually(lambda: proxy.sent > 300_000)
                server.kill()
                proxy.slow(piece=65_536, pause=0)
                server.start()
                out, _ = client.communicate(timeout=TIMEOUT)
                assert client.returncode == 0, out
            assert "waiting" in out
            assert json.loads(out.splitlines()[-1])["bytes"] == len(BYTES)
    finally:
        server.stop()


def test_what_cannot_be_read_fails_alone(upload: Upload, server: TusServer, file: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = upload("missing", "pipe", file, server.url)
    assert done.returncode == 1
    assert done.stdout.endswith("\tphoto.raw\n")
    assert done.stderr.splitlines() == [
        "tusserver: missing: No such file or directory",
        "tusserver: pipe: is not a regular file; give it as standard input",
    ]


def test_a_refusal_is_told_in_the_words_of_the_server(tmp_path: Path, upload: Upload, file: Path) -> None:
    with TusServer(tmp_path / "data", "--limits.max_size", "1MB") as server:
        done = upload(file, server.url)
    assert done.returncode == 1
    assert done.stderr.startswith("tusserver: photo.raw: the server refuses: 413 ")
    assert done.stderr.count("\n") == 1


def test_a_token_is_never_printed(upload: Upload, file: Path, server: TusServer) -> None:
    done = upload(file, server.url, TUSSERVER_TOKEN="secret-of-ours")
    assert done.returncode == 0
    assert "secret-of-ours" not in done.stdout + done.stderr + "".join(server.output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "ftp://host/files"], "is not an http:// or https:// address"),
        (["a", "http://me:secret@host/files"], "use --token-file or TUSSERVER_TOKEN"),
        (["a", "http://host/", "--header", "nonsense"], "is not of the form 'Name: value'"),
        (["a", "http://host/", "--metadata", "a b=c"], "is not of the form KEY=VALUE"),
        (["a", "http://host/", "--checksum", "sum"], "--checksum sum is not known here"),
        (["a", "b", "http://host/", "--name", "c"], "--name is for one file"),
        (["a", "a", "http://host/"], "given twice"),
        (["a", "http://host/", "--fresh", "--resume"], "not allowed with argument"),
        (["a", "http://host/", "--token-file", "missing"], "--token-file missing: No such file"),
        (["a", "http://host/", "--jobs", "0"], "--jobs is 1 or more"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Run, arguments: list[str], words: str) -> None:
    done = run("upload", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert words in done.err
    assert "secret" not in done.err


def test_an_address_without_a_tus_server_is_named(upload: Upload, server: TusServer, file: Path) -> None:
    done = upload(file, server.url.rpartition("/")[0] + "/elsewhere")
    assert done.returncode == 1
    assert "there is no tus server at" in done.stderr


def test_without_the_client_extra_one_line_says_how_to_install_it() -> None:
    code = "import runpy, sys; sys.modules['tusclient'] = None; "
    code += "sys.argv[1:] = ['upload', sys.executable, 'http://127.0.0.1:1/']\n"
    code += "runpy.run_module('tusserver', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 2
    assert done.stderr == "tusserver: tusclient is not installed; run: pip install 'tusserver[client]'\n"


def test_the_other_commands_need_nothing_of_it() -> None:
    code = "import runpy, sys; sys.modules['requests'] = sys.modules['tusclient'] = None; sys.argv[1:] = ['config']\n"
    code += "runpy.run_module('tusserver', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
