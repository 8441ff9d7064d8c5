"""What a repair says of itself."""

from __future__ import annotations

from storage.repairing import BYTES_PER_SECOND_ASSUMED, MIB, RepairLoad, RepairProgress, pause_after


def progress(done: RepairLoad, seconds: float, set_aside: int = 0) -> RepairProgress:
    planned = RepairLoad()
    for _ in range(10):
        planned = planned.with_column(6, 16 * MIB)
    return RepairProgress(planned=planned, done=done, seconds=seconds, set_aside=set_aside)


def test_the_plan_counts_columns_bytes_and_seconds() -> None:
    planned = progress(RepairLoad(), 0.0)
    assert planned.planned == RepairLoad(10, 960 * MIB)
    assert planned.seconds_left == 960 * MIB / BYTES_PER_SECOND_ASSUMED
    assert planned.plan_text() == "repair: 10 columns to rebuild, 960.0 MiB to read from others, about 48 s"


def test_progress_is_judged_by_what_was_done() -> None:
    half = progress(RepairLoad(5, 480 * MIB), 100.0, set_aside=1)
    assert half.seconds_left == 100.0
    assert half.progress_text() == "repair: 5 of 10 columns, 480.0 of 960.0 MiB read, about 100 s left, 1 set aside"
    assert progress(RepairLoad(11, 1000 * MIB), 10.0).seconds_left == 0


def test_a_repair_waits_only_while_others_ask() -> None:
    assert pause_after(0.5, 0) == 0
    assert pause_after(0.5, 3) == 1.0
