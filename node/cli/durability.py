"""`grandest durability`: how likely a year is to lose data, from what is assumed and what the chain has seen."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli import ExitCode, UsageError
from node.cli.output import Json, print_json, print_line, print_table
from node.cli.parser import Commands, add_json_option, new_command, node_address

if TYPE_CHECKING:
    from storage.durability import FailureModel

HOUR_MS: Final = 3_600_000
FAILURES_PER_YEAR: Final = 0.05
"""A site is lost for good every twenty years: fires, floods, bankruptcies; nine sites lose one every other year."""
REPAIR_HOURS: Final = 72.0
"""Where the chain has seen no repair: three days to notice, to find a machine, and to rebuild."""
PER_YEAR_MAX: Final = 1_000.0
SITES: Final = 9


@dataclass(frozen=True, slots=True)
class _Observed:
    """What the chain has seen of repairs."""

    repairs: int
    mean_hours: float


def add_commands(commands: Commands) -> None:
    """Mount `durability`."""
    parser = new_command(commands, "durability", "compute how likely a year is to lose data, and say from what")
    parser.add_argument("--home", type=Path, metavar="DIR", help="a testnet's home: its repair times are used")
    parser.add_argument("--node", type=node_address, metavar="URL", help="a node whose chain's repair times are used")
    parser.add_argument(
        "--failures-per-year", type=float, default=FAILURES_PER_YEAR, metavar="F", help="of one site (default 0.05)"
    )
    parser.add_argument("--repair-hours", type=float, metavar="H", help="instead of what the chain has seen")
    parser.add_argument("--common-per-year", type=float, default=0.0, metavar="F", help="events that hit several sites")
    parser.add_argument("--common-sites", type=int, default=0, metavar="N", help="how many such an event destroys")
    add_json_option(parser)
    parser.set_defaults(run=run_durability)


def run_durability(arguments: Namespace) -> int:
    """Print the probabilities and what they rest on."""
    from consensus.quorum import fault_budget

    observed = _observed(arguments)
    budget = fault_budget(SITES)
    shapes = range(budget.quorum, budget.data_columns_min - 1, -1)
    models = [_model(arguments, observed, k) for k in shapes]
    if arguments.json:
        print_json(_as_json(models, observed))
    else:
        _print_models(models, observed)
    return ExitCode.DONE


def _model(arguments: Namespace, observed: _Observed | None, k: int) -> FailureModel:
    from storage.durability import FailureModel

    failures, common, together = arguments.failures_per_year, arguments.common_per_year, arguments.common_sites
    if not 0 <= failures <= PER_YEAR_MAX or not 0 <= common <= PER_YEAR_MAX:
        raise UsageError(f"rates lie between 0 and {PER_YEAR_MAX:.0f} a year")
    if not 0 <= together <= SITES or (common > 0) != (together > 0):
        raise UsageError(f"--common-per-year and --common-sites (1 to {SITES}) go together")
    hours = arguments.repair_hours
    if hours is None:
        hours = REPAIR_HOURS if observed is None else observed.mean_hours
    if not 0 < hours <= PER_YEAR_MAX * 10:
        raise UsageError("--repair-hours is above 0 and at most 10,000")
    return FailureModel(
        sites=SITES,
        data_columns=k,
        failures_per_year=failures,
        repair_hours=hours,
        common_per_year=common,
        common_sites=together,
    )


def _observed(arguments: Namespace) -> _Observed | None:
    """Return what the chain has seen, None where it was not asked or has seen no repair."""
    from node.api.audits import AuditsAnswer
    from node.cli.asked_node import ask, node_addresses, open_node

    if arguments.home is not None and arguments.node is not None:
        raise UsageError("give --home or --node, not both")
    if arguments.home is None and arguments.node is None:
        return None
    with open_node(node_addresses(arguments)) as (http, _):
        answer = ask(http, "/v1/audits", AuditsAnswer)
    repairs = sum(operator.repairs for operator in answer.operators)
    total_ms = sum(operator.repairs * (operator.mean_repair_ms or 0) for operator in answer.operators)
    return _Observed(repairs, max(total_ms / repairs, answer.epoch_ms) / HOUR_MS) if repairs else None


def _as_json(models: list[FailureModel], observed: _Observed | None) -> Json:
    from storage.durability import annual_loss, nines

    first = models[0]
    return {
        "sites": first.sites,
        "failures_per_year": first.failures_per_year,
        "repair_hours": first.repair_hours,
        "repairs_observed": 0 if observed is None else observed.repairs,
        "common_per_year": first.common_per_year,
        "common_sites": first.common_sites,
        "shapes": [
            {
                "data_columns": model.data_columns,
                "survives": model.survived,
                "annual_loss": annual_loss(model),
                "nines": round(min(nines(annual_loss(model)), 99.0), 2),
            }
            for model in models
        ],
    }


def _print_models(models: list[FailureModel], observed: _Observed | None) -> None:
    from storage.durability import annual_loss, nines

    first = models[0]
    rows = [
        [
            f"{model.data_columns} + {model.sites - model.data_columns}",
            str(model.survived),
            f"{annual_loss(model):.2e}",
            f"{nines(annual_loss(model)):.1f}",
        ]
        for model in models
    ]
    print_table(["coding", "sites it survives", "loss in a year", "nines"], rows)
    print_line("")
    print_line(f"failures  {first.failures_per_year:g} a year and site: everything stored there is gone")
    seen = "assumed: the chain was not asked" if observed is None else f"mean of {observed.repairs} repairs on chain"
    print_line(f"repair    {first.repair_hours:.2f} h from the loss to the last column rebuilt ({seen})")
    print_line(
        f"together  {first.common_per_year:g} events a year that destroy {first.common_sites} sites each"
        if first.common_sites
        else "together  no event destroys several sites (--common-per-year, --common-sites)"
    )
    print_line("Failures are independent but for these events; times between them and repairs are exponential.")
    print_line("Sites repair at the same time. A fault in software that all share is not in it, nor is a lost key.")
    print_line("An object is safe to this degree once it is sealed: all nine columns stored.")
