"""`grandest operator`: how a company comes to sit, changes its keys, and votes on the seats of all.

- newcomer: `init` makes a home with keys of its own, and the offer to sit; `join` shows the offer.
- member: `rotate` makes keys to come for its own seat, and their offer; `propose` has a block carry a change, with this
  member's approval; `approve` approves what another member proposes.
- anybody: `changes` shows what is proposed and decided.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli import ExitCode, UsageError
from node.cli.output import Json, note, print_json, print_line, print_result, print_table
from node.cli.parser import (
    NUMBER_DIGITS_MAX,
    Commands,
    add_json_option,
    existing_directory,
    genesis_hash,
    hex_digits,
    new_command,
    node_address,
    port_number,
    seat_number,
    short_name,
)

if TYPE_CHECKING:
    from consensus.identifiers import GenesisHash
    from node.api.changes import ChangesAnswer, ProposalAnswer
    from node.config import NodeConfig
    from node.keys import OperatorKeys
    from storage.genesis import Seat
    from storage.seat_changes import Change, SeatOffer
    from storage.state import SeatState

OFFER_NAME: Final = "offer"
CHANGE_ID_BYTES: Final = 32
LIBP2P_PORT: Final = 4001
SHARD_PORT: Final = 4002
API_PORT: Final = 8080
CONFIGURATION: Final = """# Settings of one node; node/config.py names them all.
seat = {seat}
genesis_hash = "{pin}"
listen_host = "{listen_host}"
libp2p_port = {libp2p_port}
shard_port = {shard_port}
api_host = "{api_host}"
api_port = {api_port}
"""


def add_commands(commands: Commands) -> None:
    """Mount `operator init`, `join`, `rotate`, `propose`, `approve` and `changes`."""
    parser = new_command(commands, "operator", "take a seat, change its keys, vote on the seats of all")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    init = new_command(actions, "init", "make a newcomer's home: keys, settings, genesis, and its offer to sit")
    init.add_argument("--home", required=True, type=Path, metavar="DIR", help="empty or absent")
    init.add_argument("--node", required=True, type=node_address, metavar="URL", help="the API of any member's node")
    init.add_argument("--genesis-hash", type=genesis_hash, metavar="HEX", help="what you know of it from elsewhere")
    init.add_argument("--seat", type=seat_number, metavar="N", help="whose place to take; one more seat unless said")
    _add_address(init)
    add_json_option(init)
    init.set_defaults(run=run_init)
    join = new_command(actions, "join", "show the offer of a home, to be proposed by a member")
    _add_home(join)
    add_json_option(join)
    join.set_defaults(run=run_join)
    rotate = new_command(actions, "rotate", "make new keys for a member's own seat, and the offer with them")
    _add_home(rotate)
    add_json_option(rotate)
    rotate.set_defaults(run=run_rotate)
    propose = new_command(actions, "propose", "propose a change, and approve it as this member")
    _add_home(propose)
    kinds = propose.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--offer", type=Path, metavar="FILE", help="what `operator init` or `rotate` wrote")
    kinds.add_argument("--remove", type=seat_number, metavar="N", help="end a seat")
    kinds.add_argument("--set", action="append", metavar="NAME=NUMBER", help="a parameter, such as heartbeat_ms=30000")
    add_json_option(propose)
    propose.set_defaults(run=run_propose)
    approve = new_command(actions, "approve", "approve what another member proposes")
    _add_home(approve)
    approve.add_argument(
        "--proposer", required=True, type=seat_number, metavar="N", help="whose proposal: a seat's number"
    )
    approve.add_argument(
        "--change-id",
        type=hex_digits("change id", CHANGE_ID_BYTES),
        metavar="HEX",
        help="what you have read; the present proposal unless said",
    )
    add_json_option(approve)
    approve.set_defaults(run=run_approve)
    changes = new_command(actions, "changes", "show what is proposed and decided")
    source = changes.add_mutually_exclusive_group(required=True)
    source.add_argument("--home", type=existing_directory, metavar="DIR", help="a member's home: its own node is asked")
    source.add_argument("--node", type=node_address, metavar="URL", help="the API of a node")
    add_json_option(changes)
    changes.set_defaults(run=run_changes)


def run_init(arguments: Namespace) -> int:
    """Make a newcomer's home."""
    from consensus.genesis import decode_genesis
    from consensus.genesis import genesis_hash as hash_of_genesis
    from node.cli.asked_node import fetch, open_node
    from node.errors import ConfigurationError
    from node.keys import create_keys
    from node.signer import create_signer_record

    home: Path = arguments.home
    if home.exists() and any(home.iterdir()):
        raise ConfigurationError(f"{home} is not empty: name an empty or absent directory")
    with open_node((str(arguments.node),)) as (http, _):
        encoded, seats = fetch(http, "/v1/raw/genesis"), _raw_seats(fetch(http, "/v1/raw/seats"))
    genesis = decode_genesis(encoded)
    pin = hash_of_genesis(genesis)
    if arguments.genesis_hash not in {None, pin}:
        raise ConfigurationError(f"the node's chain has the genesis hash {pin.hex()}: another chain, or a lie")
    number = len(seats) if arguments.seat is None else int(arguments.seat)
    if number > len(seats):
        raise UsageError(f"there is no seat {number}: 0 to {len(seats) - 1}, or {len(seats)} for one more")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = create_keys(home / "keys")
    create_signer_record(home)
    (home / "genesis").write_bytes(encoded)
    settings = CONFIGURATION.format(
        seat=number,
        pin=pin.hex(),
        listen_host=arguments.listen_host or arguments.host,
        libp2p_port=arguments.libp2p_port,
        shard_port=arguments.shard_port,
        api_host=arguments.api_host or "127.0.0.1",
        api_port=arguments.api_port,
    )
    (home / "config.toml").write_text(settings)
    _write_offer(home, _new_offer(number, _seat_record(arguments, keys), keys, pin))
    print_result(
        arguments,
        {"offer": str(home / OFFER_NAME), "seat": number, "genesis_hash": pin.hex()},
        f"{home / OFFER_NAME}: send it to a member, who proposes it; start the node when it is approved",
    )
    note(f"genesis hash {pin.hex()}: compare it with one that you know from elsewhere")
    return ExitCode.DONE


def run_join(arguments: Namespace) -> int:
    """Show an offer."""
    from consensus.encoding import encode

    offer = _read_offer(arguments.home / OFFER_NAME)
    if arguments.json:
        print_json({**_offer_json(offer), "offer": encode(offer).hex()})
    else:
        for name, text in _offer_json(offer).items():
            print_line(f"{name:14} {text}")
    return ExitCode.DONE


def run_rotate(arguments: Namespace) -> int:
    """Make the keys to come for a member's own seat."""
    import msgspec

    from node.config import load_config, read_config_file
    from node.errors import ConfigurationError
    from node.keys import NEXT_FOLDER, create_keys
    from node.network.certificates import make_certificate
    from node.signer import create_signer_record

    config = load_config(arguments.home)
    if read_config_file(config.home / "config.toml").seat is None:
        raise ConfigurationError(f"{config.home / 'config.toml'} must say seat = {config.seat}: genesis has other keys")
    seats = _seats_of(config)
    if config.seat >= len(seats) or seats[config.seat].signing_key != config.keys.signing.public:
        raise ConfigurationError(f"seat {config.seat} is not held by the keys in {config.home / 'keys'}")
    keys = create_keys(config.home / NEXT_FOLDER)
    create_signer_record(config.home / NEXT_FOLDER)
    seat = msgspec.structs.replace(
        seats[config.seat].seat, network_key=keys.network.public, certificate=make_certificate(keys.network)
    )
    _write_offer(config.home, _new_offer(int(config.seat), seat, keys, config.genesis_hash))
    print_result(
        arguments,
        {"offer": str(config.home / OFFER_NAME), "seat": config.seat},
        f"{config.home / OFFER_NAME}: propose it; the node takes the new keys by itself once they are effective",
    )
    return ExitCode.DONE


def run_propose(arguments: Namespace) -> int:
    """Have a block carry a proposal."""
    from node.cli.node import submit_body
    from node.config import load_config
    from storage.identifiers import SeatIndex
    from storage.seat_changes import ProposeChange, RemoveSeat

    config = load_config(arguments.home)
    change: Change
    if arguments.offer is not None:
        change = _offered_change(config, _read_offer(arguments.offer))
    elif arguments.remove is not None:
        change = RemoveSeat(number=SeatIndex(int(arguments.remove)))
    else:
        change = _parameter_change(config, arguments.set)
    outcome = submit_body(config, ProposeChange(change=change))
    print_result(
        arguments,
        {"height": outcome.height, "proposer": config.seat},
        f"proposed at height {outcome.height}: others approve it with --proposer {config.seat}",
    )
    return ExitCode.DONE


def run_approve(arguments: Namespace) -> int:
    """Have a block carry an approval."""
    from node.cli.node import submit_body
    from node.config import load_config
    from node.errors import RefusedError
    from storage.identifiers import SeatIndex
    from storage.seat_changes import ApproveChange

    config = load_config(arguments.home)
    proposal = _proposal_of(_changes((config.own_api,)), int(arguments.proposer))
    change_id = bytes.fromhex(proposal.change_id)
    if arguments.change_id not in {None, change_id}:
        raise RefusedError(f"seat {arguments.proposer} proposes something else now: {proposal.change_id}")
    outcome = submit_body(config, ApproveChange(proposer=SeatIndex(proposal.proposer), change_id=change_id))
    print_result(
        arguments,
        {"height": outcome.height, "proposer": proposal.proposer, "change_id": proposal.change_id},
        f"approved at height {outcome.height}: {_described(proposal)}",
    )
    return ExitCode.DONE


def run_changes(arguments: Namespace) -> int:
    """Show proposals and what is decided."""
    import msgspec

    from node.config import load_config

    addresses = (str(arguments.node),) if arguments.node else (load_config(arguments.home).own_api,)
    answer = _changes(addresses)
    if arguments.json:
        shown: Json = msgspec.to_builtins(answer)
        print_json(shown)
        return ExitCode.DONE
    if not answer.proposals:
        print_line(f"nothing is proposed at height {answer.height}")
    rows = [
        [str(p.proposer), _described(p), f"{len(p.approvals)} of {answer.quorum}", str(p.expires), p.change_id]
        for p in answer.proposals
    ]
    if rows:
        print_table(["proposer", "change", "approved by", "until", "change id"], rows)
    if answer.scheduled is not None:
        decided = answer.scheduled
        print_line(f"decided: {decided.kind} of seat {decided.seat}, from height {decided.effective} on")
    return ExitCode.DONE


def _offered_change(config: NodeConfig, offer: SeatOffer) -> Change:
    """Return what an offer asks for: a new seat, other keys of the same occupant, or another occupant."""
    from node.errors import ConfigurationError
    from node.network.certificates import key_of_certificate
    from storage.seat_changes import AddSeat, ReplaceOccupant, RotateKeys, check_offer

    check_offer(offer, config.genesis_hash)
    if key_of_certificate(offer.seat.certificate) != offer.seat.network_key:
        raise ConfigurationError("the offer's certificate is not of its network key")
    seats = _seats_of(config)
    if offer.number >= len(seats):
        return AddSeat(offer=offer)
    is_own = int(offer.number) == int(config.seat) and offer.seat.operator == seats[offer.number].seat.operator
    return RotateKeys(offer=offer) if is_own else ReplaceOccupant(offer=offer)


def _parameter_change(config: NodeConfig, settings: list[str]) -> Change:
    from msgspec.structs import replace

    from node.cli.asked_node import fetch, open_node
    from storage.proofs import decode_state_proof
    from storage.seat_changes import ChangeParameters
    from storage.state import CHAIN_KEY, ChainState, decode_state

    with open_node((config.own_api,)) as (http, _):
        proof = decode_state_proof(fetch(http, f"/v1/proofs/state/{CHAIN_KEY.hex()}?raw=1"))
    assert proof.value is not None, "every state names its parameters"
    chain = decode_state(proof.value, ChainState)
    agreement, storage = chain.agreement, chain.parameters
    for setting in settings:
        name, _, number = setting.partition("=")
        if not (number.isascii() and number.isdigit() and len(number) <= NUMBER_DIGITS_MAX):
            raise UsageError(f"{setting!r}: NAME=NUMBER is needed")
        if name in type(agreement).__struct_fields__:
            agreement = replace(agreement, **{name: int(number)})
        elif name in type(storage).__struct_fields__:
            storage = replace(storage, **{name: int(number)})
        else:
            known = (*type(agreement).__struct_fields__, *type(storage).__struct_fields__)
            raise UsageError(f"no parameter {name!r}; there are {', '.join(known)}")
    return ChangeParameters(agreement=agreement, storage=storage)


def _changes(addresses: tuple[str, ...]) -> ChangesAnswer:
    from node.api.changes import ChangesAnswer
    from node.cli.asked_node import ask, open_node

    with open_node(addresses) as (http, _):
        return ask(http, "/v1/seats/changes", ChangesAnswer)


def _proposal_of(answer: ChangesAnswer, proposer: int) -> ProposalAnswer:
    from node.errors import NotFoundError

    found = next((proposal for proposal in answer.proposals if proposal.proposer == proposer), None)
    if found is None:
        raise NotFoundError(f"seat {proposer} proposes nothing now: see `grandest operator changes`")
    return found


def _described(proposal: ProposalAnswer) -> str:
    where = "" if proposal.seat is None else f" of seat {proposal.seat}"
    return f"{proposal.kind}{where}" + ("" if proposal.operator is None else f" for {proposal.operator}")


def _seat_record(arguments: Namespace, keys: OperatorKeys) -> Seat:
    from node.network.certificates import make_certificate
    from storage.genesis import Seat

    return Seat(
        operator=arguments.operator,
        site=arguments.site,
        network_key=keys.network.public,
        certificate=make_certificate(keys.network),
        host=arguments.host,
        libp2p_port=arguments.libp2p_port,
        shard_port=arguments.shard_port,
        api_port=arguments.api_port,
    )


def _new_offer(number: int, seat: Seat, keys: OperatorKeys, pin: GenesisHash) -> SeatOffer:
    from storage.identifiers import SeatIndex
    from storage.seat_changes import make_offer

    return make_offer(SeatIndex(number), seat, keys.signing, pin)


def _write_offer(home: Path, offer: SeatOffer) -> None:
    from consensus.encoding import encode

    (home / OFFER_NAME).write_bytes(encode(offer))


def _read_offer(path: Path) -> SeatOffer:
    from consensus.errors import RejectionError
    from node.errors import ConfigurationError
    from storage.seat_changes import OFFER_BYTES_MAX, decode_offer

    try:
        with path.open("rb") as file:
            return decode_offer(file.read(OFFER_BYTES_MAX + 1))
    except RejectionError as error:
        raise ConfigurationError(f"{path} is no offer ({error}): `grandest operator init` makes one") from error


def _offer_json(offer: SeatOffer) -> dict[str, str]:
    seat = offer.seat
    return {
        "seat": str(offer.number),
        "operator": seat.operator,
        "site": seat.site,
        "signing key": offer.signing_key.hex(),
        "network key": seat.network_key.hex(),
        "host": seat.host,
        "ports": f"libp2p {seat.libp2p_port}, shards {seat.shard_port}, API {seat.api_port}",
    }


def _seats_of(config: NodeConfig) -> tuple[SeatState, ...]:
    from node.cli.asked_node import fetch, open_node

    with open_node((config.own_api,)) as (http, _):
        return _raw_seats(fetch(http, "/v1/raw/seats"))


def _raw_seats(encoded: bytes) -> tuple[SeatState, ...]:
    from storage.membership import decode_seats

    return decode_seats(encoded)


def _add_home(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--home", required=True, type=existing_directory, metavar="DIR", help="holds config.toml, genesis and keys/"
    )


def _add_address(parser: ArgumentParser) -> None:
    parser.add_argument("--operator", type=short_name, required=True, metavar="NAME", help="the legal person")
    parser.add_argument("--site", type=short_name, required=True, metavar="NAME", help="where the machine stands")
    parser.add_argument("--host", type=short_name, required=True, metavar="HOST", help="where the others reach it")
    parser.add_argument("--listen-host", metavar="HOST", help="where it listens, if not there")
    parser.add_argument("--libp2p-port", type=port_number, default=LIBP2P_PORT, metavar="PORT")
    parser.add_argument("--shard-port", type=port_number, default=SHARD_PORT, metavar="PORT")
    parser.add_argument("--api-host", metavar="HOST", help="127.0.0.1 unless said")
    parser.add_argument("--api-port", type=port_number, default=API_PORT, metavar="PORT")
