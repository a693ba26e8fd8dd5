"""The source's own initrd, made by its dracut in the unpacked tree.

Rules: the program runs in namespaces of its own with the tree as its root, so that its mounts end with it; it
is as trusted as the image that it is part of, but it runs as root on the machine that builds: do this where
you would also run the scripts of the image's packages. It needs root.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from repo_tools.errors import ImageBuildError
from repo_tools.image_build import tools

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.image_build.kernels import TreeKernel

_MODULES = "systemd systemd-initrd systemd-veritysetup dm"
_DRIVERS = "erofs overlay dm-verity"
_RESULT = "updog-initrd"
_TEMPORARY = "/tmp"  # noqa: S108 - a file system of its own, see below
_INSIDE = """set -e
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
exec chroot "$@"
"""


def run_dracut(folder: Path | None, kernel: TreeKernel) -> bytes:
    """Return the initrd that the tree's dracut makes.

    Args:
        folder: the unpacked tree, which must not be used afterwards; None without root.
        kernel: which one it is for.

    Raises:
        ImageBuildError: there is no root, or dracut fails.
    """
    if folder is None or os.geteuid() != 0:
        raise ImageBuildError(
            "making an initrd with the source's dracut needs root",
            next_step="Run it as root, or make the initrd in the source: /boot/initramfs-VERSION.img.",
        )
    chosen = ["--no-hostonly", "--reproducible", "--tmpdir", _TEMPORARY, "--kver", kernel.version]
    wanted = ["--add", _MODULES, "--add-drivers", _DRIVERS, f"/{_RESULT}"]
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _INSIDE, "sh"]
    tools.run([*alone, folder, "dracut", "--force", *chosen, *wanted])
    return (folder / _RESULT).read_bytes()
