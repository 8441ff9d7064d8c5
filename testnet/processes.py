"""Processes that outlive the command that started them, found again by a file and never mistaken for another.

A pid file holds `PID START BOOT` : the process, the clock tick since boot at which it started, the boot. A process that
got a recycled pid has another start, and is never signalled. Signals go through a pidfd, so that the process that was
checked is the one that is ended (Linux 5.3).
"""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a supervisor's stop, the terminal's end: each ends a command that holds processes."""
END_SECONDS_MAX: Final = 10.0
"""A killed process is gone within milliseconds; this long only under heavy swapping."""
LOG_MODE: Final = 0o600
STATE_FIELD: Final = 0
START_FIELD: Final = 19
"""Positions after the command's name in /proc/PID/stat (fields 3 and 22 of proc(5))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedProcess:
    """A process that we started."""

    pid: int
    start_ticks: int
    boot: str


def end_on_signals() -> None:
    """Let the first signal of ENDS raise KeyboardInterrupt; further ones must not leave processes behind."""

    def end(_number: int, _frame: FrameType | None) -> None:
        ignore_signals()
        raise KeyboardInterrupt

    for number in ENDS:
        signal.signal(number, end)


def ignore_signals() -> None:
    """Let no signal of ENDS disturb the ending of what was started."""
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)


def start_process(command: tuple[str, ...], pid_file: Path, log_file: Path) -> OwnedProcess:
    """Start a process in a session of its own, its output appended to a log, and remember it in a file.

    Signals wait meanwhile: one between the start and the file would leave a process that nobody knows.

    Raises:
        OSError: The program or the files cannot be opened.
        NodeError: It ended at once.
    """
    with _signals_waiting():
        return _start_and_remember(command, pid_file, log_file)


@contextmanager
def _signals_waiting() -> Generator[None]:
    """Let signals of ENDS act at the end of the block; a mask would not do, since other threads might take them.

    In another thread than the main one nothing is to be done: signals never act there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handled = [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def _start_and_remember(command: tuple[str, ...], pid_file: Path, log_file: Path) -> OwnedProcess:
    output = (os.POSIX_SPAWN_OPEN, 1, str(log_file), os.O_WRONLY | os.O_CREAT | os.O_APPEND, LOG_MODE)
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    errors = (os.POSIX_SPAWN_DUP2, 1, 2)
    actions = (nothing, output, errors)
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsid=True)
    start_ticks = _start_ticks(pid)
    if start_ticks is None:
        raise NodeError(f"the process ended at once: see {log_file}")
    owned = OwnedProcess(pid=pid, start_ticks=start_ticks, boot=_boot())
    fresh = pid_file.with_suffix(".new")
    fresh.write_text(f"{owned.pid} {owned.start_ticks} {owned.boot}\n")
    fresh.replace(pid_file)
    return owned


def running_process(pid_file: Path) -> OwnedProcess | None:
    """Return the process that a pid file names if it still runs; None when it ended or the file is absent or torn."""
    try:
        pid, start_ticks, boot = pid_file.read_text().split()
        owned = OwnedProcess(pid=int(pid), start_ticks=int(start_ticks), boot=boot)
    except (FileNotFoundError, ValueError):
        return None
    return owned if is_running(owned) else None


def is_running(owned: OwnedProcess) -> bool:
    """Tell whether this very process, not a successor of its number, still runs."""
    return _is_same(owned) and _is_alive(owned.pid)


def end_process(owned: OwnedProcess, signal_number: signal.Signals) -> None:
    """Send a signal to this very process; nothing happens when it is gone."""
    try:
        descriptor = os.pidfd_open(owned.pid)
    except ProcessLookupError:
        return
    try:
        # Checked after the descriptor was opened: it holds this process even if the number is reused now.
        if is_running(owned):
            signal.pidfd_send_signal(descriptor, signal_number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def wait_until_ended(owned: OwnedProcess, seconds: float = END_SECONDS_MAX) -> bool:
    """Wait for a process to end with all its threads; False when it still runs after that time.

    /proc calls a process a zombie as soon as its first thread has ended, while others may still write to its files.
    """
    try:
        descriptor = os.pidfd_open(owned.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        # Asked after the descriptor was opened: a successor of the number is none of ours.
        if not _is_same(owned):
            return True
        if not poll.poll(seconds * 1000):
            return False
        _reap(owned.pid)
        return True
    finally:
        os.close(descriptor)


def kill_process(owned: OwnedProcess) -> None:
    """SIGKILL, and return when the process is gone.

    Raises:
        NodeError: It is still there after END_SECONDS_MAX.
    """
    end_process(owned, signal.SIGKILL)
    if not wait_until_ended(owned):
        raise NodeError(f"process {owned.pid} does not end: it hangs in the kernel, look at its disk")


def _reap(pid: int) -> None:
    """Collect an ended child, so that it does not stay as a zombie; others' children are none of ours."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _is_same(owned: OwnedProcess) -> bool:
    """Tell whether the number still means this very process, running or a zombie."""
    return owned.boot == _boot() and _start_ticks(owned.pid) == owned.start_ticks


def _is_alive(pid: int) -> bool:
    return _stat_fields(pid)[STATE_FIELD : STATE_FIELD + 1] not in ([], ["Z"], ["X"])


def _start_ticks(pid: int) -> int | None:
    """Return when a process started; None when there is none."""
    fields = _stat_fields(pid)
    return int(fields[START_FIELD]) if fields else None


def _stat_fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The name in parentheses may hold spaces and parentheses: fields begin after the last one.
    return text.rpartition(")")[2].split()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
