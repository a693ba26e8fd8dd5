"""For tests of a root ceremony: key holders' keys in files, and the command line, run in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.ceremony.root_proposal import Proposal
from repo_tools.cli import cli
from repo_tools.keys import signers
from signpost.console import run
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def make_key(folder: Path, name: str, passphrase: str | None = None) -> Path:
    """Make ``name.pem`` and ``name.pub.pem`` in a folder; return the path of the private key."""
    path = folder / f"{name}.pem"
    made = signers.create_key(OsMedium(), path, passphrase)
    signers.write_public(OsMedium(), path.with_suffix(".pub.pem"), made.key)
    return path


def proposal_in(file: Path) -> Proposal:
    """Return the proposal in a file."""
    return Proposal.from_bytes(file.read_bytes())


@dataclass
class RepoTools:
    """The command line of repo-tools, used on one folder, which need not be a repository.

    Attributes:
        folder: passed as ``--repo``.
        capsys: captures what is printed.
    """

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def root(self, *words: object, status: int = 0) -> str:
        """Run a ``root`` command, which must end in this status; return its stdout."""
        return self.run("root", *words, status=status)

    def run(self, *words: object, status: int = 0) -> str:
        """Run any command, which must end in this status; return its stdout."""
        self.capsys.readouterr()
        ended = run(cli, ["--repo", str(self.folder), *map(str, words)])
        printed = self.capsys.readouterr()
        assert ended == status, (words, printed.out, printed.err)
        return printed.out

    def root_json(self, *words: object, status: int = 0) -> dict[str, Any]:
        """Run a ``root`` command with ``--json``; return the document."""
        document: dict[str, Any] = json.loads(self.root(*words, "--json", status=status))
        return document

    def error(self, *words: object, status: int) -> str:
        """Run a ``root`` command that must fail; return the error's code."""
        return str(self.root_json(*words, status=status)["error"]["code"])

    def sign(self, file: Path, *pems: Path) -> None:
        """Sign a proposal with each of these keys, as key holders without a repository do."""
        for pem in pems:
            assert (
                run(cli, ["--repo", str(file.parent), "root", "sign", str(file), "--key", f"file2:{pem}"])
                == 0
            )

    def add_signer(self, pem: Path) -> None:
        """Add a new private key to the signers in repo.toml."""
        line = self.root("public-key", f"file2:{pem}", "--signer-line")
        with (self.folder / "repo.toml").open("a", encoding="utf-8") as file:
            file.write(line)
