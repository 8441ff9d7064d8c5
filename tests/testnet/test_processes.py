"""A process is found again by its file, and never mistaken for another."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.errors import NodeError
from testnet import processes
from testnet.processes import (
    OwnedProcess,
    end_process,
    is_running,
    kill_process,
    running_process,
    start_process,
    wait_until_ended,
)

WAITS_FOR_EVER = (sys.executable, "-c", "import signal; print('here', flush=True); signal.pause()")


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[OwnedProcess]:
    owned = start_process(WAITS_FOR_EVER, tmp_path / "pid", tmp_path / "log")
    yield owned
    kill_process(owned)


def test_a_started_process_is_found_by_its_file(tmp_path: Path, waiting: OwnedProcess) -> None:
    assert running_process(tmp_path / "pid") == waiting


def test_a_signal_at_a_start_waits_until_the_process_can_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = processes._start_ticks  # pyright: ignore[reportPrivateUsage] (the moment between start and file)

    def interrupted(pid: int) -> int | None:
        os.kill(os.getpid(), signal.SIGINT)
        return looked_at(pid)

    monkeypatch.setattr(processes, "_start_ticks", interrupted)
    with ThreadPoolExecutor() as others:
        others.submit(time.monotonic).result()  # a thread that might take the signal
        with pytest.raises(KeyboardInterrupt):
            start_process(WAITS_FOR_EVER, tmp_path / "pid", tmp_path / "log")
    monkeypatch.undo()
    owned = running_process(tmp_path / "pid")
    assert owned is not None
    end_process(owned, signal.SIGTERM)
    assert wait_until_ended(owned)


def test_a_killed_process_is_not_running_although_its_parent_has_not_collected_it(
    tmp_path: Path, waiting: OwnedProcess
) -> None:
    os.kill(waiting.pid, signal.SIGKILL)
    os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie from here on
    assert not is_running(waiting)
    assert running_process(tmp_path / "pid") is None


def test_a_process_that_got_a_recycled_number_is_never_ended(tmp_path: Path, waiting: OwnedProcess) -> None:
    another = OwnedProcess(pid=waiting.pid, start_ticks=waiting.start_ticks - 1, boot=waiting.boot)
    end_process(another, signal.SIGKILL)
    assert is_running(waiting)
    (tmp_path / "pid").write_text(f"{another.pid} {another.start_ticks} {another.boot}\n")
    assert running_process(tmp_path / "pid") is None


def test_a_number_from_before_a_reboot_is_never_ended(waiting: OwnedProcess) -> None:
    end_process(OwnedProcess(pid=waiting.pid, start_ticks=waiting.start_ticks, boot="another"), signal.SIGKILL)
    assert is_running(waiting)


def test_killing_returns_when_the_process_is_gone(waiting: OwnedProcess) -> None:
    kill_process(waiting)
    assert not is_running(waiting)
    assert wait_until_ended(waiting, seconds=0)


def test_waiting_gives_up_on_a_process_that_stays(waiting: OwnedProcess) -> None:
    assert not wait_until_ended(waiting, seconds=0)


@pytest.mark.parametrize("torn", ["", "12", "a b c", "1 2"])
def test_a_torn_pid_file_names_nobody(tmp_path: Path, torn: str) -> None:
    (tmp_path / "pid").write_text(torn)
    assert running_process(tmp_path / "pid") is None


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    owned = start_process(
        (sys.executable, "-c", "import sys; print('out'); sys.exit('err')"), tmp_path / "pid", tmp_path / "log"
    )
    assert wait_until_ended(owned)
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]


def test_a_program_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises((OSError, NodeError)):
        start_process((str(tmp_path / "nothing"),), tmp_path / "pid", tmp_path / "log")
