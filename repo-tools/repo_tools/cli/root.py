"""``root``: show the root of trust, create keys, rehearse; the steps of a change are in ``ceremony``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import PATH, ask_secrets, current_time, new_passphrase, require_repository
from signpost.console import LazyGroup, emit, example, json_option

if TYPE_CHECKING:
    from pathlib import Path


_CEREMONY = ("init", "add-key", "remove-key", "threshold", "rotate", "renew", "verify", "sign", "publish")
_LATER = {
    **{name: f"repo_tools.cli.ceremony:{name.replace('-', '_')}" for name in _CEREMONY},
    "rehearse": "repo_tools.cli.rehearse:rehearse",
}


@click.group("root", cls=LazyGroup, later=_LATER)
@example("repo-tools root show")
def root() -> None:
    """Show the root of trust, and change it.

    A change is a file that is sent from one holder of a root key to the next: `add-key`, `remove-key`,
    `threshold`, `rotate` or `renew` write it; each holder runs `verify` and `sign` on it, without a
    repository and without a network; `publish` publishes the signed root in the repository.
    """


@root.command("show")
@json_option
@click.pass_obj
@example("repo-tools root show")
def root_show(repo: Path, /, *, as_json: bool) -> None:
    """Show the roles, their keys, holders and thresholds.

    Also shows when root expires, and which keys are available.

    Exit status: 0 done, 1 the roots do not verify, 2 not a repository.
    """
    from repo_tools import config
    from repo_tools.render.root import root_document, root_text
    from repo_tools.repository.published import require_complete
    from repo_tools.trust.chain import walk
    from repo_tools.trust.source import FolderSource

    newest = require_complete(walk(FolderSource(require_repository(repo)))).root.signed
    document = root_document(newest, config.load(repo).signers)
    emit(document, root_text(document, newest.expires - current_time()), as_json=as_json)


@root.command("make-key")
@click.argument("file", metavar="FILE.pem", type=PATH)
@click.option("--no-passphrase", is_flag=True, help="Leave the key unencrypted: for rehearsals and tests.")
@json_option
@example("repo-tools root make-key anna.pem")
def make_key(file: Path, *, no_passphrase: bool, as_json: bool) -> None:
    """Create an ed25519 key: FILE.pem and FILE.pub.pem.

    The holder keeps FILE.pem and sends FILE.pub.pem to the others. The passphrase is asked for, or read from
    REPO_TOOLS_PASSPHRASE.

    Exit status: 0 done, 1 a file cannot be written, or already exists, 2 wrong usage.
    """
    from repo_tools.keys import signers
    from signpost.medium import OsMedium

    medium, public = OsMedium(), file.with_suffix(".pub.pem")
    passphrase = None if no_passphrase else new_passphrase(file)
    key = signers.create_key(medium, file, passphrase).key
    signers.write_public(medium, public, key)
    document = {"keyid": key.keyid, "private": str(file), "public": str(public)}
    text = f"created {file}: keep it secret; send {public} to the others\nkeyid {key.keyid}"
    emit(document, text, as_json=as_json)


@root.command("public-key")
@click.argument("uri", metavar="URI")
@click.option("--signer-line", is_flag=True, help='Print the line of repo.toml instead: KEYID = "URI".')
@json_option
@click.pass_obj
@example("repo-tools root public-key 'hsm:2?label=anna' > anna.pub.pem")
def public_key(repo: Path, /, *, uri: str, signer_line: bool, as_json: bool) -> None:
    """Print the public half of a key.

    The key is in a file, an environment variable, a PKCS#11 token or AWS KMS. Relative paths start at the
    current folder; --signer-line prints them as repo.toml needs them, relative to --repo.

    Exit status: 0 done, 2 the key cannot be reached, or has a type that not every client verifies.
    """
    from repo_tools import config
    from repo_tools.keys import signers

    given = signers.given_key(uri, repo, ask_secrets())
    key = given.key
    pem = signers.public_pem(key).decode()
    line = config.signer_line(key.keyid, given.uri)
    document = {"keyid": key.keyid, "scheme": key.scheme, "public": pem, "signer_line": line}
    emit(document, line if signer_line else pem.rstrip(), as_json=as_json)
