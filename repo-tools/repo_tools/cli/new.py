"""``new``: make a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import PASSPHRASE, PATH, ask_secrets, current_time
from signpost.console import emit, example, json_option, note

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--name", default="os", show_default=True, help="First word of every image's name.")
@click.option("--root-threshold", type=int, default=2, show_default=True, help="Signatures a root needs.")
@click.option("--root-keys", type=int, default=3, show_default=True, help="Test keys to make for root.")
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="ROLE=URI[,PUBLIC.pem]",
    help="Sign a role with this key instead of a test key; several are allowed.",
)
@click.option("--expires", multiple=True, metavar="ROLE=7d", help="How long signatures of a role last.")
@click.option(
    "--encrypt", is_flag=True, help=f"Encrypt the test keys; the passphrase is asked, or in {PASSPHRASE}."
)
@click.option("--root", "root_file", type=PATH, help="A finished root 1, made with `root init`.")
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
    """Make a repository in DIR: keys, root, empty manifest, all signed, ready to serve.

    Exit status: 0 done, 1 failed, 2 wrong usage, or DIR is not empty.
    """
    from repo_tools import new as making
    from repo_tools.cli.proposals import load
    from repo_tools.config import parse_expires
    from repo_tools.render.upkeep import created_text

    secrets = ask_secrets()
    plan = making.Plan(
        name=name,
        root_threshold=root_threshold,
        root_keys=root_keys,
        signers=making.parse_signers(signers),
        expires=parse_expires(expires),
        passphrase=secrets("passphrase of the new test keys") if encrypt else None,
        first_root=load(root_file) if root_file else None,
    )
    created = making.create(folder, now=current_time(), plan=plan, secrets=secrets)
    emit(created.to_json(), created_text(created), as_json=as_json)
    if created.test_keys:
        note(f"warning: the keys in {folder / making.KEYS} are for tests only: they lie on this disk.")
