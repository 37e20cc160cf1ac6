"""The supervisor alone, whose workers are a few lines: who is started again and when, and when it gives up."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.support.processes import children
from tests.support.wire import TIMEOUT


def supervise(script: str, count: int = 2, prelude: str = "", probation: float = 0.5) -> subprocess.Popen[str]:
    """Run a parent of `count` workers that do what the script says; `reloads` counts the hangups of the parent."""
    frame = f"""
import logging, os, select, signal, sys
from tusserver.server.worker import WorkerContext
from tusserver.server.supervisor import Supervisor
logging.basicConfig(format="%(message)s", stream=sys.stdout)
logging.getLogger("tusserver.workers").addFilter(lambda record: not record.getMessage().startswith("replacing"))
logging.getLogger("tusserver.workers").setLevel("INFO")
reloads = 0
def reload():
    global reloads
    reloads += 1
    return True
{prelude}
started = lambda: print("started", flush=True)
supervisor = Supervisor({count}, shutdown_timeout=0, on_start=started, reload=reload, probation={probation})
context = supervisor.run()
if isinstance(context, WorkerContext):
{"".join(f"    {line}" + chr(10) for line in script.strip().splitlines())}
    sys.exit()
print("gave up" if supervisor.gave_up else "stopped", flush=True)
sys.exit(context)
"""
    return subprocess.Popen([sys.executable, "-c", frame], stdout=subprocess.PIPE, text=True)


def test_if_no_worker_can_start_the_parent_gives_up() -> None:
    with supervise("sys.exit(7)") as parent:
        output = parent.communicate(timeout=TIMEOUT)[0]
    assert parent.returncode == 1
    assert output.splitlines()[-1] == "gave up"
    assert "ended with exit code 7" in output


def test_a_worker_that_dies_at_once_comes_back_after_growing_waits() -> None:
    script = """
context.ready()
if context.number == 1:
    sys.exit(3)
select.select([context.channel], [], [])
"""
    waits = []
    with supervise(script) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            if "starts in" in line:
                waits.append(line.rsplit("starts ", 1)[1].strip())
                if len(waits) == 3:
                    parent.terminate()
                    break
        parent.stdout.read()
        assert parent.wait(TIMEOUT) == 0
    assert waits == ["in 0.1 s", "in 0.2 s", "in 0.4 s"]


# what a start lacks --------------------------------------------------------------------------------------------------

FAILING = """
import errno
fork, failures = os.fork, {failures}
def failing():
    global forks
    forks += 1
    if forks in failures:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()
forks, os.fork = 0, failing
"""
SERVING = """
context.ready()
select.select([context.channel], [], [])
"""


def test_if_no_worker_can_be_forked_the_parent_gives_up_in_one_line() -> None:
    with supervise(SERVING, prelude=FAILING.format(failures="range(99)")) as parent:
        output = parent.communicate(timeout=30)[0]
    assert parent.returncode == 1
    assert output.splitlines() == [
        "no worker can be started now: Resource temporarily unavailable; it is tried again until it works",
        "gave up",
    ]


def test_a_worker_that_cannot_be_forked_for_some_time_starts_later_and_the_others_serve() -> None:
    with supervise(SERVING, prelude=FAILING.format(failures="range(2, 7)")) as parent:
        assert parent.stdout is not None
        lines = [parent.stdout.readline() for _ in range(3)]
        parent.terminate()
        rest = parent.stdout.read()
        assert parent.wait(30) == 0
    assert "no worker can be started now" in lines[0]
    assert lines[1:] == ["workers can be started again, after 5 attempts that failed\n", "started\n"]
    assert rest == "stopped\n"


# a reload that fails -------------------------------------------------------------------------------------------------


def test_new_workers_that_die_at_once_do_not_take_the_old_ones_with_them() -> None:
    script = """
context.ready()
if reloads:
    sys.exit(3)
select.select([context.channel], [], [])
"""
    with supervise(script, count=3, probation=3600) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        before = children(parent.pid)
        parent.send_signal(signal.SIGHUP)
        line = parent.stdout.readline()
        after = children(parent.pid)
        parent.terminate()
        parent.stdout.read()
        assert parent.wait(30) == 0
    assert line.endswith("ended with exit code 3 at once: the old workers stay\n")
    assert after == before
