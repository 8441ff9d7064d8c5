"""Members that answer catch-up questions as told, for whoever asks by seat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from consensus.errors import RejectionError
from consensus.identifiers import MemberIndex
from node.catch_up_task import Answer
from node.errors import PeerUnreachableError
from testnet.simulation.running import ask_in_turn

Answering = Callable[[bytes], Awaitable[bytes]]


@dataclass(slots=True)
class Members:
    """Implements Asker; a member without an answer is unreachable."""

    answers: dict[MemberIndex, Answering] = field(default_factory=dict[MemberIndex, Answering])
    asked: list[tuple[MemberIndex, bytes]] = field(default_factory=list[tuple[MemberIndex, bytes]])
    refused: list[tuple[MemberIndex, RejectionError]] = field(default_factory=list[tuple[MemberIndex, RejectionError]])

    async def request(self, member: MemberIndex, payload: bytes, deadline_s: float) -> bytes:
        self.asked.append((member, payload))
        await trio.lowlevel.checkpoint()
        answering = self.answers.get(member)
        if answering is None:
            raise PeerUnreachableError(f"member {member} is away")
        with trio.fail_after(deadline_s):
            return await answering(payload)

    async def request_all(self, questions: Sequence[tuple[MemberIndex, bytes]], deadline_s: float) -> list[Answer]:
        return await ask_in_turn(self, questions, deadline_s)

    def refuse(self, member: MemberIndex, error: RejectionError) -> None:
        self.refused.append((member, error))
