"""Read a container image: an OCI layout, or the archive of ``docker save`` and ``podman save``.

The files of either are found in a ``Tree`` themselves (a folder, or the members of a tar archive), so that no
digest and no name in a document leads out of it. Rules:

* a blob has the size and the digest that refers to it, and the unpacked layer the one in the image's
  configuration (``diff_ids``): nothing of a layer is used before both were compared;
* one image is taken. Several of them (names, architectures) are an error that lists them;
* what is not the image of a root file system (attestations, artifacts, encrypted layers) is not taken.

Sources: OCI image specification 1.1 (image-layout.md, descriptor.md, manifest.md, config.md), Docker image
specification 1.2 ("Combined Image JSON + Filesystem Changeset Format").
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from repo_tools.errors import ImageSourceError
from repo_tools.image_build.layers import Budget, add_entries
from repo_tools.image_build.stored import Counted, StoredContent, is_packed, unpacked
from repo_tools.image_build.tar_reader import read_tar
from repo_tools.image_build.tree import Kind, Tree
from signpost.text import counted, foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from repo_tools.image_build.stored import Spool

# msgspec reads these annotations when the program runs, so their names cannot be imported for types only.

OCI_LAYOUT, OCI_INDEX, DOCKER_MANIFEST = "oci-layout", "index.json", "manifest.json"
"""Names of the files by which an image is recognised."""

MOST_DOCUMENT = 4 << 20
"""Bytes of an index, manifest or configuration (registries allow manifests of 4 MiB)."""

MOST_MANIFESTS = 1000
_MOST_NESTED = 4  # indexes in indexes
_HEAD_BYTES = 8
_SHORT_DIGEST = 19

_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
_CONFIG_NAME = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?\Z")
_INDEX_TYPES = ("image.index", "manifest.list")
_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_NO_PLATFORM = "unknown"  # of an attestation (BuildKit)

# GOARCH, with the variant if that makes a difference, and the name in a release (uname -m)
_ARCHITECTURES = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "386": "i686",
    "arm": "armv7l",
    "loong64": "loongarch64",
}

_T = TypeVar("_T")


class _Document(msgspec.Struct, kw_only=True, rename="camel"):
    pass


class _Platform(_Document):
    architecture: str = ""


class _Descriptor(_Document):
    digest: str
    size: int
    media_type: str = ""
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None


class _Index(_Document):
    manifests: list[_Descriptor]


class _Manifest(_Document):
    config: _Descriptor
    layers: list[_Descriptor]


class _RootFs(msgspec.Struct):
    diff_ids: list[str]


class _Config(_Document, rename=None):
    rootfs: _RootFs
    architecture: str = ""


class _Saved(msgspec.Struct, rename="pascal"):
    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerImage:
    """The root file system of an image.

    Attributes:
        arch: as ``uname -m`` names it, "" if the image does not say.
        digest: of its manifest (OCI) or its configuration (docker save), with the algorithm before it.
        without_lists: paths whose access control lists are not kept.
    """

    tree: Tree
    arch: str
    digest: str
    without_lists: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest:
    """Which image is wanted, and what reads it.

    Attributes:
        source: its name, for messages.
        arch: as ``uname -m`` names it, None for any.
        image: its name in the source (a tag), "" for the only one.
    """

    source: str
    spool: Spool
    arch: str | None = None
    image: str = ""


@dataclass(frozen=True, slots=True)
class _Layer:
    content: StoredContent
    name: str
    digest: str  # of the content, "" if nobody says
    diff_id: str  # of what it unpacks to


def is_oci_layout(files: Tree) -> bool:
    """Return whether these are the files of an OCI layout."""
    return _stored(files, OCI_LAYOUT) is not None and _stored(files, OCI_INDEX) is not None


def is_saved(files: Tree) -> bool:
    """Return whether these are the files of ``docker save``: ``manifest.json`` is one of its kind."""
    content = _stored(files, DOCKER_MANIFEST)
    if content is None or content.size > MOST_DOCUMENT:
        return False
    try:
        msgspec.json.decode(files.read(DOCKER_MANIFEST, most=MOST_DOCUMENT) or b"", type=list[_Saved])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def read_oci_layout(files: Tree, request: ImageRequest) -> ContainerImage:
    """Return the image that an OCI layout has.

    Raises:
        ImageSourceError: there is none or more than one that fits, or something in it is not as it says.
    """
    reader = _Layout(files, request)
    index = _decoded(_document(files, OCI_INDEX, request.source), _Index, f"{OCI_INDEX} of {request.source}")
    entries = index.manifests
    if request.image:
        entries = [entry for entry in entries if request.image in _names_of(entry)]
        if not entries:
            raise _not_one(request, [name for entry in index.manifests for name in _names_of(entry)])
    found = reader.manifests(entries)
    if request.arch:
        fitting = {digest: arch for digest, arch in found.items() if arch in {request.arch, ""}}
        if found and not fitting:
            raise _other_arch(request, sorted(set(found.values())))
        found = fitting
    if len(found) != 1:
        names = {entry.digest: _names_of(entry) for entry in entries}
        raise _not_one(
            request, [" ".join([*names.get(digest, ()), arch or digest]) for digest, arch in found.items()]
        )
    ((digest, arch),) = found.items()
    manifest = reader.manifest(digest)
    config = _decoded(reader.blob_bytes(manifest.config), _Config, f"the configuration of {request.source}")
    layers = [
        _Layer(
            reader.blob(layer),
            f"layer {number} of {request.source} ({layer.digest[:_SHORT_DIGEST]})",
            layer.digest,
            diff_id,
        )
        for number, (layer, diff_id) in enumerate(
            _paired(manifest.layers, config.rootfs.diff_ids, request.source), start=1
        )
    ]
    if any("encrypted" in layer.media_type for layer in manifest.layers):
        raise ImageSourceError(
            f"the layers of {request.source} are encrypted",
            next_step="Decrypt the image with the tool that encrypted it.",
        )
    return _image(layers, arch or _arch_of(config.architecture), digest, request)


def read_saved(files: Tree, request: ImageRequest) -> ContainerImage:
    """Return the image that an archive of ``docker save`` has.

    Raises:
        ImageSourceError: there is none or more than one, or something in it is not as it says.
    """
    data = _document(files, DOCKER_MANIFEST, request.source)
    saved = {}
    listed = _decoded(data, list[_Saved], f"{DOCKER_MANIFEST} of {request.source}")
    for one in listed:
        if not request.image or request.image in (one.repo_tags or []):
            saved[one.config] = one
    if len(saved) != 1:
        raise _not_one(request, [tag for one in listed for tag in one.repo_tags or [one.config]])
    (one,) = saved.values()
    data = _document(files, one.config, request.source)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    named = _CONFIG_NAME.match(one.config)
    if named and digest != f"sha256:{named[1]}":
        raise ImageSourceError(f"the configuration {foreign(one.config)} of {request.source} has {digest}")
    config = _decoded(data, _Config, f"the configuration of {request.source}")
    arch = _arch_of(config.architecture)
    if request.arch and arch not in {request.arch, ""}:
        raise _other_arch(request, [arch])
    layers = []
    for number, (path, diff_id) in enumerate(
        _paired(one.layers, config.rootfs.diff_ids, request.source), start=1
    ):
        content = _stored(files, path)
        if content is None:
            raise ImageSourceError(f"{request.source} lacks {foreign(path)}, a layer of its image")
        layers.append(_Layer(content, f"layer {number} of {request.source} ({foreign(path)})", "", diff_id))
    return _image(layers, arch, digest, request)


class _Layout:
    """The blobs of an OCI layout."""

    def __init__(self, files: Tree, request: ImageRequest) -> None:
        self._files = files
        self._request = request
        self._descriptors: dict[str, _Descriptor] = {}

    def manifests(self, entries: Sequence[_Descriptor]) -> dict[str, str]:
        """Return the manifests behind entries of an index: digest → architecture."""
        found: dict[str, str] = {}
        waiting = [(entry, 0) for entry in entries]
        while waiting:
            entry, depth = waiting.pop(0)
            if depth > _MOST_NESTED or len(self._descriptors) >= MOST_MANIFESTS:
                raise ImageSourceError(f"{self._request.source} has too many indexes and manifests")
            if entry.platform and entry.platform.architecture == _NO_PLATFORM:
                continue
            if entry.digest in self._descriptors:
                continue
            self._descriptors[entry.digest] = entry
            if any(name in entry.media_type for name in _INDEX_TYPES):
                index = _decoded(self.blob_bytes(entry), _Index, f"an index of {self._request.source}")
                waiting += [(below, depth + 1) for below in index.manifests]
            else:
                found[entry.digest] = self._arch(entry)
        return found

    def _arch(self, entry: _Descriptor) -> str:
        if entry.platform and entry.platform.architecture:
            return _arch_of(entry.platform.architecture)
        config = self.blob_bytes(self.manifest(entry.digest).config)
        return _arch_of(_decoded(config, _Config, f"a configuration of {self._request.source}").architecture)

    def manifest(self, digest: str) -> _Manifest:
        """Return a manifest that :meth:`manifests` found."""
        data = self.blob_bytes(self._descriptors[digest])
        return _decoded(data, _Manifest, f"the manifest of {self._request.source}")

    def blob(self, descriptor: _Descriptor) -> StoredContent:
        """Return the content of a blob, of the size that is stated; its digest is not looked at yet."""
        if not _DIGEST.match(descriptor.digest):
            raise ImageSourceError(f"{self._request.source} names a blob {foreign(descriptor.digest)}")
        content = _stored(self._files, "blobs/" + descriptor.digest.replace(":", "/"))
        if content is None:
            raise ImageSourceError(
                f"{self._request.source} lacks the blob {descriptor.digest}",
                next_step="Copy the image again, with all of its layers.",
            )
        if content.size != descriptor.size:
            raise ImageSourceError(
                f"the blob {descriptor.digest} of {self._request.source} has {content.size} bytes, "
                f"stated are {descriptor.size}"
            )
        return content

    def blob_bytes(self, descriptor: _Descriptor) -> bytes:
        """Return a document, which has the digest that is stated."""
        content = self.blob(descriptor)
        name = f"the blob {descriptor.digest} of {self._request.source}"
        data = _read(content, name)
        _require_digest(hashlib.new(descriptor.digest.split(":")[0], data), descriptor.digest, name)
        return data


def _image(layers: Sequence[_Layer], arch: str, digest: str, request: ImageRequest) -> ContainerImage:
    tree, budget = Tree(), Budget()
    without_lists: list[str] = []
    for layer in layers:
        archive = _checked(layer, request.spool)
        entries = read_tar(archive, name=layer.name, needs_end=False)  # its digest says that it is whole
        without_lists += add_entries(tree, entries, budget, name=layer.name, is_layer=True)
    return ContainerImage(tree=tree, arch=arch, digest=digest, without_lists=without_lists)


def _checked(layer: _Layer, spool: Spool) -> StoredContent:
    """Return the tar archive of a layer, whose digests were compared."""
    if not _DIGEST.match(layer.diff_id):
        raise ImageSourceError(f"{layer.name} has a diff_id that is none: {foreign(layer.diff_id)}")
    outer = hashlib.new(layer.digest.split(":")[0] if layer.digest else "sha256")
    inner = hashlib.new(layer.diff_id.split(":")[0])
    try:
        with layer.content.open() as stream:
            head = stream.read(_HEAD_BYTES)
            stream.seek(0)
            source = Counted(stream, outer.update)
            blocks = unpacked(source, head, name=layer.name)
            if is_packed(head) or layer.content.start is None:
                archive = spool.add(
                    _digested(blocks, inner.update), name=layer.name, packed=lambda: source.count
                )
            else:
                archive = layer.content
                for block in blocks:
                    inner.update(block)
    except OSError as error:
        raise ImageSourceError(f"cannot read {layer.name}: {error.strerror or error}") from error
    if layer.digest:
        _require_digest(outer, layer.digest, layer.name)
    _require_digest(inner, layer.diff_id, f"what {layer.name} unpacks to")
    return archive


def _digested(blocks: Iterable[bytes], watch: Callable[[bytes], object]) -> Iterator[bytes]:
    for block in blocks:
        watch(block)
        yield block


def _require_digest(digest: hashlib._Hash, stated: str, name: str) -> None:
    actual = f"{digest.name}:{digest.hexdigest()}"
    if actual != stated:
        raise ImageSourceError(
            f"{name} has the digest {actual}, stated is {stated}",
            next_step="Copy the image again; if that does not help, where it is from is damaged.",
        )


def _stored(files: Tree, path: str) -> StoredContent | None:
    inode = files.find(path)
    if inode is None or inode.kind is not Kind.FILE or not isinstance(inode.content, StoredContent):
        return None
    return inode.content


def _document(files: Tree, path: str, source: str) -> bytes:
    content = _stored(files, path)
    if content is None:
        raise ImageSourceError(f"{source} lacks {foreign(path)}")
    return _read(content, f"{foreign(path)} of {source}")


def _read(content: StoredContent, name: str) -> bytes:
    if content.size > MOST_DOCUMENT:
        raise ImageSourceError(f"{name} has {content.size} bytes, more than are expected of it")
    try:
        with content.open() as stream:
            return stream.read()
    except OSError as error:
        raise ImageSourceError(f"cannot read {name}: {error.strerror or error}") from error


def _decoded(data: bytes, kind: type[_T], name: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageSourceError(f"{name} is not one of a container image: {foreign(str(error))}") from error


def _paired(layers: list[_T], diff_ids: list[str], source: str) -> list[tuple[_T, str]]:
    if len(layers) != len(diff_ids):
        raise ImageSourceError(
            f"{source} has {counted(len(layers), 'layer')}, and the digests of {len(diff_ids)} (diff_ids)"
        )
    return list(zip(layers, diff_ids, strict=True))


def _arch_of(name: str) -> str:
    return _ARCHITECTURES.get(name, name)


def _names_of(entry: _Descriptor) -> list[str]:
    annotations = entry.annotations or {}
    return [annotations[key] for key in _NAMES if annotations.get(key)]


def _other_arch(request: ImageRequest, found: Sequence[str]) -> ImageSourceError:
    return ImageSourceError(
        f"{request.source} has no image for {request.arch}: it is for {foreign(', '.join(found))}",
        next_step="Pass --arch as the image has it, or build the image for this architecture.",
    )


def _not_one(request: ImageRequest, found: Sequence[str]) -> ImageSourceError:
    wanted = f" named {foreign(request.image)}" if request.image else ""
    if not found:
        return ImageSourceError(f"{request.source} has no container image{wanted}")
    listed = foreign(", ".join(dict.fromkeys(found)))
    if wanted:
        return ImageSourceError(f"{request.source} has no image{wanted}; it has {listed}")
    return ImageSourceError(
        f"{request.source} has several images: {listed}",
        next_step="Say which one with --image NAME and --arch, or save only that one.",
    )
