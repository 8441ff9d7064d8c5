"""Commands that ask a node believe nothing of its form: what is no answer is said in one line."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from node.cli import ExitCode, asked_node
from node.cli.asked_node import blocks, fetch, open_node
from node.cli.output import Progress
from node.errors import PeerUnreachableError
from testnet.cli import main

STATUS = b'{"height": 2}'


@contextmanager
def answering(answers: dict[str, bytes]) -> Generator[str]:
    """Give the address of what answers these paths, and everything else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path.partition("?")[0])
            self.send_response(404 if body is None else 200)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.parametrize("status", [b"", b"[]", b'{"height": "high"}', b'{"height": null}', b"<html>", b"\xff"])
def test_what_is_no_status_is_no_node(status: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with answering({"/v1/status": status}) as address:
        assert main(["operator", "changes", "--node", address]) == ExitCode.UNREACHABLE
    said = capsys.readouterr().err
    assert said.startswith("grandest: no node answers (http://127.0.0.1:")
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", [["audit", "operators"], ["durability"], ["operator", "changes"]])
def test_an_answer_of_another_form_is_said(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    nonsense = {"/v1/status": STATUS, "/v1/audits": b'{"epoch": []}', "/v1/seats/changes": b"7"}
    with answering(nonsense) as address:
        assert main([*command, "--node", address]) == ExitCode.UNREACHABLE
    assert "answers otherwise than a node does" in capsys.readouterr().err


@pytest.mark.parametrize(
    "raw", [b"\0", b"\0\0\0\5abcd", b"\xff\xff\xff\xff", b"\0\0\0\1a" * 3], ids=["short", "cut", "huge", "too many"]
)
def test_blocks_come_whole_and_as_many_as_asked(raw: bytes, tmp_path: Path) -> None:
    answers = {"/v1/status": STATUS, "/v1/raw/blocks": raw, "/v1/raw/genesis": b"g"}
    with answering(answers) as address, open_node((address,)) as (http, height), Progress("blocks", 2) as progress:
        with pytest.raises(PeerUnreachableError, match=r"ends inside|answers with 3 blocks"):
            list(blocks(http, range(1, height + 1), progress))
        out = tmp_path / "export"
        assert main(["audit", "export", "--node", address, "--out", str(out)]) == ExitCode.UNREACHABLE
        assert list(tmp_path.iterdir()) == []


def test_an_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked_node, "ANSWER_BYTES_MAX", 100)
    answers = {"/v1/status": STATUS, "/most": b"x" * 100, "/more": b"x" * 101}
    with answering(answers) as address, open_node((address,)) as (http, _):
        assert len(fetch(http, "/most")) == 100
        with pytest.raises(PeerUnreachableError, match="/more: more than 100 bytes"):
            fetch(http, "/more")
