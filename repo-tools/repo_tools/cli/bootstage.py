"""``boot-stage``: what stands between a machine's firmware and its slots."""

from __future__ import annotations

from pathlib import Path

import click

from repo_tools.cli.words import PATH
from signpost.console import emit, example, json_option

_DEFAULT_WORDS = "console=tty0 console=ttyS0 quiet panic=10 gpt"


@click.group("boot-stage")
@example("repo-tools boot-stage build stage --system system")
def boot_stage() -> None:
    """Build the boot stage: it takes a slot by its flags and starts that slot's kernel."""


@boot_stage.command("build")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option(
    "--system",
    type=PATH,
    default=Path("/"),
    show_default=True,
    help="Debian system it is made from: kernel, modules, Python. / is the running one.",
)
@click.option("--kernel", metavar="VERSION", help="Which kernel, where the system has several.")
@click.option("--module", "modules", multiple=True, help="Kernel module beside the usual ones; repeatable.")
@click.option(
    "--options", default=_DEFAULT_WORDS, show_default=True, help="The boot stage's own command line."
)
@json_option
@example(
    "repo-tools boot-stage build stage --system /",
    "repo-tools boot-stage build stage --system system --module megaraid_sas",
    "repo-tools disk create node.img --version 1.0.0 --boot-stage stage/BOOTX64.EFI",
)
def boot_stage_build(
    folder: Path, *, system: Path, kernel: str | None, modules: tuple[str, ...], options: str, as_json: bool
) -> None:
    """Build it into DIR: vmlinuz, initramfs.zst, and both as the EFI binary BOOTX64.EFI.

    The same system gives the same bytes. docs/how-to/boot.md says which packages SYSTEM needs.

    Exit status: 0 done, 1 something it takes is missing.
    """
    from repo_tools.bootstage.files import Wanted, build_into
    from repo_tools.render.disk import boot_stage_text

    wanted = Wanted(system=system, kernel=kernel, modules=modules, options=options)
    built = build_into(folder, wanted)
    emit(built.to_json(), boot_stage_text(built), as_json=as_json)
