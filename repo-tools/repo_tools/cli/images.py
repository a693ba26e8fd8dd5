"""``images``: the images of a release, from a root file system or a container image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.options import PATH, SIZE, VERSION
from signpost.console import QuickGroup, emit, example, json_option, note, quiet_option
from signpost.text import size_text, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from repo_tools.image_build.build import BuiltImages
    from repo_tools.image_build.request import BuildRequest
    from repo_tools.image_build.sources import Source

_LIMIT = 16 << 30
_OPTIONS = "ro console=tty0 console=ttyS0 panic=5 oops=panic softlockup_panic=1 systemd.gpt_auto=no"


_SOURCE_OPTIONS = (
    click.option("--version", type=VERSION, help="Written into the image.  [default: VERSION_ID of SOURCE]"),
    click.option("--variant", help="Written into the image.  [default: VARIANT_ID of SOURCE]"),
    click.option("--arch", help="Which one to take from a container image for several architectures."),
    click.option("--image", default="", metavar="NAME", help="Which image, if SOURCE has several."),
    click.option(
        "--trusted-root",
        metavar="FILE",
        type=PATH,
        help="Root of trust for the nodes: metadata/1.root.json of a repository.  [default: that of SOURCE]",
    ),
    click.option("--kernel", metavar="VERSION", help="Version of the kernel, if SOURCE has several."),
    click.option("--options", default=_OPTIONS, show_default=True, help="Kernel command line."),
    click.option(
        "--etc",
        type=click.Choice(["read-only", "transient", "persistent"]),
        help="Whether nodes can write to /etc: not at all, until the next restart, or for good (on PRIVATE)."
        "  [default: transient; with dracut read-only]",
    ),
    click.option(
        "--initrd",
        type=click.Choice(["builtin", "dracut"]),
        default="builtin",
        show_default=True,
        help="builtin: a small one. dracut: the one in SOURCE, or made by the dracut in SOURCE.",
    ),
    click.option(
        "--module", "modules", multiple=True, help="Kernel module for the builtin initrd; can be repeated."
    ),
    click.option(
        "--compression",
        default="none",
        show_default=True,
        metavar="none|lz4|lz4hc[,LEVEL]",
        help="Compression inside ROOT; without it, deltas are smaller.",
    ),
    click.option("--reset-identity", is_flag=True, help="Remove machine-id, ssh host keys and random seeds."),
    click.option(
        "--limit",
        "limit_bytes",
        type=SIZE,
        default=_LIMIT,
        help="What SOURCE may unpack to.  [default: 16GiB]",
    ),
)


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a person may choose about the images of a source; :func:`read_source` takes it."""
    for option in reversed(_SOURCE_OPTIONS):
        command = option(command)
    return command


@click.group(cls=QuickGroup)
@example("repo-tools images build box.tar --out images --version 1.0.0 --variant box")
def images() -> None:
    """Build the images of a release from a root file system."""


@images.command("build")
@click.argument("source", metavar="SOURCE", type=PATH)
@click.option("--out", required=True, metavar="DIR", type=PATH, help="Folder for the images.")
@source_options
@quiet_option
@json_option
@example(
    "repo-tools images build box.tar --out images --version 1.0.0 --variant box \\",
    "  --trusted-root repo/metadata/1.root.json",
    "docker save box | repo-tools images build /dev/stdin --out images",
)
def images_build(
    source: Path,
    *,
    out: Path,
    quiet: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Build boot.ext4, root.erofs and root.verity in DIR, for `publish`.

    SOURCE is a folder with a root file system, a tar archive of one, a container image (an OCI layout, or
    what `docker save` and `podman save` write), or the output of mkosi. It has a kernel, systemd and updog.
    What is wrong with it is listed before anything is built. The same source gives the same bytes.
    images.json in DIR describes the images.

    Needs erofs-utils, cryptsetup-bin and e2fsprogs; and root, unless mkfs.erofs is 1.7 or newer.

    Exit status: 0 done, 1 SOURCE has faults or cannot be read, 2 wrong usage.
    """
    from repo_tools.image_build.build import build, scratch_in

    say = said(quiet=quiet or as_json)
    with scratch_in(out) as scratch:
        found, request = read_source(source, scratch, say, **chosen)
        built = build(found.tree, out, request, source=found.facts, progress=say)
    emit(built.to_json(), images_text(built), as_json=as_json)


def said(*, quiet: bool) -> Callable[[str], None]:
    """Return what takes the steps of a build."""
    return _silent if quiet else note


def read_source(
    source: Path, scratch: Path, say: Callable[[str], None], **chosen: Any
) -> tuple[Source, BuildRequest]:
    """Read a source, and what :func:`source_options` chose.

    Raises:
        UsageError: of the options, or of the file with the root of trust.
        ImageSourceError: the source cannot be read.
    """
    from repo_tools.image_build.request import BuildRequest, Etc, InitrdKind
    from repo_tools.image_build.sources import read

    initrd, trusted_root = InitrdKind(chosen.pop("initrd")), chosen.pop("trusted_root")
    etc = chosen.pop("etc")
    where = {name: chosen.pop(name) for name in ("arch", "image", "limit_bytes")}
    default = Etc.READ_ONLY if initrd is InitrdKind.DRACUT else Etc.TRANSIENT
    request = BuildRequest(
        etc=Etc(etc) if etc else default,
        initrd=initrd,
        trusted_root=_content(trusted_root) if trusted_root else None,
        **chosen,
    )
    say(f"reading {source}")
    found = read(source, scratch, **where)
    for line in found.notes:
        say(line)
    return found, request


def images_text(built: BuiltImages) -> str:
    """Return the images of a release, and the command that publishes them."""
    cells = [(str(image.path), size_text(image.size), image.sha256) for image in built.images.values()]
    head = f"{built.variant} {built.version} for {built.arch}, kernel {built.kernel}"
    paths = " ".join(f"--{kind} {image.path}" for kind, image in built.images.items())
    family = f"--variant {built.variant} --arch {built.arch} --version {built.version}"
    publish = f"publish it: repo-tools publish {family} \\\n  {paths}"
    return f"{head}\n{table([('file', 'size', 'sha256'), *cells])}\n{publish}"


def _content(path: Path) -> bytes:
    from signpost.errors import UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _silent(_line: str) -> None:
    pass
