"""The steps of a root change: a proposal is written, verified, signed by its holders and published."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import DRY_RUN, PATH, ask_secrets, current_time, require_repository
from repo_tools.cli.proposals import (
    compare,
    edit,
    keys_to_add,
    load,
    load_holder,
    parse_members,
    parse_thresholds,
    root_signer,
    write,
    write_and_show,
)
from repo_tools.config import ROLES, parse_validity
from signpost.console import Parsed, QuickCommand, emit, example, json_option
from signpost.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from repo_tools.ceremony.root_proposal import Proposal

VALIDITY = Parsed("span", parse_validity)
PROPOSAL = click.argument("file", metavar="PROPOSAL", type=PATH)
PROPOSALS = click.argument("files", metavar="PROPOSAL…", nargs=-1, required=True, type=PATH)
ROLE = click.option("--role", type=click.Choice(ROLES), default="root", show_default=True, help="The role.")
EXPIRES = click.option(
    "--expires", type=VALIDITY, help="How long the new root is valid.  [default: as in repo.toml]"
)
_SHOW_OR_YES = "Do not redirect stderr, which shows what is signed; or pass --yes if you have read it."
TRUSTED_ROOT = click.option(
    "--trusted-root",
    type=PATH,
    help="A root.json that you trust, the current one or an older one, if there is no repository.",
)


@click.command("init", cls=QuickCommand)
@PROPOSAL
@click.option("--key", "keys", multiple=True, required=True, metavar="ROLE=NAME,PUBLIC.pem", help="A key.")
@click.option(
    "--threshold", "needed", multiple=True, metavar="ROLE=N", help="Signatures that a role requires."
)
@click.option(
    "--expires", type=VALIDITY, default="52w", show_default=True, help="How long the root is valid."
)
@json_option
@click.pass_obj
@example(
    "repo-tools root init root-1.json --threshold root=2 \\",
    "  --key root=anna,anna.pub.pem --key root=boris,boris.pub.pem \\",
    "  --key root=clara,clara.pub.pem \\",
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
    """Propose the first root of a new repository.

    Needs only public keys. When enough root keys have signed, `repo-tools new DIR --root PROPOSAL` creates
    the repository.

    Exit status: 0 done, 2 wrong usage, or a threshold that cannot be met.
    """
    from repo_tools.ceremony import root_draft
    from repo_tools.repository import editor

    if file.exists():
        raise click.UsageError(f"{file} already exists; name a new file")
    expiry = editor.expiry(current_time(), expires)
    proposal = root_draft.first(parse_members(keys), parse_thresholds(needed), expiry)
    write_and_show(repo, file, proposal, as_json=as_json)


@click.command("add-key", cls=QuickCommand)
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
    """Propose one more key of a role.

    A new PROPOSAL starts from the repository's root.

    Exit status: 0 done, 1 failed, 2 wrong usage, or the proposal already has a signature.
    """
    from repo_tools.ceremony import root_draft

    def change(proposal: Proposal) -> Proposal:
        return root_draft.with_key(proposal, role, load_holder(name, public))

    edit(repo, file, expires, change, as_json=as_json)


@click.command("remove-key", cls=QuickCommand)
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
    """Propose to remove a key from a role.

    HOLDER is the name of the key's holder, or the start of its keyid.

    Exit status: 0 done, 1 failed, 2 no such key, too few keys would remain, or the proposal already has a
    signature.
    """
    from repo_tools.ceremony import root_draft

    def change(proposal: Proposal) -> Proposal:
        return root_draft.without_key(proposal, role, name)

    edit(repo, file, expires, change, as_json=as_json)


@click.command("threshold", cls=QuickCommand)
@PROPOSAL
@click.argument("number", metavar="N", type=click.IntRange(min=1))
@ROLE
@EXPIRES
@json_option
@click.pass_obj
@example("repo-tools root threshold root-2.json 3")
def threshold(
    repo: Path, /, *, file: Path, number: int, role: str, expires: timedelta | None, as_json: bool
) -> None:
    """Propose how many keys of a role must sign.

    Exit status: 0 done, 1 failed, 2 it could never be met, or the proposal already has a signature.
    """
    from repo_tools.ceremony import root_draft

    def change(proposal: Proposal) -> Proposal:
        return root_draft.with_threshold(proposal, role, number)

    edit(repo, file, expires, change, as_json=as_json)


@click.command("rotate", cls=QuickCommand)
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
    """Propose to replace a key with a new one.

    The new key can have the same holder or another. The proposal must be signed by the keys of the old root
    and by those of the new root; a new root key signs as a key of the new root.

    Exit status: 0 done, 1 failed, 2 no such key, or the proposal already has a signature.
    """
    from repo_tools.ceremony import root_draft

    def change(proposal: Proposal) -> Proposal:
        return root_draft.with_key_replaced(proposal, role, old, load_holder(name, public))

    edit(repo, file, expires, change, as_json=as_json)


@click.command("renew", cls=QuickCommand)
@PROPOSAL
@EXPIRES
@json_option
@click.pass_obj
@example("repo-tools root renew root-2.json --expires 52w")
def renew(repo: Path, /, *, file: Path, expires: timedelta | None, as_json: bool) -> None:
    """Propose the same root with a later expiry.

    Exit status: 0 done, 1 failed, 2 wrong usage, or the proposal already has a signature.
    """
    edit(repo, file, expires, lambda proposal: proposal, as_json=as_json)


@click.command("verify", cls=QuickCommand)
@PROPOSALS
@TRUSTED_ROOT
@json_option
@click.pass_obj
@example("repo-tools root verify root-2.json")
def verify(repo: Path, /, *, files: tuple[Path, ...], trusted_root: Path | None, as_json: bool) -> ExitStatus:
    """Show what a proposal changes, and who has signed it.

    Also shows whose signatures are missing, of the old root's keys and of the new root's. If --repo is a
    repository, the proposal is compared with its published root. Several files of one proposal, signed
    separately, are combined.

    Exit status: 0 complete, 1 signatures are missing, or it was tampered with, 2 not a proposal.
    """
    from repo_tools.render.ceremony import proposal_document, proposal_text

    proposal, now = load(*files), current_time()
    compared_with, lacking = compare(repo, proposal, trusted_root), keys_to_add(repo, proposal)
    text = proposal_text(proposal, compared_with, now, lacking)
    emit(proposal_document(proposal, compared_with, now, lacking), text, as_json=as_json)
    return ExitStatus.DONE if proposal.complete else ExitStatus.FAILED


@click.command("sign", cls=QuickCommand)
@PROPOSAL
@click.option("--key", "uri", required=True, metavar="URI[,PUBLIC.pem]", help="Your private key.")
@TRUSTED_ROOT
@click.option("--yes", is_flag=True, help="Do not ask before signing.")
@json_option
@click.pass_obj
@example("repo-tools root sign root-2.json --key file2:anna.pem")
def sign(repo: Path, /, *, file: Path, uri: str, trusted_root: Path | None, yes: bool, as_json: bool) -> None:
    """Sign a proposal with your key, after showing what it changes.

    Needs only the file and the key. On a terminal it asks before it signs. Afterwards send the signed file to
    the next holder.

    Exit status: 0 done, 1 tampered with, 2 not a root key, or wrong passphrase, 3 already signed.
    """
    from repo_tools.ceremony.root_proposal import with_signature
    from repo_tools.render.ceremony import proposal_document, proposal_text, signed_text

    asks = not yes and sys.stdin.isatty()
    if asks and not sys.stderr.isatty():  # it would wait for the answer to a question that nobody sees
        raise UsageError("cannot ask before signing: stderr is not a terminal", next_step=_SHOW_OR_YES)
    proposal, now = load(file), current_time()
    compared_with = compare(repo, proposal, trusted_root)
    if not as_json:
        click.echo(proposal_text(proposal, compared_with, now) + "\n", err=True)
    signer = root_signer(uri, proposal)
    if asks:
        click.confirm("sign this?", abort=True, err=True)
    signed = with_signature(proposal, signer)
    write(file, signed)
    keyid = signer.public_key.keyid
    document = proposal_document(signed, compared_with, now) | {"signed_by": keyid}
    emit(document, signed_text(signed, signed.holder_text(keyid)), as_json=as_json)


@click.command("publish", cls=QuickCommand)
@PROPOSALS
@DRY_RUN
@json_option
@click.pass_obj
@example("repo-tools --repo demo root publish root-2.json")
def publish(repo: Path, /, *, files: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Publish a completely signed root in the repository.

    Online roles whose keys change are re-signed with the new keys: repo.toml must say where these private
    keys are. If the command is killed, run it again.

    Exit status: 0 done, 1 signatures are missing, or it starts from another root, 2 wrong usage, or an online
    key is not available, 3 already published, 75 busy.
    """
    from repo_tools.ceremony import publish_root
    from repo_tools.render.ceremony import published_root_text

    folder = require_repository(repo)
    act = publish_root.plan if dry_run else publish_root.publish
    done = act(folder, load(*files), now=current_time(), secrets=ask_secrets())
    document = done.to_json() | ({"dry_run": True} if dry_run else {})
    emit(document, published_root_text(done, dry_run=dry_run), as_json=as_json)
