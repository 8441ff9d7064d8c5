"""Who fails at any write or flush signs nothing twice, forgets no lock and is itself again; breaking it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from node.member import Member
from node.signer import Signer, _line
from node.write_ahead_log import WriteAheadLog
from testnet.simulation.crash_points import CrashPointError, play, play_all, points_of
from testnet.simulation.disks import Trap

if TYPE_CHECKING:
    from node.signer import SignerEntry


@pytest.mark.parametrize("seed", [20, 21, 22, 23])
def test_every_invariant_holds_after_a_failure_at_every_write_and_flush(seed: int) -> None:
    assert play_all(seed) > 100


def first_broken(trap: Trap, seeds: range) -> str:
    for seed in seeds:
        for point in points_of(seed):
            if point.trap is trap:
                try:
                    play(point)
                except CrashPointError as error:
                    return str(error)
    pytest.fail(f"nothing is broken in runs {seeds}")


def test_a_record_that_is_not_flushed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(self: Signer, entry: SignerEntry) -> None:
        assert self._file is not None
        self._byte_count += self._file.write(_line(entry), self._byte_count)
        self._remember(entry)

    monkeypatch.setattr(Signer, "_record", record)
    broken = first_broken(Trap.POWER_CUT, range(4))
    assert broken.startswith("signed once")
    assert "again: python -m testnet.simulation.crash_points --seed" in broken


def test_a_log_that_is_not_flushed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def flush(self: WriteAheadLog) -> None:
        self._byte_count += self._file.write(self._pending, self._byte_count)
        self._pending.clear()

    monkeypatch.setattr(WriteAheadLog, "flush", flush)
    assert first_broken(Trap.POWER_CUT, range(4)).startswith(("replay is state", "starts again"))


def test_a_forgotten_lock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    really = Member.recover

    async def forgetful(self: Member) -> None:
        await really(self)
        if self.state.machine.locked is not None:
            self._state = self._new_state()

    monkeypatch.setattr(Member, "recover", forgetful)
    assert "lock safety" in first_broken(Trap.KILL, range(4))
