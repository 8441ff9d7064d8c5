"""The public traces of Tendermint's specification, replayed through the product's own driver.

GRANDEST_VECTORS names the folder (default: tests/vectors). An empty folder is a failure, not a pass.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from consensus.driver import apply
from consensus.effects import Effect
from consensus.errors import RejectionError
from consensus.height_state import HeightState
from consensus.round_machine import RoundValue
from tests.consensus.vector_adapter import Run, Seen, Vector, name_of, observed

FOLDER = Path(os.environ.get("GRANDEST_VECTORS", Path(__file__).parent.parent / "vectors"))
FILES = sorted(file for file in FOLDER.glob("*.json") if file.name != "encodings.json")


def snapshot(state: HeightState) -> Seen:
    machine = state.machine
    return {
        "round": machine.round,
        "step": machine.step.name.lower(),
        **_pair("locked", machine.locked),
        **_pair("valid", machine.valid),
    }


def _pair(name: str, held: RoundValue | None) -> Seen:
    return {
        f"{name}_round": -1 if held is None else held.round,
        f"{name}_value": None if held is None else name_of(held.block_hash),
    }


def replay(vector: Vector, run: Run) -> list[Seen]:
    state, sent = vector.start(run), list[Seen]()
    for position, given in enumerate(run.inputs):
        effects: tuple[Effect, ...] = ()
        with suppress(RejectionError):
            state, effects = apply(state, vector.event(run, given))
        sent += [seen for effect in effects if (seen := observed(effect))]
        if given.then is not None and state.decision is None:
            assert snapshot(state) == given.then, f"{run.member} height {run.height} after input {position}: {given}"
    return sent


def sorted_outputs(outputs: list[Seen]) -> list[bytes]:
    return sorted(msgspec.json.encode(output, order="sorted") for output in outputs)


def test_there_are_vectors() -> None:
    assert FILES, f"no *.json in {FOLDER}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_driver_does_what_the_specification_did(file: Path) -> None:
    vector = msgspec.json.decode(file.read_bytes(), type=Vector)
    assert vector.runs
    for run in vector.runs:
        sent = replay(vector, run)
        assert sorted_outputs(sent) == sorted_outputs(run.expect), f"{run.member} at height {run.height}"
