"""The member set: who may vote, by position."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import GenesisHash, MemberIndex, PublicKey
from consensus.quorum import FaultBudget, fault_budget


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSet:
    """Signing keys in seat order, the budget that follows from their number, and the chain they sign for."""

    genesis_hash: GenesisHash
    public_keys: tuple[PublicKey, ...]
    budget: FaultBudget

    def public_key(self, member: MemberIndex) -> PublicKey:
        """Return a member's key or raise RejectionError(NOT_A_MEMBER)."""
        if not 0 <= member < len(self.public_keys):
            raise RejectionError(RejectionReason.NOT_A_MEMBER, f"member {member} of {len(self.public_keys)}")
        return self.public_keys[member]

    def index_of(self, public_key: PublicKey) -> MemberIndex | None:
        """Return the seat that signs with this key, None for a stranger."""
        return MemberIndex(self.public_keys.index(public_key)) if public_key in self.public_keys else None


def member_set(genesis_hash: GenesisHash, public_keys: tuple[PublicKey, ...]) -> MemberSet:
    """Return a member set with the budget of its size; refuses a key that holds two seats."""
    if len(set(public_keys)) != len(public_keys):
        raise RejectionError(RejectionReason.BAD_GENESIS, "one signing key holds two seats")
    return MemberSet(genesis_hash=genesis_hash, public_keys=public_keys, budget=fault_budget(len(public_keys)))
