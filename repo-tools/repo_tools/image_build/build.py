"""The three images of a release and their facts, from a source into a folder.

Rules:

* the source is read and checked, and all tools are looked for, before anything is built;
* everything is made in a scratch folder inside the folder of the result, which is removed at the end whatever
  happens; nothing outside it is touched, and no image is replaced before all three are complete;
* ``images.json`` is removed first and written last: where it is, it describes the images beside it;
* the same source, request and tools give the same bytes, those of ``images.json`` too.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repo_tools.image_build import boot, layout, tools
from repo_tools.image_build.checks import find_faults, require_sound
from repo_tools.image_build.dracut import run_dracut
from repo_tools.image_build.initrd import build_initrd, ready_initrd
from repo_tools.image_build.kernels import TreeFile, kernels_in
from repo_tools.image_build.prepare import prepared
from repo_tools.image_build.request import InitrdKind
from repo_tools.image_build.root import NAMESPACE, write_root
from repo_tools.images.verity import make_hash_image
from signpost.errors import MediumError
from signpost.medium import OsMedium
from signpost.sets import ImageKind
from updog.durable import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from repo_tools.image_build.kernels import TreeKernel
    from repo_tools.image_build.request import BuildRequest
    from repo_tools.image_build.tree import Tree

FACTS = "images.json"
"""The facts, beside the images."""

FILES: Mapping[ImageKind, str] = {
    ImageKind.BOOT: "boot.ext4",
    ImageKind.ROOT: "root.erofs",
    ImageKind.HASH: "root.verity",
}
"""Name of each image."""

_FORMAT = 1
EFI_NAMES = {"x86_64": "x64", "aarch64": "aa64"}
"""Architectures as the Boot Loader Specification has them, by the name that publishers use."""

_DRACUT_OPTIONS = "root=/dev/mapper/root rootfstype=erofs"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltImage:
    """One image: its path, its size in bytes, its SHA-256 in hexadecimal."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltImages:
    """The images of a release, and what is in them.

    Attributes:
        version, variant, arch: of the release, as ``publish`` takes them.
        root_hash: of dm-verity, in hexadecimal.
        kernel: its version. options: its command line.
        etc: whether /etc can be written. initrd: which one is in BOOT.
        source: kind and digest of what they were built from.
        images: by kind.
    """

    version: str
    variant: str
    arch: str
    root_hash: str
    kernel: str
    options: str
    etc: str
    initrd: str
    source: Mapping[str, str]
    images: Mapping[ImageKind, BuiltImage]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as ``images.json`` and ``--json`` have them; files are named without a folder."""
        images = {
            str(kind): {"file": image.path.name, "size": image.size, "sha256": image.sha256}
            for kind, image in self.images.items()
        }
        return {
            "format": _FORMAT,
            "version": self.version,
            "variant": self.variant,
            "arch": self.arch,
            "root_hash": self.root_hash,
            "kernel": self.kernel,
            "options": self.options,
            "etc": self.etc,
            "initrd": self.initrd,
            "source": dict(self.source),
            "images": images,
        }


def build(
    tree: Tree,
    out: Path,
    request: BuildRequest,
    *,
    source: Mapping[str, str],
    progress: Callable[[str], None],
) -> BuiltImages:
    """Build the images of a release from a tree into a folder, which is made if it does not exist.

    Args:
        tree: the root file system.
        out: images of an earlier build in it are replaced; other files stay.
        request: what a person chose.
        source: kind and digest of what the tree was read from, for the facts.
        progress: is called with each step, in a few words.

    Raises:
        ImageFaultsError: the tree would not run as a node; all its faults are told.
        ImageSourceError, BootStageError: a file of the tree cannot be read, or cannot be used.
        ImageBuildError, VerityError: a tool or a privilege is missing, or a tool fails.
        MediumError, BootEntryError: a file cannot be written; the options cannot be a boot entry's.
    """
    tools.require(tools.OF_IMAGES)
    require_sound(find_faults(tree, request))
    with scratch_in(out) as scratch:
        return _placed(_made(tree, request, scratch, source, progress), out)


@contextmanager
def scratch_in(out: Path) -> Iterator[Path]:
    """Give a private scratch folder inside the folder of the result, which is made if it does not exist.

    A folder that was made and into which nothing was put is removed again.

    Raises:
        MediumError: a file in it, or the folder, cannot be written.
    """
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".tmp-") as name:
            yield Path(name)
    except OSError as error:
        raise MediumError.of(f"cannot write into {out}: {error.strerror}", error) from error
    finally:
        with suppress(OSError):  # it is not empty, or was not made
            for folder in missing:
                folder.rmdir()


def _made(
    tree: Tree,
    request: BuildRequest,
    scratch: Path,
    source: Mapping[str, str],
    progress: Callable[[str], None],
) -> BuiltImages:
    """Make the images in a scratch folder."""
    kernel = next(each for each in kernels_in(tree) if request.kernel in {None, each.version})
    root = prepared(tree, request)
    fields = layout.os_release(root) or {}
    version, variant, arch = fields["VERSION_ID"], fields["VARIANT_ID"], layout.architecture(tree)
    name = f"{variant}-{arch}-{version}"
    paths = {kind: scratch / file for kind, file in FILES.items()}
    progress(f"writing ROOT of {name}")
    folder = write_root(root, paths[ImageKind.ROOT], scratch, name=name, compression=request.compression)
    progress("making the hash tree")
    root_hash = make_hash_image(paths[ImageKind.ROOT], paths[ImageKind.HASH], name=name)
    progress("making the initrd")
    initrd, options = _initrd(tree, kernel, request, folder), _options(request)
    progress("writing BOOT")
    entry = boot.boot_entry(
        title=f"{fields.get('NAME', 'Linux')} {version} ({variant})",
        version=version,
        architecture=EFI_NAMES[arch],
        options=options,
        root_hash=root_hash,
    )
    files = {
        boot.KERNEL: TreeFile(tree, kernel.image).read_bytes(),
        boot.INITRD: initrd,
        boot.entry_path(f"{variant}-{version}"): entry.encode(),
    }
    boot.write_ext4(
        files,
        paths[ImageKind.BOOT],
        size=boot.boot_size(files),
        identity=uuid.uuid5(NAMESPACE, f"{name} boot"),
        seed=uuid.uuid5(NAMESPACE, f"{name} folders"),
    )
    return BuiltImages(
        version=version,
        variant=variant,
        arch=arch,
        root_hash=root_hash,
        kernel=kernel.version,
        options=options,
        etc=str(request.etc),
        initrd=str(request.initrd),
        source=source,
        images={kind: _described(path) for kind, path in paths.items()},
    )


def _options(request: BuildRequest) -> str:
    by_dracut = request.initrd is InitrdKind.DRACUT
    return f"{request.kernel_options} {_DRACUT_OPTIONS}" if by_dracut else request.kernel_options


def _initrd(tree: Tree, kernel: TreeKernel, request: BuildRequest, folder: Path | None) -> bytes:
    if request.initrd is InitrdKind.BUILTIN:
        return build_initrd(tree, kernel, request)
    ready = ready_initrd(tree, kernel)
    return ready if ready is not None else run_dracut(folder, kernel)


def _placed(made: BuiltImages, out: Path) -> BuiltImages:
    """Move the images from the scratch folder to their places; the facts come last. Raises OSError."""
    facts = out / FACTS
    facts.unlink(missing_ok=True)
    placed = {}
    for kind, image in made.images.items():
        _flush(image.path)
        placed[kind] = replace(image, path=image.path.replace(out / image.path.name))
    done = replace(made, images=placed)
    write_json(OsMedium(), facts, done.to_json())
    return done


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream)


def _described(path: Path) -> BuiltImage:
    path.chmod(0o644)  # veritysetup makes HASH private, though there is nothing secret in it
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return BuiltImage(path=path, size=path.stat().st_size, sha256=digest)
