"""Faults of chain, turns and shell: what is appended, whose turn it is, what is signed, logged and remembered."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

BLOCK: Final = "consensus/blocks.py"
CHAIN: Final = "consensus/chain.py"
TURNS: Final = "consensus/turns.py"
SIGNER: Final = "node/signer.py"
ENTRIES: Final = "node/entry_file.py"
GATE: Final = "node/message_gate.py"
MEMBER: Final = "node/member.py"
REJOIN: Final = "node/rejoin.py"
BLOCKS: Final = "tests/consensus/test_chain.py"
ORDER: Final = "tests/consensus/test_turns.py"
POOL: Final = "tests/node/test_evidence_pool.py"
RECORD: Final = "tests/node/test_signer.py"
DOOR: Final = "tests/node/test_message_gate.py"
RESTART: Final = "tests/node/test_member.py"
FIRE: Final = "tests/node/test_rejoin.py"

CHAIN_FAULTS: Final = (
    Mutant(
        name="turn-of-a-decided-block-unchecked",
        file=CHAIN,
        before="    _check_turn(decided.block.header, tip.turns, check_decision(decided, rules.members, check))",
        after="    check_decision(decided, rules.members, check)",
        rule="A26",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="decision-accepted-without-its-first-polka",
        file=CHAIN,
        before="    if expected != NO_ROUND:",
        after="    if expected > fresh:",
        rule="A26",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="polkas-with-a-gap-accepted",
        file=CHAIN,
        before="        if polka.round != expected:",
        after="        if polka.round > expected:",
        rule="A26",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="commit-of-another-block-accepted",
        file=BLOCK,
        before="    if (commit.height, commit.block_hash) != (header.height, header_hash(header)):",
        after="    if commit.height != header.height:",
        rule="A26",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="commit-certificate-unverified",
        file=CHAIN,
        before="    check_header_commit(decided.block.header, commit, members, check)\n",
        after="",
        rule="A26",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="certificate-of-another-parent-accepted",
        file=CHAIN,
        before="    if (commit.height, commit.block_hash) != (tip.height, tip.block_hash) or tip.height == 0:",
        after="    if commit.height != tip.height or tip.height == 0:",
        rule="A51",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="state-root-unchecked",
        file=CHAIN,
        before="    if header.state_root != tip.state_root:",
        after="    if not header.state_root:",
        rule="A50",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="clock-of-a-fresh-block-unchecked",
        file=CHAIN,
        before="    if apart_ms > drift_ms:",
        after="    if apart_ms > drift_ms + header.time_ms:",
        rule="A52",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="time-behind-the-clock-accepted",
        file=CHAIN,
        before="    if header.time_ms == tip.time_ms + 1 and tip.time_ms >= now_ms:",
        after="    if header.time_ms == tip.time_ms + 1:",
        rule="A52",
        killers=(BLOCKS,),
    ),
    Mutant(
        name="evidence-of-a-block-unproven",
        file=CHAIN,
        before="        check_evidence(proof, rules.schedule.members_at(fault_place(proof)[2]), check)",
        after="        assert check_evidence is not check",
        rule="A51",
        killers=(BLOCKS,),
    ),
)

TURN_FAULTS: Final = (
    Mutant(
        name="suspended-member-still-counted-in-turns",
        file=TURNS,
        before="if member not in out))",
        after="if member not in out or member >= 0))",
        rule="A2",
        killers=(ORDER,),
    ),
    Mutant(
        name="turns-recomputed-at-every-height",
        file=TURNS,
        before="if (facts.height + 1) % members == 0 else counted",
        after="if facts.height > 0 else counted",
        rule="A2",
        killers=(ORDER,),
    ),
    Mutant(
        name="suspended-after-two-missed-turns",
        file=TURNS,
        before="TURNS_MISSED: Final = 3",
        after="TURNS_MISSED: Final = 2",
        rule="A4",
        killers=(ORDER,),
    ),
    Mutant(
        name="absent-member-back-after-two-certificates",
        file=TURNS,
        before="CERTIFICATES_BACK: Final = 3",
        after="CERTIFICATES_BACK: Final = 2",
        rule="A4",
        killers=(ORDER,),
    ),
    Mutant(
        name="silence-never-grows",
        file=TURNS,
        before="min(2 << one.silences, SILENT_TURNS_MAX)",
        after="min(2, SILENT_TURNS_MAX)",
        rule="A4",
        killers=(ORDER,),
    ),
    Mutant(
        name="guilt-has-no-consequence",
        file=TURNS,
        before="    if one.is_guilty:\n        return Suspension.GUILTY",
        after="    if one.is_guilty and one.is_absent:\n        return Suspension.GUILTY",
        rule="A5",
        killers=(ORDER,),
    ),
    Mutant(
        name="guilt-forgotten-at-a-fresh-start",
        file=TURNS,
        before="is_absent=one.unsigned >= unsigned_max, is_guilty=one.is_guilty",
        after="is_absent=one.unsigned >= unsigned_max, is_guilty=False",
        rule="A6",
        killers=(ORDER,),
    ),
    Mutant(
        name="fresh-start-counts-the-turn-before",
        file=TURNS,
        before="proposer_before=NOBODY) if is_fresh else counted",
        after="proposer_before=NOBODY) if height < 0 else counted",
        rule="A6",
        killers=(ORDER,),
    ),
    Mutant(
        name="proposer-of-a-block-decided-late-misses-its-turn",
        file=TURNS,
        before="    kept = {state.proposer_before, turns.proposer(state.height, round_)}",
        after="    kept = {turns.proposer(state.height, round_)}",
        rule="A3",
        killers=(ORDER,),
    ),
    Mutant(
        name="further-faults-of-the-convicted-start-heights",
        file="node/evidence_pool.py",
        before="        return any(not self.parts.chain.is_convicted(guilty) for",
        after="        return any(guilty >= 0 for",
        rule="A67",
        killers=(POOL,),
    ),
    Mutant(
        name="root-of-further-faults-certified-at-once",
        file="node/ledger_chain.py",
        before="        return not all(self.store.is_convicted_below(member, tip.height) for member in guilty)",
        after="        return len(guilty) > 0",
        rule="A67",
        killers=(POOL,),
    ),
)

SIGNING_FAULTS: Final = (
    Mutant(
        name="vote-sent-before-the-flush",
        file="node/speaker.py",
        before="        self.log.flush()\n",
        after="",
        rule="D1",
        killers=(RESTART,),
    ),
    Mutant(
        name="log-flushed-after-the-signature",
        file="node/speaker.py",
        before="        self.log.flush()\n        return sign(wanted)",
        after="        signed = sign(wanted)\n        self.log.flush()\n        return signed",
        rule="D1",
        killers=(RESTART,),
    ),
    Mutant(
        name="signer-record-never-flushed",
        file=SIGNER,
        before="            self._file.flush()\n",
        after="",
        rule="D2",
        killers=(RESTART,),
    ),
    Mutant(
        name="signature-released-without-a-record",
        file=SIGNER,
        before="        self._record(entry)\n        return signature",
        after="        assert entry\n        return signature",
        rule="D2",
        killers=(RECORD,),
    ),
    Mutant(
        name="second-signature-for-one-place",
        file=SIGNER,
        before="(last is not None and position <= last)",
        after="(last is not None and position < last)",
        rule="D4",
        killers=(RECORD,),
    ),
    Mutant(
        name="earlier-place-signed-after-a-later",
        file=SIGNER,
        before="(last is not None and position <= last)",
        after="(last is not None and position == last)",
        rule="D4",
        killers=(RECORD,),
    ),
    Mutant(
        name="floor-itself-signed",
        file=SIGNER,
        before="        return self._floor is not None and height > self._floor",
        after="        return self._floor is not None and height >= self._floor",
        rule="D4",
        killers=(RECORD,),
    ),
    Mutant(
        name="burnt-record-signs-at-once",
        file=SIGNER,
        before="        self._floor: Height | None = None",
        after="        self._floor: Height | None = Height(0)",
        rule="D5",
        killers=(RECORD,),
    ),
    Mutant(
        name="damage-cut-off",
        file=ENTRIES,
        before='            self._check_torn(content_end, "payload checksum")\n',
        after="",
        rule="D11",
        killers=(RECORD,),
    ),
    Mutant(
        name="damaged-head-cut-off",
        file=ENTRIES,
        before='            self._check_torn(start - 1, "head checksum")\n',
        after="",
        rule="D11",
        killers=("tests/node/test_write_ahead_log.py",),
    ),
    Mutant(
        name="cut-end-not-written-again",
        file=SIGNER,
        before="                self._mend(self._file, offset)\n",
        after="                assert offset\n",
        rule="D10",
        killers=(RECORD,),
    ),
    Mutant(
        name="record-of-another-seat-believed",
        file=SIGNER,
        before="        if self._signing_key.sign(entry.message) != entry.signature:",
        after="        if not entry.signature:",
        rule="D11",
        killers=(RECORD,),
    ),
    Mutant(
        name="second-copy-unnoticed",
        file=SIGNER,
        before="        if last is None or position > last:\n            return True",
        after="        if last is None:\n            return True",
        rule="D7",
        killers=(f"{RECORD}::test_a_signature_of_this_seat_from_elsewhere_is_known_by_its_place",),
    ),
    Mutant(
        name="own-signature-in-a-certificate-unnoticed",
        file=GATE,
        before="        if self._me in members:",
        after="        if self._me in members and certificate.round > 0:",
        rule="D7",
        killers=(DOOR,),
    ),
    Mutant(
        name="rejoin-margin-of-one",
        file=REJOIN,
        before="FLOOR_MARGIN: Final = 2",
        after="FLOOR_MARGIN: Final = 1",
        rule="D5",
        killers=(FIRE,),
    ),
    Mutant(
        name="rejoin-after-a-weak-quorum",
        file=REJOIN,
        before="        if len(answers) >= members.budget.quorum and chain.height > highest:",
        after="        if len(answers) >= members.budget.weak_quorum and chain.height > highest:",
        rule="D5",
        killers=(FIRE,),
    ),
    Mutant(
        name="rejoin-believes-an-old-answer",
        file=REJOIN,
        before="    check_decided_height(answer, nonce, members)\n",
        after="",
        rule="D5",
        killers=(FIRE,),
    ),
)

RESTART_FAULTS: Final = (
    Mutant(
        name="inputs-not-logged",
        file=MEMBER,
        before="        self._parts.log.append_event(event)\n",
        after="",
        rule="D1",
        killers=(RESTART,),
    ),
    Mutant(
        name="lock-lost-at-restart",
        file=MEMBER,
        before="        self._state = replayed.state\n",
        after="",
        rule="D13",
        killers=(RESTART,),
    ),
    Mutant(
        name="locked-block-lost-at-restart",
        file=MEMBER,
        before="        self._blocks.restore(replayed.blocks)\n",
        after="",
        rule="D13",
        killers=(RESTART,),
    ),
    Mutant(
        name="precommitted-block-not-logged",
        file=MEMBER,
        before="                    self._blocks.log(vote.block_hash)",
        after="                    assert vote.block_hash",
        rule="D14",
        killers=(RESTART,),
    ),
    Mutant(
        name="unfinished-vote-forgotten-at-restart",
        file="node/log_replay.py",
        before="isinstance(event, VoteReceived) and event.signed.vote == vote for event in events)",
        after="isinstance(event, VoteReceived) for event in events)",
        rule="D13",
        killers=(RESTART,),
    ),
    Mutant(
        name="own-vote-counted-never",
        file=MEMBER,
        before="                self._hear_own(await self._speaker.vote(vote))",
        after="                await self._speaker.vote(vote)",
        rule="A64",
        killers=(RESTART,),
    ),
    Mutant(
        name="proposer-unchecked-at-the-gate",
        file=GATE,
        before="        if proposal.height == self._chain.tip.height + 1 and proposal.proposer != expected:",
        after="        if proposal.height == self._chain.tip.height and proposal.proposer != expected:",
        rule="A34",
        killers=(DOOR,),
    ),
    Mutant(
        name="polka-of-another-valid-round-beside-a-proposal",
        file=GATE,
        before="(message.polka.block_hash, message.polka.round) != (proposal.block_hash, proposal.valid_round)",
        after="message.polka.block_hash != proposal.block_hash",
        rule="A46",
        killers=(DOOR,),
    ),
    Mutant(
        name="another-block-beside-a-proposal",
        file=GATE,
        before="        if header_hash(message.block.header) != proposal.block_hash:",
        after="        if not header_hash(message.block.header):",
        rule="A21",
        killers=(DOOR,),
    ),
)
