"""The index against a dictionary, and listings over a store in memory against what S3 says of pages."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from consensus.identifiers import Height
from node.gateway.index import Dirty, Index, Indexed, VersionRow
from node.gateway.listings import Lines, ListQuestion, gather
from node.gateway.store import Listed
from storage.identifiers import BucketTag, NameTag, VersionId

BUCKET = BucketTag(b"b" * 16)
OTHER = BucketTag(b"c" * 16)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
SHORT = st.text(st.sampled_from("ab/é\U0001f600"), min_size=1, max_size=5)


def row(number: int, *, is_marker: bool = False) -> VersionRow:
    return VersionRow(
        version_id=number.to_bytes(16, "big"),
        is_null=False,
        is_marker=is_marker,
        plain_bytes=number,
        etag=str(number),
        modified_ms=number,
    )


def indexed(name: str, rows: tuple[VersionRow, ...], height: int = 0, bucket: BucketTag = BUCKET) -> Indexed:
    tag = NameTag(name.encode()[:16].ljust(16, b"."))
    return Indexed(Dirty(bucket, tag, height.to_bytes(8, "big")), name if rows else None, rows)


@given(st.dictionaries(NAMES, st.booleans(), max_size=20), NAMES, NAMES, st.integers(1, 30))
def test_pages_are_what_a_sorted_dictionary_gives(held: dict[str, bool], prefix: str, start: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder))
        index.put([indexed(name, (row(1, is_marker=is_marker),)) for name, is_marker in held.items()])
        index.put([indexed(name, (row(2),), bucket=OTHER) for name in held])
        for beginning in ("", prefix, prefix[:1]):
            expected = sorted(
                (
                    name
                    for name, is_marker in held.items()
                    if not is_marker and name.startswith(beginning) and name.encode() >= start.encode()
                ),
                key=str.encode,
            )
            found = index.list_current(BUCKET, beginning, start, count)
            assert [listed.name for listed in found] == expected[:count]
        index.close()


def test_a_name_that_a_block_names_while_it_is_opened_stays_to_be_asked(tmp_path: Path) -> None:
    index = Index(tmp_path)
    dirty = indexed("a", (row(1),), 5)
    index.mark([(dirty.dirty.bucket_tag, dirty.dirty.name_tag)], Height(5))
    index.mark([(dirty.dirty.bucket_tag, dirty.dirty.name_tag)], Height(6))
    index.put([dirty])
    assert [one.height for one in index.dirty(BUCKET, 10)] == [(6).to_bytes(8, "big")]
    index.put([indexed("a", (row(2),), 6)])
    assert index.dirty(BUCKET, 10) == []
    assert [listed.plain_bytes for listed in index.list_current(BUCKET, "", "", 10)] == [2]
    index.close()


def test_a_name_without_versions_leaves_the_index(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.put([indexed("a", (row(1),))])
    gone = indexed("a", (row(1),))
    index.put([Indexed(gone.dirty, None, ())])
    assert index.list_current(BUCKET, "", "", 10) == []
    index.close()


def test_an_index_goes_on_where_it_stopped(tmp_path: Path) -> None:
    index = Index(tmp_path)
    assert not index.is_whole
    index.begin_walk(Height(7))
    index.close()
    index = Index(tmp_path)
    assert not index.is_whole
    index.end_walk()
    index.close()
    index = Index(tmp_path)
    assert (index.is_whole, index.height) == (True, 7)
    index.close()


def test_versions_of_a_name_go_on_behind_a_marker_of_a_page(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.put([indexed("a", (row(3), row(2), row(1))), indexed("b", (row(4),))])
    behind = VersionId((3).to_bytes(16, "big"))
    assert [one.plain_bytes for one in index.list_versions(BUCKET, "", "a", 10, behind)] == [2, 1, 4]
    index.close()


@given(st.lists(SHORT, max_size=25, unique=True), st.sampled_from(["", "/", "b"]), SHORT, st.integers(1, 6))
async def test_pages_one_after_the_other_show_every_name_and_prefix_once(
    names: list[str], delimiter: str, prefix: str, lines_max: int
) -> None:
    held = sorted(names, key=str.encode)
    for beginning in ("", prefix[:1]):
        question = ListQuestion(prefix=beginning, delimiter=delimiter, lines_max=lines_max, is_encoded=False)

        async def page(start: str, count: int, beginning: str = beginning) -> list[Listed]:
            found = [name for name in held if name.startswith(beginning) and name.encode() >= start.encode()]
            return [listed(name) for name in found[:count]]

        shown: list[str] = []
        behind: str | None = None
        while True:
            start = max(beginning, behind or "", key=str.encode)
            lines: Lines = await gather(question, page, start, behind=behind)
            shown += sorted([*(one.name for one in lines.objects), *lines.prefixes], key=str.encode)
            if not lines.is_truncated:
                break
            assert lines.count == lines_max
            behind = lines.last
        assert shown == expected_lines(held, beginning, delimiter)


def expected_lines(held: list[str], prefix: str, delimiter: str) -> list[str]:
    lines: dict[str, None] = {}
    for name in held:
        if name.startswith(prefix):
            end = name.find(delimiter, len(prefix)) if delimiter else -1
            lines[name if end < 0 else name[: end + len(delimiter)]] = None
    return sorted(lines, key=str.encode)


def listed(name: str) -> Listed:
    return Listed(
        name=name,
        version_id=VersionId(bytes(16)),
        is_null=True,
        is_marker=False,
        is_latest=True,
        plain_bytes=0,
        etag="",
        modified_ms=0,
    )


def test_an_index_that_missed_pruned_blocks_has_every_name_asked_again(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.begin_walk(Height(7))
    index.put([indexed("kept", (row(1),)), indexed("removed", (row(2),))])
    index.end_walk()
    index.distrust()
    assert not index.is_whole
    index.begin_walk(Height(90))
    index.put([indexed("kept", (row(3),)), indexed("new", (row(4),))])
    index.end_walk()
    asked = index.dirty(BUCKET, 10)
    assert {one.name_tag for one in asked} == {indexed(name, ()).dirty.name_tag for name in ("kept", "removed")}
    rows_now = {indexed("kept", ()).dirty.name_tag: (row(3),)}
    index.put(
        [Indexed(one, "kept" if one.name_tag in rows_now else None, rows_now.get(one.name_tag, ())) for one in asked]
    )
    assert [(one.name, one.plain_bytes) for one in index.list_current(BUCKET, "", "", 10)] == [("kept", 3), ("new", 4)]
    index.close()
