"""An independent client: python-tuf's own Updater over a repository that is being served."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tuf.ngclient import Updater

from repo_tools.copies.serve import serving
from repo_tools.images.stored import unpacked
from updog.update_metadata.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator


class Client:
    """A node that remembers what it has seen: one metadata folder for many visits."""

    def __init__(self, folder: Path, root: bytes) -> None:
        self._folder = folder
        self._root = root
        (folder / "metadata").mkdir(parents=True, exist_ok=True)

    def visit(self, url: str) -> Updater:
        """Return an updater that has verified the whole chain."""
        updater = Updater(
            metadata_dir=str(self._folder / "metadata"),
            metadata_base_url=f"{url}/metadata/",
            target_base_url=f"{url}/targets/",
            bootstrap=self._root,
        )
        updater.refresh()
        return updater

    def manifest(self, url: str) -> Manifest:
        """Return the manifest, verified."""
        return Manifest.from_json(fetched(self.visit(url), "manifest.json"))


def fetched(updater: Updater, name: str) -> bytes:
    """Return a target, verified by the client library."""
    target = updater.get_targetinfo(name)
    assert target is not None, f"{name} is not listed"
    with tempfile.TemporaryDirectory() as folder:
        return Path(updater.download_target(target, str(Path(folder) / "target"))).read_bytes()


def releases(repository: Path, client: Client) -> dict[str, tuple[bytes, bytes, bytes]]:
    """Return version → raw boot, root and hash images of every available release, read as a client would."""
    with serving(repository) as url:
        updater = client.visit(url)
        manifest = Manifest.from_json(fetched(updater, "manifest.json"))
        return {
            str(update.version): tuple(
                _raw(updater, name) for name in (update.images.boot, update.images.root, update.images.hash)
            )  # type: ignore[misc]
            for update in manifest.updates
        }


def _raw(updater: Updater, name: str) -> bytes:
    def blocks() -> Iterator[bytes]:
        yield fetched(updater, name)

    return b"".join(unpacked(blocks(), name))
