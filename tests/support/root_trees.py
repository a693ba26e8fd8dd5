"""Root file systems for tests: as tar archives, layers, container images; and what a tree has, to compare."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from repo_tools.image_build.tree import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from repo_tools.image_build.tree import Tree

Seen = dict[str, tuple[object, ...]]


def seen(tree: Tree) -> Seen:
    """Return all that a tree has: for each path its kind, rights, attributes, bytes, and its first name."""
    first: dict[int, str] = {}
    found: Seen = {}
    for path, inode in tree.items():
        data = b""
        if inode.kind is Kind.FILE:
            with inode.content.open() as stream:
                data = stream.read()
            assert len(data) == inode.content.size
        name = path if inode.kind is Kind.FOLDER else first.setdefault(id(inode), path)
        found[path] = (
            inode.kind, oct(inode.mode), inode.uid, inode.gid, dict(inode.xattrs), inode.target, inode.device,
            data, name,
        )  # fmt: skip
    return found


def entry(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member: a folder if its name ends so, else a file; ``fields`` are those of a TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o755 if name.endswith("/") else 0o644
    info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """Return a symbolic link."""
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """Return a hard link."""
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def tar_of(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return an archive."""
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def digest_of(data: bytes) -> str:
    """Return the digest of a blob."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An OCI layout that is written blob by blob, so that a test can say what is not true."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.index: list[dict[str, Any]] = []

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        """Write a blob, and return its descriptor."""
        digest = digest_of(data)
        self.place(digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(data)}

    def place(self, digest: str) -> Path:
        """Return where a blob is."""
        return self.folder / "blobs" / digest.replace(":", "/")

    def document(self, content: object, kind: str) -> dict[str, Any]:
        """Write a document, and return its descriptor."""
        return self.blob(json.dumps(content).encode(), kind)

    def add(
        self,
        layers: Sequence[bytes],
        *,
        name: str = "latest",
        arch: str = "amd64",
        diff_ids: Sequence[str] = (),
        packed: bool = True,
    ) -> dict[str, Any]:
        """Write an image of tar archives, put it into the index, and return its manifest's descriptor."""
        config = {
            "architecture": arch,
            "os": "linux",
            "rootfs": {
                "type": "layers",
                "diff_ids": list(diff_ids) or [digest_of(layer) for layer in layers],
            },
        }
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "config": self.document(config, "config.v1+json"),
            "layers": [
                self.blob(gzip.compress(layer, mtime=0), "layer.v1.tar+gzip")
                if packed
                else self.blob(layer, "layer.v1.tar")
                for layer in layers
            ],
        }
        descriptor = self.document(manifest, "manifest.v1+json")
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
        descriptor["layers"] = [layer["digest"] for layer in manifest["layers"]]
        self.index.append(descriptor)
        self.write_index(self.index)
        return descriptor

    def write_index(self, manifests: Sequence[Mapping[str, Any]]) -> None:
        """Write the index."""
        (self.folder / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "manifests": list(manifests)})
        )


def saved_archive(layers: Sequence[bytes], *, tags: Sequence[str] = ("demo:1",)) -> dict[str, bytes]:
    """Return the files of an archive as ``docker save`` writes it."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in layers]},
        }
    ).encode()
    name = digest_of(config).removeprefix("sha256:") + ".json"
    files = {f"{number}/layer.tar": layer for number, layer in enumerate(layers)}
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": list(files)}]
    return {**files, name: config, "manifest.json": json.dumps(manifest).encode()}


def tar_of_files(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files."""
    return tar_of([entry(name, data) for name, data in files.items()])
