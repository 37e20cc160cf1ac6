"""What the kernel knows of this machine and of a server's processes (Linux: /proc)."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for member in found:
        for listing in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in listing.read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a family, its ended threads included.

    utime + stime of /proc/PID/stat, but read from the process's CPU clock: in nanoseconds instead of ticks of 10 ms.
    """
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~member << 3) | 2)  # what clock_getcpuclockid(3) returns
    return total


def memory(pid: int, key: str) -> int:
    """Bytes of a family: VmRSS (resident now) or VmHWM (the most there was since `forget_peak`)."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/status").read_text().splitlines():
                if line.startswith(key + ":"):
                    total += int(line.split()[1]) * KIB
    return total


def forget_peak(pid: int) -> None:
    """Reset VmHWM."""
    for member in family(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{member}/clear_refs").write_text("5")


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How much of the machine was used by anybody since the start, in seconds of one core."""

    busy: float
    stolen: float
    """What the hypervisor gave to others."""

    @classmethod
    def now(cls) -> Load:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, irq, softirq, steal = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields)
        return cls(busy=user + nice + system + irq + softirq, stolen=steal)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on."""
    best, kind = "", "unknown"
    target = str(folder.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        if len(mount) >= len(best) and (target + "/").startswith(mount.rstrip("/") + "/"):
            best, kind = mount, found
    return kind


def description(folder: Path) -> list[str]:
    """The machine in a few lines, as the report tells it."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            model = line.split(":", 1)[1].strip()
            break
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    virtual = " (virtual machine)" if " hypervisor" in Path("/proc/cpuinfo").read_text() else ""
    return [
        f"CPU: {model}, {cores()} cores{virtual}; memory: {total / GIB:.0f} GiB",
        f"Kernel: Linux {platform.release()}; storage on {file_system(folder)}",
    ]


def commit(repository: Path) -> str:
    """The commit that is checked out, or nothing where git does not know."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(repository), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""
