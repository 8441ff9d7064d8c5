"""Faults of the changes of members: who may decide them, when they hold, and what they leave behind."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

RULES: Final = "storage/ledger_seats.py"
ROWS: Final = "storage/membership.py"
PLACES: Final = "storage/placement.py"
TURNS: Final = "consensus/turns.py"
BY_RULE: Final = "tests/storage/test_ledger_seats.py"
BY_MODEL: Final = "tests/storage/test_membership.py"

SEAT_FAULTS: Final = (
    Mutant(
        name="change-decided-by-a-weak-quorum",
        file=RULES,
        before="    if len(bitmap_members(proposal.approvals)) < rules.members.budget.quorum:",
        after="    if len(bitmap_members(proposal.approvals)) < rules.members.budget.weak_quorum:",
        rule="M6",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="change-effective-one-height-later",
        file=ROWS,
        before="EFFECTIVE_HEIGHTS: Final = 2",
        after="EFFECTIVE_HEIGHTS: Final = 1",
        rule="M1",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="other-proposals-stay-when-one-is-decided",
        file=RULES,
        before="            overlay.delete(proposal_key(SeatIndex(number)))",
        after="            continue",
        rule="M6",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="two-changes-under-way",
        file=RULES,
        before="    if reader.value(SCHEDULED_KEY) is not None:",
        after='    if reader.value(SCHEDULED_KEY) == b"":',
        rule="M6",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="approval-of-whatever-is-proposed",
        file=RULES,
        before="proposal.height, proposal.change) != body.change_id:",
        after='proposal.height, proposal.change) == b"":',
        rule="M4",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="approval-after-its-time",
        file=RULES,
        before="    return height > proposal.height + parameters.proposal_heights",
        after="    return height > proposal.height + 2 * parameters.proposal_heights",
        rule="M4",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="budget-below-genesis-accepted",
        file=RULES,
        before="    if after < fewest or fault_budget(after).failures < least.failures or"
        " fault_budget(after).liars < least.liars:",
        after="    if after < 1:",
        rule="M7",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="one-key-at-two-seats",
        file=RULES,
        before="        if seat.signing_key == offer.signing_key or seat.seat.network_key == offer.seat.network_key:",
        after="        if seat.seat.network_key == offer.signing_key:",
        rule="M7",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="offer-of-anybody",
        file="storage/ledger.py",
        before="        check_offer(offer, context.members.genesis_hash, check)  # M5",
        after="        assert check_offer is not check",
        rule="M5",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="new-occupant-counts-as-holder",
        file=PLACES,
        before="self.spans[now[column]].joined <= vouched_at",
        after="self.spans[now[column]].opened <= vouched_at",
        rule="S18",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="guilt-inherited-by-the-next-occupant",
        file=TURNS,
        before="        if one.is_guilty and following.is_occupant(member, facts.height)",
        after="        if one.is_guilty",
        rule="M9",
        killers=(BY_RULE,),
    ),
    Mutant(
        name="members-of-the-past-forgotten",
        file=RULES,
        before="HistoryState(past=(replaced, *membership.past)[:PAST_MAX])",
        after="HistoryState(past=(replaced,))",
        rule="M2",
        killers=(BY_MODEL,),
    ),
)
