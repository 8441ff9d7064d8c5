"""Every mutant, by chapter."""

from __future__ import annotations

from typing import Final

from tests.mutants.counting_faults import CERTIFICATE_FAULTS, TALLY_FAULTS
from tests.mutants.seat_faults import SEAT_FAULTS
from tests.mutants.shell_faults import CHAIN_FAULTS, RESTART_FAULTS, SIGNING_FAULTS, TURN_FAULTS
from tests.mutants.voting_faults import LOCK_FAULTS, ROUND_FAULTS

CHAPTERS: Final = {
    "Locks and polkas": LOCK_FAULTS,
    "Rounds, proposals and timeouts": ROUND_FAULTS,
    "Quorums and tallies": TALLY_FAULTS,
    "Certificates and evidence": CERTIFICATE_FAULTS,
    "Blocks and proofs": CHAIN_FAULTS,
    "Turns": TURN_FAULTS,
    "Changes of members": SEAT_FAULTS,
    "Signatures": SIGNING_FAULTS,
    "Log, restart and the gate": RESTART_FAULTS,
}
MUTANTS: Final = tuple(mutant for chapter in CHAPTERS.values() for mutant in chapter)
