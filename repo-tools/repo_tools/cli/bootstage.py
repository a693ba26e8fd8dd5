"""``boot-stage``: the boot stage between a machine's firmware and its slots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import PATH
from signpost.console import QuickGroup, emit, example, json_option
from signpost.text import size_text, table

if TYPE_CHECKING:
    from repo_tools.bootstage.files import Built


_DEFAULT_COMMAND_LINE = "console=tty0 console=ttyS0 quiet panic=10 gpt"


@click.group("boot-stage", cls=QuickGroup)
@example("repo-tools boot-stage build stage --system system")
def boot_stage() -> None:
    """Build the boot stage, which starts a slot's kernel.

    The boot stage chooses the slot by its flags.
    """


@boot_stage.command("build")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option(
    "--system",
    type=PATH,
    default=Path("/"),
    show_default=True,
    help="Debian system with kernel, modules and Python; / is the running one.",
)
@click.option("--kernel", metavar="VERSION", help="Version of the kernel, if the system has several.")
@click.option("--module", "modules", multiple=True, help="Additional kernel module; can be repeated.")
@click.option(
    "--options",
    default=_DEFAULT_COMMAND_LINE,
    show_default=True,
    help="Kernel command line of the boot stage itself.",
)
@json_option
@example(
    "repo-tools boot-stage build stage --system /",
    "repo-tools boot-stage build stage --system system --module megaraid_sas",
    "repo-tools disk create node.img --version 1.0.0 \\",
    "  --boot-stage stage/BOOTX64.EFI",
)
def boot_stage_build(
    folder: Path, *, system: Path, kernel: str | None, modules: tuple[str, ...], options: str, as_json: bool
) -> None:
    """Build vmlinuz, initramfs.zst and BOOTX64.EFI in DIR.

    The EFI binary BOOTX64.EFI contains both other files. The same system gives the same bytes.
    SYSTEM is a folder of unpacked Debian packages: a kernel (linux-image-cloud-amd64 for virtual machines,
    linux-image-amd64 for others), libc6, zlib1g, libexpat1, libffi8, python3.11-minimal,
    libpython3.11-minimal and libpython3.11-stdlib. /, the default, is this machine. systemd-boot-efi and
    binutils must be installed.

    Exit status: 0 done, 1 a package or file is missing.
    """
    from repo_tools.bootstage.files import StageRequest, build_into

    wanted = StageRequest(system=system, kernel=kernel, modules=modules, options=options)
    built = build_into(folder, wanted)
    emit(built.to_json(), boot_stage_text(built), as_json=as_json)


def boot_stage_text(built: Built) -> str:
    """Return the files of a boot stage."""
    cells = [(str(made.path), size_text(made.size), made.sha256) for made in built.files]
    return f"boot stage of kernel {built.kernel}\n{table([('file', 'size', 'sha256'), *cells])}"
