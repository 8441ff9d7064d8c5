"""What a gateway learns from the chain about who has granted it: master keys sealed to its key, access keys under them.

Both are records that holders serve to granted clients alone, so the gateway asks over the shard channel, as a client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.encoding import decode
from consensus.errors import RejectionError, RejectionReason
from node.sealed_boxes import open_sealed
from storage.records import RECORD_BYTES_MAX
from storage.tenant_records import AccessKeys, MasterKeys, unseal_access

if TYPE_CHECKING:
    from consensus.signing import SigningKey
    from node.client.records import SealedRecords
    from node.client.tenant_chain import GrantedView
    from storage.tenant_records import AccessKeyRecord


@dataclass(frozen=True, slots=True)
class Granted:
    """A tenant's keys as it has granted them."""

    master_keys: MasterKeys
    access_keys: tuple[AccessKeyRecord, ...]


async def open_grant(granted: GrantedView, signing_key: SigningKey, records: SealedRecords) -> Granted | None:
    """Return the keys that a tenant has sealed to this key; None when it has sealed none.

    Args:
        granted: As the chain shows the grant.
        signing_key: The granted one.
        records: Of this tenant.

    Raises:
        ShardMissingError: No live holder has the records yet.
        UnsealError: They are sealed for another key.
        RejectionError: They are another tenant's, or none.
    """
    if granted.keys is None:
        return None
    sealed = await records.sealed(granted.keys)
    master_keys = decode(open_sealed(signing_key, sealed), MasterKeys, bytes_max=RECORD_BYTES_MAX)
    if master_keys.tenant != granted.tenant:
        raise RejectionError(RejectionReason.BAD_RECORD, "keys of another tenant")
    if granted.access is None:
        return Granted(master_keys, ())
    access = _access(await records.sealed(granted.access), master_keys)
    return Granted(master_keys, access.access_keys)


def _access(sealed: bytes, master_keys: MasterKeys) -> AccessKeys:
    access = unseal_access(sealed, master_keys.keys()[-1])
    if access.tenant != master_keys.tenant:
        raise RejectionError(RejectionReason.BAD_RECORD, "access keys of another tenant")
    return access
