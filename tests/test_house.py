"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
ROOMS = ("consensus", "storage", "node", "testnet")
LINES_PER_FILE_MAX = 500
LINES_PER_FUNCTION_MAX = 70

FORBIDDEN_NAMES = frozenset(
    {"data", "info", "manager", "utils", "helper", "process", "key", "hash", "version", "id", "size"}
)
"""Names that say nothing (CONTRIBUTING, How we write): say which key, the hash of what."""
FORBIDDEN_FILE_NAMES = frozenset({"types.py", "utils.py", "common.py", "helpers.py", "misc.py"})
FORBIDDEN_WORDS = re.compile(
    r"\b(?:issue\s*#?\d+|pull request #?\d+|TODO|FIXME|XXX|HACK)\b"
    r"|(?<![\w&])#\d{1,4}\b(?!\d|[0-9a-fA-F])|/work/|/tmp/probe|/root/",
    re.IGNORECASE,
)
FORBIDDEN_PAGES = re.compile(r"(?<![.\w])(?:DESIGN|FACTS|STYLE|LAYOUT|CONSENSUS)\b(?! =)")
"""Pages of before the first line, which no reader of this repository has: cite rules and decisions."""
FORBIDDEN_TEST_CALLS = re.compile(
    r"\btime\.sleep\(|\btrio\.sleep\((?!0\)|math\.inf\))|pytest\.mark\.(?:skip|skipif|xfail)|pytest\.(?:skip|xfail)\("
)
RULE_CITED = re.compile(r"docs/protocol\.md,? (?:rules? )?([A-Z]+\d+)|\brule ([A-Z]+\d+)\b")
RULE_DEFINED = re.compile(r"(?:^|[|*\s(])\**([A-Z]+\d+)\**(?:[.:|*\s)]|$)", re.MULTILINE)


def tracked_files() -> tuple[Path, ...]:
    """Files of the repository, or of the folder when it is no repository (an unpacked sdist)."""
    listed = subprocess.run(["git", "ls-files"], cwd=HOUSE, capture_output=True, text=True, check=False)  # noqa: S607 (git of the machine)
    names = listed.stdout.splitlines()
    paths = (
        [HOUSE / name for name in names] if names else [path for path in HOUSE.rglob("*") if ".venv" not in path.parts]
    )
    return tuple(path for path in paths if path.is_file())


def sources(*folders: str) -> tuple[Path, ...]:
    return tuple(
        path for path in tracked_files() if path.suffix == ".py" and path.relative_to(HOUSE).parts[0] in folders
    )


def named(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module gives: variables, parameters, fields, functions, classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case _:
                pass


def test_a_file_is_one_sitting() -> None:
    long_files = [
        named(path) for path in sources(*ROOMS, "tests") if len(path.read_text().splitlines()) > LINES_PER_FILE_MAX
    ]
    assert long_files == []


def test_a_function_fits_one_screen() -> None:
    long_functions = [
        f"{named(path)}:{function.lineno} {function.name}"
        for path in sources(*ROOMS, "tests")
        for function in functions(ast.parse(path.read_text()))
        if (function.end_lineno or function.lineno) - function.lineno + 1 > LINES_PER_FUNCTION_MAX
    ]
    assert long_functions == []


def test_names_say_which() -> None:
    bare = [
        f"{named(path)}:{line} {name}"
        for path in sources(*ROOMS)
        for name, line in bound_names(ast.parse(path.read_text()))
        if name in FORBIDDEN_NAMES
    ]
    assert bare == []


def test_a_module_is_named_after_its_concept() -> None:
    assert [named(path) for path in sources(*ROOMS, "tests") if path.name in FORBIDDEN_FILE_NAMES] == []


def test_every_module_says_what_it_is() -> None:
    silent = [named(path) for path in sources(*ROOMS, "tests") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_nothing_points_outside_or_is_left_for_later() -> None:
    found = [
        f"{named(path)}:{number} {line.strip()[:80]}"
        for path in tracked_files()
        if path.suffix in {".py", ".md", ".toml", ".pyi", ""} and path.name not in {"test_house.py", "LICENSE"}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if FORBIDDEN_WORDS.search(line)
    ]
    assert found == []


def test_what_is_cited_stands_in_the_house() -> None:
    outside = [
        f"{named(path)}:{number} {line.strip()[:80]}"
        for path in tracked_files()
        if path.suffix in {".py", ".md"} and path.name != "test_house.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN_PAGES.search(line)
    ]
    assert outside == []


def test_locks_name_no_index_and_hash_every_file() -> None:
    for lock in ("requirements.txt", "requirements-dev.txt", "requirements-clients.txt"):
        text = (HOUSE / lock).read_text()
        assert "://" not in text, f"{lock} names an index or a link"
        assert not re.search(r"^-", text, re.MULTILINE), f"{lock} carries an option"
        entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
        unpinned = [entry.split(" ")[0] for entry in entries if entry.strip() and "--hash=sha256:" not in entry]
        assert unpinned == []


def test_tests_neither_sleep_nor_skip() -> None:
    found = [
        f"{named(path)}:{number} {line.strip()[:80]}"
        for path in sources("tests")
        if path.name != "test_house.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN_TEST_CALLS.search(line)
    ]
    assert found == []


def test_every_cited_rule_exists() -> None:
    pages = [path.read_text() for path in (HOUSE / "docs").rglob("*.md")]
    defined = {rule for page in pages for rule in RULE_DEFINED.findall(page)}
    cited = {
        (rule, named(path))
        for path in sources(*ROOMS, "tests")
        if path.name != "test_house.py"
        for pair in RULE_CITED.findall(path.read_text())
        for rule in pair
        if rule
    }
    assert sorted((rule, path) for rule, path in cited if rule not in defined) == []


def test_the_map_names_what_is_there() -> None:
    named_there = set(re.findall(r"`(?:[a-z_]+/)*([a-z_]+\.py)`", (HOUSE / "docs" / "ARCHITECTURE.md").read_text()))
    assert len(named_there) > 80
    assert sorted(named_there - {path.name for path in sources(*ROOMS)}) == []


def test_every_relative_link_of_the_pages_leads_somewhere() -> None:
    broken = [
        f"{named(page)}: {target}"
        for page in tracked_files()
        if page.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_wheel_holds_exactly_the_four_rooms(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=HOUSE, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        top_level = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == set(ROOMS)


@pytest.mark.parametrize("module", ["testnet.cli", "node.client"])
def test_the_command_line_and_the_client_never_load_libp2p(module: str) -> None:
    """It takes half a second to import and is of no use to either."""
    program = f"import sys, {module}; sys.exit('libp2p' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], cwd=HOUSE, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
