"""What members may change about the seats: the kinds of change, the offer of who is to sit, and the two transactions.

An offer is made by the newcomer itself and signed with the signing key that it will vote with, for one chain and one
seat number; its certificate is signed by its network key. So nobody can be seated with keys that it does not hold, and
nobody can alter an offer on its way (rule M5).

    signed        sign_bytes(SEAT_OFFER, genesis hash, canonical [seat number, signing key, seat])
    change id     SHA-256(SEAT_CHANGE, canonical [proposer, height of the proposal, change])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from consensus.encoding import Record, decode, encode
from consensus.genesis import ConsensusParameters
from consensus.identifiers import HASH, HEIGHT, SIGNATURE, GenesisHash, Height, PublicKey, Signature
from consensus.signing import Domain, check_signature, domain_hash, sign_bytes
from storage.genesis import Seat, StorageParameters
from storage.identifiers import SEAT, SeatIndex

if TYPE_CHECKING:
    from consensus.signing import SignatureCheck, SignatureMaker

OFFER_BYTES_MAX: Final = 4 * 1024
"""A certificate of 1 KiB, three texts of 128 characters, keys and ports."""


class SeatOffer(Record, tag=20):
    """Who would sit on a seat, in its own words."""

    number: Annotated[SeatIndex, SEAT]
    signing_key: Annotated[PublicKey, HASH]
    seat: Seat
    signature: Annotated[Signature, SIGNATURE]


class OfferStatement(Record):
    """What the newcomer signs."""

    number: Annotated[SeatIndex, SEAT]
    signing_key: Annotated[PublicKey, HASH]
    seat: Seat


class AddSeat(Record, tag=1):
    """One more seat; its number is the lowest that was never used."""

    offer: SeatOffer


class RemoveSeat(Record, tag=2):
    """A seat ends, for good."""

    number: Annotated[SeatIndex, SEAT]


class ReplaceOccupant(Record, tag=3):
    """Another operator takes a seat, or the same one begins anew: it holds nothing yet."""

    offer: SeatOffer


class RotateKeys(Record, tag=4):
    """The occupant has other keys or another address, and still holds what it held."""

    offer: SeatOffer


class ChangeParameters(Record, tag=5):
    """Other times of the agreement, other limits of storage."""

    agreement: ConsensusParameters
    storage: StorageParameters


Change = AddSeat | RemoveSeat | ReplaceOccupant | RotateKeys | ChangeParameters
ChangeId = Annotated[bytes, HASH]


class ProposeChange(Record, tag=20):
    """A member proposes a change and approves it; it takes the place of what the member proposed before."""

    change: Change


class ApproveChange(Record, tag=21):
    """A member approves what another has proposed."""

    proposer: Annotated[SeatIndex, SEAT]
    change_id: ChangeId


SeatChange = ProposeChange | ApproveChange
"""Bodies that only a seat's own key may send."""


class ChangeName(Record):
    """What a change id is the hash of: two proposals of one thing have two ids."""

    proposer: Annotated[SeatIndex, SEAT]
    height: Annotated[Height, HEIGHT]
    change: Change


def offer_of(change: Change) -> SeatOffer | None:
    """Return the offer that a change carries, None when nobody new is to sit."""
    return None if isinstance(change, RemoveSeat | ChangeParameters) else change.offer


def change_id(proposer: SeatIndex, height: Height, change: Change) -> bytes:
    """Return the 32 bytes by which members approve a proposal."""
    return domain_hash(Domain.SEAT_CHANGE, encode(ChangeName(proposer=proposer, height=height, change=change)))


def make_offer(number: SeatIndex, seat: Seat, signing_key: SignatureMaker, genesis_hash: GenesisHash) -> SeatOffer:
    """Return the newcomer's signed offer."""
    message = _sign_bytes(number, signing_key.public, seat, genesis_hash)
    return SeatOffer(number=number, signing_key=signing_key.public, seat=seat, signature=signing_key.sign(message))


def check_offer(offer: SeatOffer, genesis_hash: GenesisHash, check: SignatureCheck = check_signature) -> None:
    """Raise RejectionError(BAD_SIGNATURE) unless the newcomer itself made this offer for this chain and seat."""
    check(offer.signing_key, _sign_bytes(offer.number, offer.signing_key, offer.seat, genesis_hash), offer.signature)


def decode_offer(encoded: bytes) -> SeatOffer:
    """Read an offer or raise RejectionError."""
    return decode(encoded, SeatOffer, bytes_max=OFFER_BYTES_MAX)


def _sign_bytes(number: SeatIndex, signing_key: PublicKey, seat: Seat, genesis_hash: GenesisHash) -> bytes:
    statement = OfferStatement(number=number, signing_key=signing_key, seat=seat)
    return sign_bytes(Domain.SEAT_OFFER, genesis_hash, encode(statement))
