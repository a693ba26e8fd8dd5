"""``new``: create a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import PATH, ask_secrets, current_time
from signpost.console import QuickCommand, emit, example, json_option, note

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=QuickCommand)
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--name", default="os", show_default=True, help="First word of every image's name.")
@click.option(
    "--root-threshold",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Signatures that root requires.",
)
@click.option(
    "--root-keys",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of test keys for root.",
)
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="ROLE=URI[,PUBLIC.pem]",
    help="Sign a role with this key instead of a test key; can be repeated.",
)
@click.option("--expires", multiple=True, metavar="ROLE=7d", help="How long a role's signatures are valid.")
@click.option(
    "--encrypt",
    is_flag=True,
    help="Encrypt the test keys; the passphrase is asked for, or read from REPO_TOOLS_PASSPHRASE.",
)
@click.option("--root", "root_file", type=PATH, help="A completely signed root 1 from `root init`.")
@json_option
@example("repo-tools new demo --expires timestamp=1d")
def new(
    *,
    folder: Path,
    name: str,
    root_threshold: int,
    root_keys: int,
    signers: tuple[str, ...],
    expires: tuple[str, ...],
    encrypt: bool,
    root_file: Path | None,
    as_json: bool,
) -> None:
    """Create a signed repository in DIR, ready to serve.

    It has keys, a root and an empty manifest.

    Exit status: 0 done, 1 failed, 2 wrong usage, or DIR is not empty.
    """
    from repo_tools.ceremony import new_repository
    from repo_tools.cli.proposals import load
    from repo_tools.config import parse_expires
    from repo_tools.render.check import created_text

    secrets = ask_secrets()
    plan = new_repository.RepositoryPlan(
        name=name,
        root_threshold=root_threshold,
        root_keys=root_keys,
        signers=new_repository.parse_signers(signers),
        expires=parse_expires(expires),
        passphrase=secrets("passphrase of the new test keys") if encrypt else None,
        first_root=load(root_file) if root_file else None,
    )
    created = new_repository.create(folder, now=current_time(), plan=plan, secrets=secrets)
    emit(created.to_json(), created_text(created), as_json=as_json)
    if created.test_keys:
        keys = folder / new_repository.KEYS
        note(f"warning: the keys in {keys} are for tests only: they are stored on this disk.")
