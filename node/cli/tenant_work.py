"""The work behind `grandest tenant`: an owner's folder and session, an operator's signature, a gateway's home.

An owner's folder holds `keystore` (all secrets, under a passphrase), `genesis`, and `nodes` (base URLs, one a line).
"""

from __future__ import annotations

import json
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
import msgspec
import trio

from consensus.genesis import genesis_hash
from consensus.identifiers import PublicKey
from consensus.quorum import fault_budget
from consensus.signing import SigningKey
from node.client import open_client
from node.client.chain_folder import read_chain, write_chain
from node.client.commits import Expiry, TransactionSigner
from node.client.granted import open_grant
from node.client.holders import HolderPool
from node.client.home import GENESIS_FILE, ClientHome, write_client_home
from node.client.http_chain import HttpChain
from node.client.ownership import Owner, Seats, transact_as
from node.client.records import SealedRecords
from node.client.shard_links import dialler
from node.client.tenant_chain import HttpTenantChain
from node.config import load_config
from node.errors import ConfigurationError, NotFoundError
from node.escrow import hand_over, read_shares, recover_keys
from node.gateway.own_key import read_own_key
from node.keystore import KEYSTORE_FILE, OwnerSecrets, read_keystore, write_keystore, write_private
from node.network.certificates import make_certificate
from node.nurseries import open_plain_nursery
from storage.genesis import storage_genesis
from storage.identifiers import SeatIndex, TenantId, VersionId
from storage.member_proofs import decode_change_proof, proven_seats
from storage.records import record_address
from storage.tenant_changes import ApproveRecovery, TenantRecord
from storage.tenant_records import MasterKeys

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from consensus.genesis import Genesis
    from node.client.chain import Commit
    from node.client.rewrapping import Rewrapped
    from node.client.tenant_chain import EscrowView, RecoveryView, TenantView
    from storage.tenant_records import AccessKeyRecord
    from storage.transactions import Body

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
ACCESS_KEYS_FILE: Final = "access-keys"
NEW_SECRET_BYTES: Final = 32
ACCEPTED_SECONDS: Final = 2.0
"""Holders look once a second whom they are to accept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerFolder:
    """An owner's folder, opened."""

    folder: Path
    passphrase: bytes
    owner_secrets: OwnerSecrets
    genesis: Genesis
    nodes: tuple[str, ...]

    def save(self, changed: OwnerSecrets) -> None:
        """Write changed secrets durably."""
        write_keystore(self.folder / KEYSTORE_FILE, changed, self.passphrase)

    async def seats(self) -> Seats:
        """Return to whom shares are given: who sits on the seats now, each change of members proven since genesis."""
        async with httpx.AsyncClient(trust_env=False) as http:
            chain = HttpChain(self.nodes, self.owner_secrets.master_keys.tenant, http)
            changes = [decode_change_proof(encoded) for encoded in await chain.member_changes()]
        seats = proven_seats(self.genesis, changes)
        network_keys = {
            SeatIndex(number): seat.seat.network_key for number, seat in enumerate(seats) if seat.closed is None
        }
        return Seats(network_keys, fault_budget(len(network_keys)).quorum)

    def client_home(self) -> ClientHome:
        """Return the home of the owner's own client, which keeps nothing on disk but its spool."""
        return ClientHome(
            folder=self.folder,
            signing_key=self.owner_secrets.client_key,
            master_keys=self.owner_secrets.master_keys.keys(),
            tenant=self.owner_secrets.master_keys.tenant,
            genesis=self.genesis,
            nodes=self.nodes,
        )


def new_owner(tenant: TenantId) -> OwnerSecrets:
    """Draw the secrets of a tenant's owner."""
    return OwnerSecrets(
        signing_seed=secrets.token_bytes(NEW_SECRET_BYTES),
        client_seed=secrets.token_bytes(NEW_SECRET_BYTES),
        master_keys=MasterKeys(tenant=tenant, secrets=(secrets.token_bytes(NEW_SECRET_BYTES),)),
        access_keys=(),
    )


def create_folder(folder: Path, owner_secrets: OwnerSecrets, passphrase: bytes, genesis: Path, node: str) -> None:
    """Make an owner's folder; refuses to replace a keystore.

    Raises:
        ConfigurationError: It has one, it cannot be written, or the genesis is none.
    """
    if (folder / KEYSTORE_FILE).exists():
        raise ConfigurationError(f"{folder} has a keystore: name another folder")
    write_chain(folder, genesis, node)
    write_keystore(folder / KEYSTORE_FILE, owner_secrets, passphrase)


def open_folder(folder: Path, passphrase: bytes, node: str | None) -> OwnerFolder:
    """Open an owner's folder; raises ConfigurationError."""
    owner_secrets = read_keystore(folder / KEYSTORE_FILE, passphrase)
    genesis, known = read_chain(folder)
    nodes = known if node is None else (node,)
    return OwnerFolder(folder=folder, passphrase=passphrase, owner_secrets=owner_secrets, genesis=genesis, nodes=nodes)


@asynccontextmanager
async def open_owner(opened: OwnerFolder) -> AsyncGenerator[Owner, None]:
    """Give the owner, connected to the chain."""
    tenant = opened.owner_secrets.master_keys.tenant
    async with httpx.AsyncClient(trust_env=False) as http:
        chain = HttpChain(opened.nodes, tenant, http)
        tenants = HttpTenantChain(chain)
        yield Owner(opened.owner_secrets, opened.save, chain, tenants, genesis_hash(opened.genesis))


async def show(tenant: TenantId, node: str) -> TenantView | None:
    """Return what the chain shows of a tenant."""
    async with httpx.AsyncClient(trust_env=False) as http:
        return await HttpTenantChain(HttpChain((node,), tenant, http)).tenant(tenant)


async def sign_as_operator(home: Path, tenant: TenantId, body: Body, *records: bytes) -> Commit:
    """Sign for the seat of a node's home, and have its own node's chain carry it."""
    config = load_config(home)
    signer = TransactionSigner(config.keys.signing, config.genesis_hash)
    async with httpx.AsyncClient(trust_env=False) as http:
        chain = HttpChain((config.own_api,), tenant, http)
        return await transact_as(signer, Expiry(chain), chain, body, records)


def operator_seat(home: Path) -> SeatIndex:
    """Return the seat of a node's home."""
    return SeatIndex(load_config(home).seat)


async def write_client(opened: OwnerFolder, folder: Path) -> None:
    """Grant the owner's own client unless it is, and write its home for `put`, `get` and the others."""
    await grant_own_client(opened)
    _write_home(folder, opened.owner_secrets.client_seed, opened.owner_secrets.master_keys, opened)


async def grant_own_client(opened: OwnerFolder) -> None:
    """Let the owner's own client act for the tenant; it needs no keys from a record."""
    client_key = opened.owner_secrets.client_key
    async with open_owner(opened) as owner:
        view = await show(owner.tenant, opened.nodes[0])
        if view is None:
            raise ConfigurationError(f"tenant {owner.tenant.hex()} is not registered: ask your operator to do so")
        if all(grant.public_key != client_key.public for grant in view.grants):
            await owner.grant(client_key.public, make_certificate(client_key))
            await trio.sleep(ACCEPTED_SECONDS)


async def revoke(opened: OwnerFolder, public_key: PublicKey) -> Rewrapped:
    """Revoke a grant, start a new master key, and seal all records again under it.

    Raises:
        NotFoundError: There is no such grant; what an earlier revocation left undone is done all the same.
    """
    async with open_owner(opened) as owner:
        was_granted = await owner.revoke(public_key, await opened.seats())
        after = owner.secrets
    await grant_own_client(with_secrets(opened, after))
    async with open_client(with_secrets(opened, after).client_home()) as client:
        report = await client.rewrap()
    if not was_granted:
        raise NotFoundError(f"{public_key.hex()} is not granted: nothing was revoked; see `grandest tenant show`")
    return report


def with_secrets(opened: OwnerFolder, owner_secrets: OwnerSecrets) -> OwnerFolder:
    """Return an opened folder with other secrets."""
    return OwnerFolder(
        folder=opened.folder,
        passphrase=opened.passphrase,
        owner_secrets=owner_secrets,
        genesis=opened.genesis,
        nodes=opened.nodes,
    )


async def receive(folder: Path, node: str) -> int:
    """Fill a gateway's folder with what tenants have sealed to its key; returns how many access keys it honours.

    Raises:
        ConfigurationError: No tenant has granted it with keys, or the folder has no key.
    """
    own = read_own_key(folder)
    signing_key = own.signing_key
    async with httpx.AsyncClient(trust_env=False) as http:
        tenants = HttpTenantChain(HttpChain((node,), TenantId(bytes(16)), http))
        found = [granted for granted in await tenants.granted(signing_key.public) if granted.keys is not None]
    if not found:
        raise ConfigurationError(f"no tenant has granted {signing_key.public.hex()} with its keys yet")
    granted = found[0]
    async with _records(own.genesis, signing_key, granted.tenant) as records:
        opened = await open_grant(granted, signing_key, records)
    assert opened is not None, "looked for grants with keys"
    _write_home_files(folder, signing_key.seed(), opened.master_keys, (folder / GENESIS_FILE).read_bytes(), (node,))
    write_private(
        folder / ACCESS_KEYS_FILE, json.dumps([_access_json(access_key) for access_key in opened.access_keys]).encode()
    )
    return len(opened.access_keys)


async def approve_recovery(home: Path, tenant: TenantId, public_key: PublicKey) -> Commit:
    """Hand this seat's share over to an announced key, and approve it.

    Raises:
        ConfigurationError: The tenant's keys are not in escrow.
        UnsealError: This seat was given no share.
    """
    config = load_config(home)
    view = await show(tenant, config.own_api)
    if view is None or view.escrow is None:
        raise ConfigurationError(f"no keys of tenant {tenant.hex()} are in escrow")
    async with _records(config.genesis, config.keys.network, tenant) as records:
        shares = read_shares(await records.sealed(view.escrow.shares))
    sealed = hand_over(shares, SeatIndex(config.seat), config.keys.network, public_key)
    version_id = VersionId(secrets.token_bytes(16))
    share = TenantRecord(version_id=version_id, record_address=record_address(tenant, version_id, sealed))
    body = ApproveRecovery(tenant=tenant, public_key=public_key, share=share)
    return await sign_as_operator(home, tenant, body, sealed)


async def finish_recovery(opened: OwnerFolder) -> int:
    """Put the tenant's keys together from the shares that were handed over; returns how many master keys there are.

    Raises:
        ConfigurationError: Not decided yet.
        RejectionError: BAD_PROOF: too few shares are those that were committed.
    """
    tenant, signing_key = opened.owner_secrets.master_keys.tenant, opened.owner_secrets.signing_key
    view = await show(tenant, opened.nodes[0])
    recovery, escrow = _decided(view, signing_key.public)
    await grant_own_client(opened)
    async with _records(opened.genesis, opened.owner_secrets.client_key, tenant) as records:
        shares = read_shares(await records.sealed(escrow.shares))
        handed: Mapping[SeatIndex, bytes] = {seat: await records.sealed(share) for seat, share in recovery.shares}
    found = recover_keys(shares, handed, escrow.commitments, signing_key, (await opened.seats()).threshold)
    opened.save(msgspec.structs.replace(opened.owner_secrets, master_keys=found))
    return len(found.secrets)


def _decided(view: TenantView | None, public_key: PublicKey) -> tuple[RecoveryView, EscrowView]:
    """Return the recovery that has made a key the tenant's, and the escrow that it is of."""
    if view is not None and view.escrow is not None and view.public_key == public_key:
        for recovery in view.escrow.recoveries:
            if recovery.public_key == public_key:
                return recovery, view.escrow
    raise ConfigurationError("the recovery is not decided: a quorum of operators must approve it first")


@asynccontextmanager
async def _records(genesis: Genesis, signing_key: SigningKey, tenant: TenantId) -> AsyncGenerator[SealedRecords, None]:
    """Give the records of a tenant, asked of the holders under a key that they know."""
    seats = storage_genesis(genesis).seats
    async with open_plain_nursery() as nursery:
        numbers = tuple(SeatIndex(number) for number in range(len(seats)))
        pool = HolderPool(numbers, dialler(seats, signing_key, nursery), fault_budget(len(seats)).weak_quorum)
        records = SealedRecords(pool, tenant)
        nursery.start_soon(pool.run)
        nursery.start_soon(records.run)
        await pool.settle()
        yield records
        nursery.cancel_scope.cancel()


def _write_home(folder: Path, seed: bytes, master_keys: MasterKeys, opened: OwnerFolder) -> None:
    genesis = (opened.folder / GENESIS_FILE).read_bytes()
    _write_home_files(folder, seed, master_keys, genesis, opened.nodes)


def _write_home_files(
    folder: Path, seed: bytes, master_keys: MasterKeys, genesis: bytes, nodes: tuple[str, ...]
) -> None:
    write_client_home(
        folder,
        signing_seed=seed,
        master_seed=master_keys.secrets[0],
        tenant=master_keys.tenant,
        genesis=genesis,
        nodes=nodes,
    )
    lines = "".join(secret.hex() + "\n" for secret in master_keys.secrets)
    write_private(folder / "master", lines.encode())


def _access_json(access_key: AccessKeyRecord) -> dict[str, object]:
    found: dict[str, object] = {"access_key": access_key.access_key, "secret_key": access_key.secret_key}
    if access_key.verbs is not None:
        found["verbs"] = [verb.value for verb in access_key.verbs]
    if access_key.buckets is not None:
        found["buckets"] = list(access_key.buckets)
    if access_key.expires_ms is not None:
        found["expires_ms"] = access_key.expires_ms
    return found


def write_credentials(path: Path, access_key: AccessKeyRecord) -> None:
    """Write an access key as S3 tools read it, into a new file that nobody else may read."""
    if path.exists():
        raise ConfigurationError(f"{path} exists: name another file")
    text = f"[default]\naws_access_key_id = {access_key.access_key}\naws_secret_access_key = {access_key.secret_key}\n"
    write_private(path, text.encode())
