"""`grandest durability` says what it computed and from what, and refuses what makes no sense."""

from __future__ import annotations

import json

import pytest

from node.cli import ExitCode
from testnet.cli import main


def test_the_three_codings_are_told_with_their_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["durability", "--failures-per-year", "0.05", "--repair-hours", "72"]
    assert main(words) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert [line.split()[:3] for line in shown.splitlines()[1:4]] == [["6", "+", "3"], ["5", "+", "4"], ["4", "+", "5"]]
    for assumed in ("0.05 a year and site", "72.00 h", "independent", "exponential", "software that all share"):
        assert assumed in shown


def test_the_figures_are_for_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["durability", "--json", "--common-per-year", "0.001", "--common-sites", "4", "--repair-hours", "72"]
    assert main(words) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    losses = [shape["annual_loss"] for shape in told["shapes"]]
    assert [shape["survives"] for shape in told["shapes"]] == [3, 4, 5]
    assert losses[0] == pytest.approx(0.001, rel=0.01), "four sites at once are one too many for 6 + 3"
    assert losses[0] > 100 * losses[1] > 100 * losses[2]
    assert (told["repairs_observed"], told["common_sites"]) == (0, 4)


@pytest.mark.parametrize(
    "words",
    [
        ["--failures-per-year", "-1"],
        ["--repair-hours", "0"],
        ["--common-per-year", "1"],
        ["--common-sites", "10", "--common-per-year", "1"],
        ["--home", "a", "--node", "http://127.0.0.1:1"],
    ],
)
def test_what_makes_no_sense_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["durability", *words]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("grandest: ")
