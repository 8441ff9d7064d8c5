"""What a tenant's owner does on chain: grants gateways and revokes them, keeps access keys, moves, puts keys in escrow.

The owner's secrets are saved before anything on chain depends on them: a new master key that a crash forgot would leave
records that nobody opens.

A revocation starts a new master key, in this order: saved; the grant revoked; the keys sealed to each grant that is
left; access keys and escrow sealed again. From then on gateways seal under the new key, and Client.rewrap() does so for
what was sealed before. Whoever was revoked keeps what it could read, and the secrets of access keys: replace those.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from node.client.commits import Expiry, TransactionSigner, submit_and_wait
from node.client.errors import NotCommittedError
from node.client.new_objects import fresh_salt
from node.escrow import split_keys
from node.sealed_boxes import seal_to
from storage.identifiers import VersionId
from storage.outcomes import FailureReason
from storage.records import record_address
from storage.sealing import SECRET_BYTES
from storage.tenant_changes import CancelRecovery, MoveTenant, SetAccess, SetEscrow, TenantRecord
from storage.tenant_records import ACCESS_KEYS_MAX, AccessKeys, MasterKeys, seal_access
from storage.transactions import GrantClient, RevokeClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consensus.identifiers import GenesisHash, PublicKey
    from node.client.chain import Chain, Commit
    from node.client.tenant_chain import GrantView, TenantChain, TenantView
    from node.keystore import OwnerSecrets
    from storage.identifiers import SeatIndex, TenantId
    from storage.tenant_records import AccessKeyRecord
    from storage.transactions import Body


@dataclass(frozen=True, slots=True)
class Seats:
    """To whom shares are given: every seat's network key, and how many shares open the keys."""

    network_keys: Mapping[SeatIndex, PublicKey]
    threshold: int


class Owner:
    """One tenant's owner."""

    def __init__(
        self,
        owner_secrets: OwnerSecrets,
        save: Callable[[OwnerSecrets], None],
        chain: Chain,
        tenants: TenantChain,
        genesis_hash: GenesisHash,
    ) -> None:
        """Sign with the tenant's own key; `save` makes changed secrets durable, and is called before they are used."""
        self.secrets = owner_secrets
        self._save = save
        self._chain = chain
        self._tenants = tenants
        self._signer = TransactionSigner(owner_secrets.signing_key, genesis_hash)
        self._expiry = Expiry(chain)

    @property
    def tenant(self) -> TenantId:
        """Return the tenant's handle."""
        return self.secrets.master_keys.tenant

    async def grant(self, public_key: PublicKey, certificate: bytes) -> Commit:
        """Let a client or gateway act for the tenant, with all master keys sealed to it."""
        sealed, record = self._record(seal_to(public_key, encode(self.secrets.master_keys)))
        body = GrantClient(tenant=self.tenant, public_key=public_key, certificate=certificate, keys=record)
        return await self._transact(body, sealed)

    async def revoke(self, public_key: PublicKey, seats: Seats) -> bool:
        """Take a grant back and start a new master key; done again after a crash, it finishes what was begun.

        Args:
            public_key: Of the grant.
            seats: For the shares, if the tenant's keys are in escrow.

        Returns:
            Whether there was such a grant.
        """
        before = await self._view()
        was_granted = any(grant.public_key == public_key for grant in before.grants)
        if was_granted:
            fresh = (*self.secrets.master_keys.secrets, secrets.token_bytes(SECRET_BYTES))
            self._keep(replace(self.secrets, master_keys=MasterKeys(tenant=self.tenant, secrets=fresh)))
            await self._transact(RevokeClient(tenant=self.tenant, public_key=public_key))
        for grant in before.grants:
            if grant.public_key != public_key:
                await self._renew(grant)
        await self._send_access()
        if before.escrow is not None:
            await self.escrow(seats)
        return was_granted

    async def move(self, home: SeatIndex) -> Commit:
        """Choose another home operator; no byte moves."""
        return await self._transact(MoveTenant(tenant=self.tenant, home=home))

    async def add_access_key(self, access_key: AccessKeyRecord) -> None:
        """Let gateways honour an access key.

        Raises:
            RejectionError: OVERSIZED: too many, or scopes too long for one record.
        """
        if len(self.secrets.access_keys) == ACCESS_KEYS_MAX:
            raise RejectionError(RejectionReason.OVERSIZED, f"{ACCESS_KEYS_MAX} access keys are kept at most")
        self._keep(replace(self.secrets, access_keys=(*self.secrets.access_keys, access_key)))
        await self._send_access()

    async def remove_access_key(self, name: str) -> bool:
        """Let gateways honour an access key no more; False when there was none of this name."""
        kept = tuple(known for known in self.secrets.access_keys if known.access_key != name)
        if len(kept) == len(self.secrets.access_keys):
            return False
        self._keep(replace(self.secrets, access_keys=kept))
        await self._send_access()
        return True

    async def escrow(self, seats: Seats) -> Commit:
        """Split the master keys among the seats, in place of earlier shares."""
        contents, commitments = split_keys(self.secrets.master_keys, seats.network_keys, seats.threshold)
        sealed, record = self._record(contents)
        return await self._transact(SetEscrow(tenant=self.tenant, shares=record, commitments=commitments), sealed)

    async def leave_escrow(self) -> Commit:
        """Take the keys out of escrow; the shares are erased."""
        return await self._transact(SetEscrow(tenant=self.tenant, shares=None, commitments=()))

    async def cancel_recovery(self) -> Commit:
        """Stop every recovery that was announced: the keys are not lost."""
        return await self._transact(CancelRecovery(tenant=self.tenant))

    async def _renew(self, grant: GrantView) -> None:
        try:
            await self.grant(grant.public_key, grant.certificate)
        except NotCommittedError as error:
            if error.reason != FailureReason.GRANT_EXISTS:
                raise

    async def _send_access(self) -> None:
        access_keys = AccessKeys(tenant=self.tenant, access_keys=self.secrets.access_keys)
        latest = self.secrets.master_keys.keys()[-1]
        sealed, record = self._record(seal_access(access_keys, latest, fresh_salt()))
        await self._transact(SetAccess(tenant=self.tenant, access=record), sealed)

    def _record(self, sealed: bytes) -> tuple[bytes, TenantRecord]:
        version_id = VersionId(secrets.token_bytes(16))
        address = record_address(self.tenant, version_id, sealed)
        return sealed, TenantRecord(version_id=version_id, record_address=address)

    def _keep(self, changed: OwnerSecrets) -> None:
        self._save(changed)
        self.secrets = changed

    async def _view(self) -> TenantView:
        found = await self._tenants.tenant(self.tenant)
        if found is None:
            raise NotCommittedError(FailureReason.UNKNOWN_TENANT.value)
        return found

    async def _transact(self, body: Body, *records: bytes) -> Commit:
        return await transact_as(self._signer, self._expiry, self._chain, body, records)


async def transact_as(
    signer: TransactionSigner, expiry: Expiry, chain: Chain, body: Body, records: Sequence[bytes] = ()
) -> Commit:
    """Sign, submit and wait for a transaction.

    Raises:
        NotCommittedError: The chain carried it and refused it.
        RejectionError: A node refused it at the door.
    """
    commit = await submit_and_wait(chain, signer.sign(body, await expiry.height()), records)
    expiry.seen(commit.height)
    if commit.refusal is not None:
        raise NotCommittedError(commit.refusal)
    return commit
