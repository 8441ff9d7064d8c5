"""What fits one answer is a beginning of what was asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.helping import within_bytes


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(0, 200))
def test_as_many_records_as_fit_are_sent_from_the_first_on(records: list[bytes], bytes_max: int) -> None:
    chosen = within_bytes(records, bytes_max)
    assert list(chosen) == records[: len(chosen)]
    assert sum(map(len, chosen)) <= bytes_max
    if len(chosen) < len(records):
        assert sum(map(len, records[: len(chosen) + 1])) > bytes_max
