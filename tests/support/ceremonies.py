"""What tests of a ceremony need: keys of holders in files, and the command line, run in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools import keys
from repo_tools.cli import cli
from repo_tools.proposal import Proposal
from signpost.console import run
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def make_key(folder: Path, name: str, passphrase: str | None = None) -> Path:
    """Make ``name.pem`` and ``name.pub.pem`` in a folder; return the private one."""
    path = folder / f"{name}.pem"
    made = keys.create_key(OsMedium(), path, passphrase)
    keys.write_public(OsMedium(), path.with_suffix(".pub.pem"), made.key)
    return path


def proposal_in(file: Path) -> Proposal:
    """Return the proposal in a file."""
    return Proposal.from_bytes(file.read_bytes())


@dataclass
class Desk:
    """Somebody at a command line, in front of one repository, or of none.

    Attributes:
        folder: passed as ``--repo``. capsys: where what is printed is found.
    """

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def says(self, *words: object, status: int = 0) -> str:
        """Run a ``root`` command; return what it printed on stdout."""
        return self.types("root", *words, status=status)

    def types(self, *words: object, status: int = 0) -> str:
        """Run any command, which must end in this status; return what it printed on stdout."""
        self.capsys.readouterr()
        ended = run(cli, ["--repo", str(self.folder), *map(str, words)])
        printed = self.capsys.readouterr()
        assert ended == status, (words, printed.out, printed.err)
        return printed.out

    def told(self, *words: object, status: int = 0) -> dict[str, Any]:
        """Run a ``root`` command with ``--json``; return the document."""
        document: dict[str, Any] = json.loads(self.says(*words, "--json", status=status))
        return document

    def error(self, *words: object, status: int) -> str:
        """Run a ``root`` command that must fail; return the error's code."""
        return str(self.told(*words, status=status)["error"]["code"])

    def sign(self, file: Path, *pems: Path) -> None:
        """Sign a proposal with each of these keys, as holders that have no repository."""
        for pem in pems:
            assert (
                run(cli, ["--repo", str(file.parent), "root", "sign", str(file), "--key", f"file2:{pem}"])
                == 0
            )

    def at_hand(self, pem: Path) -> None:
        """Say in repo.toml where a new private key is."""
        line = self.says("public-key", f"file2:{pem}", "--signer-line")
        with (self.folder / "repo.toml").open("a", encoding="utf-8") as file:
            file.write(line)
