"""Which holders are live: one link to each seat, kept up, marked down when it fails or lags.

A seat is live from a finished handshake until a call on its link fails, or until it lags behind the others
(`ask_all`). It is then connected again with growing pauses, for ever: a seat that comes back is live again. One that
lagged is on trial then: no write waits for it until it has done alone what writes ask. So a holder that takes
connections and hangs delays one write, once.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from node.errors import PeerUnreachableError
from storage.errors import ShardCorruptError, ShardMissingError, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from node.client.links import Connect, HolderLink
    from storage.identifiers import SeatIndex

    Ask = Callable[[SeatIndex, HolderLink, Callable[[], None]], Awaitable[None]]
    """One holder's part of a task; calls the last argument whenever the holder made progress."""

CONNECT_SECONDS: Final = 2.0
LAG_SECONDS: Final = 0.5
"""A holder silent for so long after the others have finished is marked down (rule S14)."""
STALL_SECONDS: Final = 5.0
"""Silence of all holders while too few have finished."""
RETRY_SECONDS_MIN: Final = 0.1
RETRY_SECONDS_MAX: Final = 2.0
LAGGARD_PAUSE_SECONDS: Final = 1.0
"""Before a holder that lagged is tried again; one whose link broke is tried at once."""
LAGGARD_PAUSE_GROWTH: Final = 8.0
LAGGARD_PAUSE_SECONDS_MAX: Final = 60.0
"""Between the trials of one that hangs for ever."""


FAULTS_KEPT_MAX: Final = 64
"""Per seat: enough to name it; a liar does not fill our memory."""
SLOW_SECONDS: Final = 10.0
"""How long reads avoid a holder that was slow."""
REFUSAL_SECONDS: Final = 2.0
"""How long a holder that refused is left alone with writes."""
REFUSAL_POLL_SECONDS: Final = 0.05
"""Refusals end by time alone: nothing announces it."""
PATIENCE_SECONDS: Final = 3.0
"""How long a write waits for enough holders before it is refused."""


class Holder:
    """One seat as this client sees it."""

    def __init__(self, seat: SeatIndex) -> None:
        self.seat = seat
        self.link: HolderLink | None = None
        self.tried = trio.Event()
        self.lost = trio.Event()
        self.pause_seconds = 0.0
        self.down_reason = "not connected yet"
        self.faults: list[str] = []
        """What it sent that was not under the chain's roots; a liar or a rotten disk."""
        self.lag_pause_seconds = LAGGARD_PAUSE_SECONDS
        """How long it is left alone when it lags again; back to the least once it has kept up."""
        self.is_on_trial = False
        """It lagged, and has not shown since that it does what writes ask."""
        self.refuses_until = 0.0
        self.slow_until = 0.0

    def refuse(self, reason: str, until: float) -> None:
        """Note that it answers but takes no writes (a full disk, a cap)."""
        self.down_reason = reason
        self.refuses_until = until


class HolderPool:
    """Links to all seats; run() keeps them up."""

    def __init__(self, seats: Sequence[SeatIndex], connect: Connect, live_min: int, trial: Ask | None = None) -> None:
        """Name the seats.

        Args:
            seats: All of them, in order.
            connect: Opens a link.
            live_min: How many settle() waits for before it gives the rest only LAG_SECONDS.
            trial: What a seat that lagged must do alone before a write waits for it again; None: to be connected.
        """
        self._trial = trial
        self._holders = {seat: Holder(seat) for seat in seats}
        self._connect = connect
        self._live_min = live_min
        self._excluded: set[SeatIndex] = set()
        self._changed = trio.Event()

    def exclude(self, seat: SeatIndex) -> None:
        """Never connect to this seat: a node's own. Call it before run()."""
        self._holders[seat].tried.set()
        self._excluded.add(seat)

    async def run(self) -> None:
        """Keep links up until cancelled."""
        async with trio.open_nursery() as nursery:
            for seat, holder in self._holders.items():
                if seat not in self._excluded:
                    nursery.start_soon(self._keep_up, holder)

    async def settle(self) -> None:
        """Wait until every seat was tried once; those that hang get LAG_SECONDS once enough are live."""
        deadline = trio.current_time() + CONNECT_SECONDS
        while any(not holder.tried.is_set() for holder in self._holders.values()):
            if len(self.live()) >= self._live_min:
                deadline = min(deadline, trio.current_time() + LAG_SECONDS)
            with trio.move_on_at(deadline) as scope:
                await self.changed()
            if scope.cancelled_caught:
                return

    def seats(self) -> tuple[SeatIndex, ...]:
        """Return all seats, in order."""
        return tuple(self._holders)

    def live(self) -> tuple[SeatIndex, ...]:
        """Return the seats that answer, in order."""
        return tuple(seat for seat, holder in self._holders.items() if holder.link is not None)

    def writable(self) -> tuple[SeatIndex, ...]:
        """Return the live seats that are not on trial and have not refused a write lately, in order."""
        return tuple(seat for seat in self._willing() if not self._holders[seat].is_on_trial)

    def _willing(self) -> tuple[SeatIndex, ...]:
        """Return the live seats that have not refused a write lately, those on trial too."""
        now = trio.current_time()
        return tuple(seat for seat in self.live() if self._holders[seat].refuses_until <= now)

    async def wait_writable(self, count: int) -> tuple[SeatIndex, ...]:
        """Return writable() once it has that many seats, or after PATIENCE_SECONDS whatever it has.

        A link that broke or a holder that lagged is back within moments; only sites that are down stay away. Where too
        few are left without those on trial, all are waited for again: a write may be late, and is not refused.
        """
        with trio.move_on_after(PATIENCE_SECONDS):
            while len(self.writable()) < count:
                if len(self._willing()) >= count:
                    self._end_trials()
                    break
                with trio.move_on_after(REFUSAL_POLL_SECONDS):
                    await self.changed()
        return self.writable()

    def _end_trials(self) -> None:
        for seat in self.live():
            self._holders[seat].is_on_trial = False

    def link(self, seat: SeatIndex) -> HolderLink | None:
        """Return the link to a seat, None while it is down."""
        return self._holders[seat].link

    def down_reasons(self) -> dict[SeatIndex, str]:
        """Return why each seat takes no writes now."""
        writable = self.writable()
        return {seat: holder.down_reason for seat, holder in self._holders.items() if seat not in writable}

    def faults(self) -> dict[SeatIndex, tuple[str, ...]]:
        """Return what seats sent that was not under the chain's roots."""
        return {seat: tuple(holder.faults) for seat, holder in self._holders.items() if holder.faults}

    async def changed(self) -> None:
        """Wait until a seat was tried, came up or went down."""
        await self._changed.wait()

    def mark_down(self, seat: SeatIndex, reason: str, pause_seconds: float = 0.0) -> None:
        """Take a seat out until it is connected again."""
        holder = self._holders[seat]
        if holder.link is not None:
            holder.link = None
            holder.down_reason = reason
            holder.pause_seconds = pause_seconds
            holder.lost.set()
            self._announce()

    def note_slow(self, seat: SeatIndex) -> None:
        """Have reads ask others first for a while."""
        self._holders[seat].slow_until = trio.current_time() + SLOW_SECONDS

    def is_prompt(self, seat: SeatIndex) -> bool:
        """Say whether a seat is live and was not slow lately."""
        holder = self._holders[seat]
        return holder.link is not None and holder.slow_until <= trio.current_time()

    def note_fault(self, seat: SeatIndex, detail: str) -> None:
        """Count bytes that were not under the chain's root, and name who sent them."""
        faults = self._holders[seat].faults
        if len(faults) < FAULTS_KEPT_MAX:
            faults.append(detail)

    async def ask_one(self, seat: SeatIndex, ask: Ask, progressed: Callable[[], None] = lambda: None) -> bool:
        """Run one holder's part; a broken link marks it down, a refusal or a fault does not.

        Returns:
            Whether it finished.
        """
        link = self.link(seat)
        if link is None:
            return False
        try:
            await ask(seat, link, progressed)
        except PeerUnreachableError as error:
            if self.link(seat) is link:
                self.mark_down(seat, str(error))
            return False
        except ShardCorruptError as error:
            self.note_fault(seat, str(error))
            return False
        except ShardMissingError:
            return False
        except (RejectionError, StorageError) as error:
            self._holders[seat].refuse(str(error), trio.current_time() + REFUSAL_SECONDS)
            return False
        return True

    async def ask_all(self, seats: Collection[SeatIndex], ask: Ask, enough: int) -> frozenset[SeatIndex]:
        """Run the same task with several holders at once, columns independent of each other.

        Once `enough` of them have finished, silence of LAG_SECONDS ends the wait and marks the laggards down.

        Returns:
            The seats that finished.
        """
        finished: set[SeatIndex] = set()
        waiting = set(seats)
        news = trio.Event()

        def progressed() -> None:
            nonlocal news
            news.set()

        async def run_one(seat: SeatIndex) -> None:
            if await self.ask_one(seat, ask, progressed):
                finished.add(seat)
                self._holders[seat].lag_pause_seconds = LAGGARD_PAUSE_SECONDS
            waiting.discard(seat)
            progressed()

        async with trio.open_nursery() as nursery:
            for seat in seats:
                nursery.start_soon(run_one, seat)
            while waiting:
                with trio.move_on_after(LAG_SECONDS if len(finished) >= enough else STALL_SECONDS) as scope:
                    await news.wait()
                if scope.cancelled_caught:
                    break
                news = trio.Event()
            laggards = frozenset(waiting)
            nursery.cancel_scope.cancel()
        for seat in laggards:
            self._note_lag(self._holders[seat], "lagged behind the others")
        return frozenset(finished)

    def _note_lag(self, holder: Holder, reason: str) -> None:
        """Take a seat that hangs out, for longer each time, and try it before a write waits for it again."""
        holder.is_on_trial = self._trial is not None
        self.mark_down(holder.seat, reason, holder.lag_pause_seconds)
        holder.lag_pause_seconds = min(LAGGARD_PAUSE_SECONDS_MAX, holder.lag_pause_seconds * LAGGARD_PAUSE_GROWTH)

    async def _try_alone(self, holder: Holder, trial: Ask) -> None:
        """Let a seat on trial show that it does what writes ask, or refuses it in time; nobody waits for it."""
        with trio.move_on_after(STALL_SECONDS) as scope:
            await self.ask_one(holder.seat, trial)
        if scope.cancelled_caught:
            self._note_lag(holder, "hangs at what writes ask")
        elif holder.link is not None:
            holder.is_on_trial = False
            self._announce()

    async def _keep_up(self, holder: Holder) -> None:
        retry_seconds = RETRY_SECONDS_MIN
        while True:
            link = await self._try(holder)
            holder.tried.set()
            if link is None:
                self._announce()
                await trio.sleep(retry_seconds * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
                retry_seconds = min(RETRY_SECONDS_MAX, retry_seconds * 2)
                continue
            began = trio.current_time()
            holder.lost = trio.Event()
            holder.link = link
            self._announce()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, holder, link)
                    if holder.is_on_trial and self._trial is not None:
                        nursery.start_soon(self._try_alone, holder, self._trial)
                    await holder.lost.wait()
                    nursery.cancel_scope.cancel()
            finally:
                holder.link = None
                with trio.CancelScope(shield=True):
                    await link.aclose()
            # One who hangs up at once (our certificate is refused, say) is not dialled without a pause.
            lived = trio.current_time() - began
            retry_seconds = (
                RETRY_SECONDS_MIN if lived > RETRY_SECONDS_MAX else min(RETRY_SECONDS_MAX, retry_seconds * 2)
            )
            await trio.sleep(max(holder.pause_seconds, 0.0 if lived > RETRY_SECONDS_MAX else retry_seconds))

    async def _watch(self, holder: Holder, link: HolderLink) -> None:
        await link.wait_gone()
        self.mark_down(holder.seat, "the connection ended")

    async def _try(self, holder: Holder) -> HolderLink | None:
        try:
            with trio.fail_after(CONNECT_SECONDS):
                return await self._connect(holder.seat)
        except trio.TooSlowError:
            holder.down_reason = f"no handshake within {CONNECT_SECONDS} s"
        except (PeerUnreachableError, RejectionError, OSError) as error:
            holder.down_reason = str(error)
        return None

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
