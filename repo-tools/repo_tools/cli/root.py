"""``root``: the root of trust: look at it, make keys, rehearse; the steps of a change are in ``ceremony``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import PATH, ask_secrets, current_time, existing, new_passphrase
from signpost.console import emit, example, json_option

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
@example("repo-tools root show")
def root() -> None:
    """Look at the root of trust, and change it.

    A change is a file that goes from one holder of a root key to the next: `add-key`, `remove-key`,
    `threshold`, `rotate` or `renew` write it, each holder runs `verify` and `sign` on it, needing no
    repository and no network, and `publish` puts the finished root into the repository.
    """


@root.command("show")
@json_option
@click.pass_obj
@example("repo-tools root show")
def root_show(repo: Path, /, *, as_json: bool) -> None:
    """Show the roles, their keys, holders and thresholds, when root expires, and which keys are at hand.

    Exit status: 0 done, 1 the roots do not verify, 2 no repository here.
    """
    from repo_tools import config
    from repo_tools.chain import walk
    from repo_tools.render.root import root_document, root_text
    from repo_tools.session import complete
    from repo_tools.source import FolderSource

    newest = complete(walk(FolderSource(existing(repo)))).root.signed
    document = root_document(newest, config.load(repo).signers)
    emit(document, root_text(document, newest.expires - current_time()), as_json=as_json)


@root.command("make-key")
@click.argument("file", metavar="FILE.pem", type=PATH)
@click.option("--no-passphrase", is_flag=True, help="Leave the key unencrypted: for rehearsals and tests.")
@json_option
@example("repo-tools root make-key anna.pem")
def make_key(file: Path, *, no_passphrase: bool, as_json: bool) -> None:
    """Make an ed25519 key: FILE.pem, which its holder keeps, and FILE.pub.pem, which others need.

    The passphrase is asked for, or taken from REPO_TOOLS_PASSPHRASE.

    Exit status: 0 done, 1 a file cannot be written, or is there already, 2 wrong usage.
    """
    from repo_tools import keys
    from signpost.medium import OsMedium

    medium, public = OsMedium(), file.with_suffix(".pub.pem")
    passphrase = None if no_passphrase else new_passphrase(file)
    made = keys.create_key(medium, file, passphrase)
    keys.write_public(medium, public, made.key)
    document = {"keyid": made.key.keyid, "private": str(file), "public": str(public)}
    emit(
        document, f"made {file}, keep it; {public} is for the others\nkeyid {made.key.keyid}", as_json=as_json
    )


@root.command("public-key")
@click.argument("uri", metavar="URI")
@click.option("--signer-line", is_flag=True, help='Print the line of repo.toml instead: KEYID = "URI".')
@json_option
@click.pass_obj
@example("repo-tools root public-key 'hsm:2?label=anna' > anna.pub.pem")
def public_key(repo: Path, /, *, uri: str, signer_line: bool, as_json: bool) -> None:
    """Print the public half of a key: a file, an environment variable, a PKCS#11 token or an AWS KMS key.

    The path of a file2: URI starts at --repo, as it does in repo.toml.

    Exit status: 0 done, 2 the key cannot be reached or is of a type that not every client verifies.
    """
    from repo_tools import config, keys

    key = keys.source(uri, repo, ask_secrets()).key
    pem = keys.public_pem(key).decode()
    line = config.signer_line(key.keyid, uri)
    document = {"keyid": key.keyid, "scheme": key.scheme, "public": pem, "signer_line": line}
    emit(document, line if signer_line else pem.rstrip(), as_json=as_json)
