"""What ended a wait arrives as itself; a bug keeps its group."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from node.errors import NodeError
from node.nurseries import open_plain_nursery, run_plainly


def test_ctrl_c_arrives_out_of_every_nursery() -> None:
    async def work() -> None:
        async with trio.open_nursery() as outer, open_plain_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(trio.sleep_forever)
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run_plainly(work)


def test_an_expected_failure_arrives_alone_and_a_bug_in_its_group() -> None:
    async def work(error: Exception) -> None:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(fail, error)

    async def fail(error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(NodeError, match="expected"):
        trio.run(work, NodeError("expected"))
    with pytest.raises(ExceptionGroup):
        trio.run(work, ValueError("a bug"))
