"""A tenant's life by its commands on nine real nodes: registered, granted, revoked, moved, lost and recovered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from msgspec.structs import replace

from node.keystore import KEYSTORE_FILE, read_keystore
from testnet.cluster import Cluster
from testnet.genesis import USUAL_PARAMETERS
from tests.integration.conftest import running_testnet

GRANDEST = (sys.executable, "-m", "testnet.cli")
SECONDS_MAX = 120
PASSPHRASE = "correct horse battery staple"


class Tenant:
    """One tenant's folders beside a testnet."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        folder.mkdir()
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(PASSPHRASE + "\n")
        self.passphrase.chmod(0o600)
        self.node = f"http://127.0.0.1:{cluster.seats[0].api_port}"
        self.genesis = str(cluster.home / "genesis")
        self.printed = b""

    def run(self, *words: str, contents: bytes = b"", code: int = 0) -> str:
        """Run `grandest` and return what it printed; nothing that it prints is a secret."""
        done = subprocess.run(
            (*GRANDEST, *words), input=contents, capture_output=True, check=False, timeout=SECONDS_MAX
        )
        self.printed += done.stdout + done.stderr
        assert done.returncode == code, done.stderr.decode()
        return done.stdout.decode()

    def tenant(self, action: str, *words: str, code: int = 0) -> str:
        return self.run("tenant", *action.split(), *words, code=code)

    def owner(self, action: str, *words: str, folder: str = "owner", code: int = 0) -> str:
        passphrase = ("--passphrase-file", str(self.passphrase))
        return self.tenant(action, str(self.folder / folder), *words, *passphrase, code=code)

    def operator(self, action: str, seat: int, handle: str, *words: str) -> str:
        home = str(self.cluster.home / f"seat-{seat}")
        return self.tenant(action, "--operator", home, "--tenant", handle, *words)

    def shown(self, handle: str) -> dict[str, object]:
        """Return what the chain shows of the tenant."""
        found: dict[str, object] = json.loads(self.tenant("show", handle, "--node", self.node, "--json"))
        return found

    def handle(self, folder: str = "owner") -> str:
        """Return the tenant's handle."""
        keystore = read_keystore(self.folder / folder / KEYSTORE_FILE, PASSPHRASE.encode())
        return keystore.master_keys.tenant.hex()

    def secrets(self) -> list[bytes]:
        masters = [path.read_text().split() for path in self.folder.rglob("master")]
        keys = [json.loads(path.read_text()) for path in self.folder.rglob("access-keys")]
        return [
            *(line.encode() for lines in masters for line in lines),
            *(key["secret_key"].encode() for found in keys for key in found),
        ]


def test_a_tenant_lives_by_its_commands(tmp_path: Path) -> None:
    parameters = replace(USUAL_PARAMETERS, recovery_delay_ms=0)
    with running_testnet(tmp_path / "testnet", parameters) as cluster:
        here = Tenant(cluster, tmp_path / "tenant")
        handle = _registered(here)
        client = ("--node", here.node, "--keys", str(here.folder / "client"))
        here.run("put", "-", "photos/cat", *client, contents=b"meow")
        gateway_key = _granted(here)
        here.operator("quota", 0, handle, "--quota", "1000000000")
        here.owner("escrow")
        revoked = here.owner("revoke", gateway_key)
        assert "1 record sealed again, 0 retained" in revoked
        here.owner("client", str(here.folder / "again"))
        again = ("--node", here.node, "--keys", str(here.folder / "again"))
        assert here.run("get", "photos/cat", "-", *again) == "meow"
        here.run("get", "photos/cat", "-", *client, code=1)
        here.owner("move", "5")
        shown = here.shown(handle)
        assert (shown["home"], shown["escrow"], str(shown["grants"]).count("'public_key'")) == (5, True, 1)
        _recovered(here, handle)
        assert all(secret not in here.printed for secret in here.secrets())
        assert len(here.secrets()) >= 4


def _registered(here: Tenant) -> str:
    operator = str(here.cluster.home / "seat-0")
    created = here.owner("create", "--genesis", here.genesis, "--node", here.node, "--operator", operator)
    here.owner("client", str(here.folder / "client"))
    here.owner("create", "--genesis", here.genesis, "--node", here.node, code=3)
    return created.split()[1]


def _granted(here: Tenant) -> str:
    """Let a gateway receive the tenant's keys, and return its public key."""
    folder = here.folder / "gateway"
    here.tenant("identity", str(folder), "--genesis", here.genesis, "--node", here.node)
    here.tenant("receive", str(folder), "--node", here.node, code=3)
    here.owner("keys", "--add", str(here.folder / "credentials"), "--bucket", "photos", "--verb", "read")
    here.owner("grant", str(folder / "identity"))
    here.tenant("receive", str(folder), "--node", here.node)
    assert (folder / "access-keys").stat().st_mode & 0o777 == 0o600
    (key,) = json.loads((folder / "access-keys").read_text())
    assert (key["buckets"], key["verbs"]) == (["photos"], ["read"])
    assert key["secret_key"] in (here.folder / "credentials").read_text()
    assert here.run("get", "photos/cat", "-", "--node", here.node, "--keys", str(folder)) == "meow"
    return str(json.loads((folder / "identity").read_text())["public_key"])


def _recovered(here: Tenant, handle: str) -> None:
    """Lose the owner's folder, and get the keys back from six operators."""
    begun = here.owner(
        "recover begin", "--tenant", handle, "--genesis", here.genesis, "--node", here.node, folder="found"
    )
    key = ("--public-key", begun.split()[-1])
    here.owner("recover finish", folder="found", code=3)
    here.operator("recover announce", 2, handle, *key)
    for seat in range(3, 9):
        here.operator("recover approve", seat, handle, *key)
    assert "2 master keys recovered" in here.owner("recover finish", folder="found")
    here.owner("client", str(here.folder / "recovered"), folder="found")
    client = ("--node", here.node, "--keys", str(here.folder / "recovered"))
    assert here.run("get", "photos/cat", "-", *client) == "meow"
