"""The member set: who may vote, by seat number. Numbers are stable: where nobody sits any more, one is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import GenesisHash, Height, MemberIndex, PublicKey
from consensus.quorum import FaultBudget, fault_budget

GENESIS: Final = Height(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSet:
    """Signing keys by seat number, the budget that follows from how many there are, and the chain they sign for.

    Attributes:
        public_keys: None where nobody sits.
        joined: By seat number, the first height of its occupant; what was signed there before is another's.
        since: The first height of just these members.
    """

    genesis_hash: GenesisHash
    public_keys: tuple[PublicKey | None, ...]
    budget: FaultBudget
    joined: tuple[Height, ...]
    since: Height

    @property
    def indices(self) -> tuple[MemberIndex, ...]:
        """Return the members, lowest first."""
        return tuple(MemberIndex(i) for i, public_key in enumerate(self.public_keys) if public_key is not None)

    def public_key(self, member: MemberIndex) -> PublicKey:
        """Return a member's key or raise RejectionError(NOT_A_MEMBER)."""
        public_key = self.public_keys[member] if 0 <= member < len(self.public_keys) else None
        if public_key is None:
            raise RejectionError(RejectionReason.NOT_A_MEMBER, f"member {member} of {self.budget.members}")
        return public_key

    def index_of(self, public_key: PublicKey) -> MemberIndex | None:
        """Return the seat that signs with this key, None for a stranger."""
        return MemberIndex(self.public_keys.index(public_key)) if public_key in self.public_keys else None

    def is_occupant(self, member: MemberIndex, height: Height) -> bool:
        """Say whether who sits here now sat here at this height too."""
        return (
            0 <= member < len(self.public_keys)
            and self.public_keys[member] is not None
            and (height >= self.joined[member])
        )


def member_set(
    genesis_hash: GenesisHash,
    public_keys: tuple[PublicKey | None, ...],
    joined: tuple[Height, ...] = (),
    since: Height = GENESIS,
) -> MemberSet:
    """Return a member set with the budget of its size; without `joined` all have been there since genesis.

    Raises:
        RejectionError: BAD_GENESIS for a key that holds two seats, or for too few or too many members.
    """
    taken = [public_key for public_key in public_keys if public_key is not None]
    if len(set(taken)) != len(taken):
        raise RejectionError(RejectionReason.BAD_GENESIS, "one signing key holds two seats")
    return MemberSet(
        genesis_hash=genesis_hash,
        public_keys=public_keys,
        budget=fault_budget(len(taken)),
        joined=joined or (GENESIS,) * len(public_keys),
        since=since,
    )
