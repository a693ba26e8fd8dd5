"""The steps of a change of root: a proposal is written, verified, signed, handed on and published."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from repo_tools.cli.proposals import compared, edit, holder, load, members, signer, store, thresholds, write
from repo_tools.cli.root import root
from repo_tools.cli.words import PATH, SPAN, ask_secrets, current_time, existing
from repo_tools.config import ROLES
from signpost.console import emit, example, json_option
from signpost.errors import ExitStatus

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from repo_tools.proposal import Proposal

PROPOSAL = click.argument("file", metavar="PROPOSAL", type=PATH)
PROPOSALS = click.argument("files", metavar="PROPOSAL…", nargs=-1, required=True, type=PATH)
ROLE = click.option("--role", type=click.Choice(ROLES), default="root", show_default=True, help="Whose key.")
EXPIRES = click.option(
    "--expires", type=SPAN, help="How long the new root lasts.  [default: what repo.toml says of root]"
)
TRUSTED_ROOT = click.option(
    "--trusted-root", type=PATH, help="A root.json that you trust, to compare with where no repository is."
)


@root.command("init")
@PROPOSAL
@click.option("--key", "keys", multiple=True, required=True, metavar="ROLE=NAME,PUBLIC.pem", help="A key.")
@click.option("--threshold", "needed", multiple=True, metavar="ROLE=N", help="Signatures a role needs.")
@click.option("--expires", type=SPAN, default="52w", show_default=True, help="How long the root lasts.")
@json_option
@click.pass_obj
@example(
    "repo-tools root init root-1.json --threshold root=2 \\",
    "  --key root=anna,anna.pub.pem --key root=boris,boris.pub.pem --key root=clara,clara.pub.pem \\",
    "  --key targets=build,targets.pub.pem --key snapshot=build,online.pub.pem \\",
    "  --key timestamp=build,online.pub.pem",
)
def init(
    repo: Path,
    /,
    *,
    file: Path,
    keys: tuple[str, ...],
    needed: tuple[str, ...],
    expires: timedelta,
    as_json: bool,
) -> None:
    """Propose the first root of a new repository, from public keys alone.

    When its root keys have signed, `repo-tools new DIR --root PROPOSAL` makes the repository.

    Exit status: 0 done, 2 wrong usage, or a threshold that cannot be met.
    """
    from repo_tools import drafting, editor

    if file.exists():
        raise click.UsageError(f"{file} exists; name a new file")
    ends = editor.expiry(current_time(), expires)
    store(repo, file, drafting.first(members(keys), thresholds(needed), ends), as_json=as_json)


@root.command("add-key")
@PROPOSAL
@click.argument("name", metavar="HOLDER")
@click.argument("public", metavar="PUBLIC.pem", type=PATH)
@ROLE
@EXPIRES
@json_option
@click.pass_obj
@example("repo-tools root add-key root-2.json dora dora.pub.pem")
def add_key(
    repo: Path, /, *, file: Path, name: str, public: Path, role: str, expires: timedelta | None, as_json: bool
) -> None:
    """Propose one more key of a role. A new PROPOSAL starts from the repository's root.

    Exit status: 0 done, 1 failed, 2 wrong usage, or somebody has signed the proposal already.
    """
    from repo_tools import drafting

    edit(repo, file, expires, lambda it: drafting.with_key(it, role, holder(name, public)), as_json=as_json)


@root.command("remove-key")
@PROPOSAL
@click.argument("name", metavar="HOLDER")
@ROLE
@EXPIRES
@json_option
@click.pass_obj
@example("repo-tools root remove-key root-2.json boris")
def remove_key(
    repo: Path, /, *, file: Path, name: str, role: str, expires: timedelta | None, as_json: bool
) -> None:
    """Propose to take out a role's key, named by its holder or by the start of its keyid.

    Exit status: 0 done, 1 failed, 2 no such key, too few would be left, or somebody has signed already.
    """
    from repo_tools import drafting

    edit(repo, file, expires, lambda it: drafting.without_key(it, role, name), as_json=as_json)


@root.command("threshold")
@PROPOSAL
@click.argument("number", metavar="N", type=int)
@ROLE
@EXPIRES
@json_option
@click.pass_obj
@example("repo-tools root threshold root-2.json 3")
def threshold(
    repo: Path, /, *, file: Path, number: int, role: str, expires: timedelta | None, as_json: bool
) -> None:
    """Propose how many keys of a role must sign.

    Exit status: 0 done, 1 failed, 2 it could never be met, or somebody has signed already.
    """
    from repo_tools import drafting

    edit(repo, file, expires, lambda it: drafting.with_threshold(it, role, number), as_json=as_json)


@root.command("rotate")
@PROPOSAL
@click.argument("old", metavar="OLD-HOLDER")
@click.argument("name", metavar="HOLDER")
@click.argument("public", metavar="PUBLIC.pem", type=PATH)
@ROLE
@EXPIRES
@json_option
@click.pass_obj
@example("repo-tools root rotate root-2.json boris boris new-boris.pub.pem")
def rotate(
    repo: Path,
    /,
    *,
    file: Path,
    old: str,
    name: str,
    public: Path,
    role: str,
    expires: timedelta | None,
    as_json: bool,
) -> None:
    """Propose a new key in the place of an old one, of the same holder or of another.

    A new root key counts once published; until then the old root's keys must sign, as the new root's.

    Exit status: 0 done, 1 failed, 2 no such key, or somebody has signed already.
    """
    from repo_tools import drafting

    def change(proposal: Proposal) -> Proposal:
        return drafting.with_key_replaced(proposal, role, old, holder(name, public))

    edit(repo, file, expires, change, as_json=as_json)


@root.command("renew")
@PROPOSAL
@EXPIRES
@json_option
@click.pass_obj
@example("repo-tools root renew root-2.json --expires 52w")
def renew(repo: Path, /, *, file: Path, expires: timedelta | None, as_json: bool) -> None:
    """Propose the same root once more, to last longer.

    Exit status: 0 done, 1 failed, 2 wrong usage, or somebody has signed already.
    """
    edit(repo, file, expires, lambda it: it, as_json=as_json)


@root.command("verify")
@PROPOSALS
@TRUSTED_ROOT
@json_option
@click.pass_obj
@example("repo-tools root verify root-2.json")
def verify(repo: Path, /, *, files: tuple[Path, ...], trusted_root: Path | None, as_json: bool) -> ExitStatus:
    """Say what a proposal changes, who has signed, and who is missing, for the old root and for the new.

    It is compared with the published root where --repo is a repository. Several files of the same
    proposal, signed side by side, count as one.

    Exit status: 0 complete, 1 signatures are missing, or it was tampered with, 2 it is no proposal.
    """
    from repo_tools.render.ceremony import proposal_document, proposal_text

    proposal, now = load(*files), current_time()
    held_against = compared(repo, proposal, trusted_root)
    text = proposal_text(proposal, held_against, now)
    emit(proposal_document(proposal, held_against, now), text, as_json=as_json)
    return ExitStatus.DONE if proposal.complete else ExitStatus.FAILED


@root.command("sign")
@PROPOSAL
@click.option("--key", "uri", required=True, metavar="URI[,PUBLIC.pem]", help="Your private key.")
@TRUSTED_ROOT
@click.option("--yes", is_flag=True, help="Do not ask before signing.")
@json_option
@click.pass_obj
@example("repo-tools root sign root-2.json --key file2:anna.pem")
def sign(repo: Path, /, *, file: Path, uri: str, trusted_root: Path | None, yes: bool, as_json: bool) -> None:
    """Sign a proposal with your key, after showing what it changes. Needs the file and the key, no more.

    On a terminal you are asked before it signs. The signed file is yours to hand on.

    Exit status: 0 done, 1 tampered with, 2 not a root key, wrong passphrase, 3 you have signed already.
    """
    from repo_tools.proposal import signed_with
    from repo_tools.render.ceremony import proposal_document, proposal_text, signed_text

    proposal, now = load(file), current_time()
    held_against = compared(repo, proposal, trusted_root)
    if not as_json:
        click.echo(proposal_text(proposal, held_against, now) + "\n", err=True)
    own = signer(uri, proposal)
    if not yes and sys.stdin.isatty():
        click.confirm("sign this?", abort=True, err=True)
    signed = signed_with(proposal, own)
    write(file, signed)
    keyid = own.public_key.keyid
    document = proposal_document(signed, held_against, now) | {"signed_by": keyid}
    emit(document, signed_text(signed, signed.whose(keyid)), as_json=as_json)


@root.command("publish")
@PROPOSALS
@json_option
@click.pass_obj
@example("repo-tools --repo demo root publish root-2.json")
def publish(repo: Path, /, *, files: tuple[Path, ...], as_json: bool) -> None:
    """Put a finished root into the repository, and sign anew what changed keys had signed.

    repo.toml must say where the private keys of changed online roles are. If it is killed, run it again.

    Exit status: 0 done, 1 signatures are missing, or it starts from another root, 2 wrong usage, or an online
    key is not at hand, 3 published already, 75 busy.
    """
    from repo_tools import succession
    from repo_tools.render.ceremony import succession_text

    done = succession.publish(existing(repo), load(*files), now=current_time(), secrets=ask_secrets())
    emit(done.to_json(), succession_text(done), as_json=as_json)
