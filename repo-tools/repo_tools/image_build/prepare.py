"""The tree as it will be in ROOT. PURE but for reading small files of the tree.

What changes, and why:

* the version and variant that are asked for are written into ``/usr/lib/os-release``, where updog reads them;
* the root of trust goes where updog.toml says;
* ``/etc/machine-id`` is an empty file: systemd then makes an ID at the start, and applies no presets anew;
* kernel and initrd leave ROOT, because BOOT has them; ``/.dockerenv`` would tell systemd that the node is a
  container;
* PRIVATE, DATA and ``/tmp`` are mounted by ``/etc/fstab``, as far as that does not name them: systemd makes
  the two file systems at the first start, and never over one that is there;
* ``/var`` of the source cannot be seen below DATA. It is kept in ``/usr/share/factory/var``, from where
  systemd-tmpfiles copies at each start what is not there yet. The database of the package manager is linked,
  not copied: it describes the release that runs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from repo_tools.image_build import layout
from repo_tools.image_build.kernels import kernels_in
from repo_tools.image_build.tree import FOLDER, Inode, Kind, file, link

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from repo_tools.image_build.request import BuildRequest
    from repo_tools.image_build.tree import Tree

FACTORY = "usr/share/factory/var"
TMPFILES = "usr/lib/tmpfiles.d/updog-factory.conf"

_MOUNT_POINTS = ("boot", "dev", "proc", "run", "sys", "tmp", "var")
_KERNEL_FILES = ("vmlinuz", "vmlinux", "Image", "initramfs.img", "initrd", "initrd.img")
_MOUNTS: Mapping[str, str] = {
    "/tmp": "tmpfs /tmp tmpfs mode=1777,nosuid,nodev 0 0",  # noqa: S108 - the node's
    "/var": f"PARTLABEL={layout.DATA} /var ext4 noatime,x-systemd.makefs,x-systemd.growfs 0 0",
    "/var/lib/updog": f"PARTLABEL={layout.PRIVATE} /var/lib/updog ext4 noatime,x-systemd.makefs 0 0",
}
"""Mount point → line of fstab(5); PRIVATE is below DATA, so it comes last."""

_TMP_UNITS = ("etc/systemd/system/tmp.mount", "usr/lib/systemd/system/tmp.mount")
_NOT_KEPT = frozenset({".updated", "cache", "lock", "run", "tmp"})
_NOT_LISTED = frozenset({"lib/updog"})  # PRIVATE is mounted there
_OF_RELEASE = ("lib/dpkg", "lib/rpm", "lib/pacman", "lib/apk")
_PLAIN = re.compile(r"[\w./%+@:~,=-]+")
_TO_ESCAPE = re.compile(r'["\\]')
_SHARED = frozenset({"lib", "log", "spool"})
"""Folders of /var whose entries belong to one program each: a later release may bring others."""


def prepared(tree: Tree, request: BuildRequest) -> Tree:
    """Return the tree of ROOT.

    Args:
        tree: has no faults.
        request: what a person chose.

    Raises:
        ImageSourceError: a file of the tree cannot be read.
    """
    made = tree.copy()
    _identify(made, request)
    if request.trusted_root is not None:
        _place(made, layout.trusted_root(layout.settings(made)), file(request.trusted_root))
    _without_identity(made)
    _without_kernels(made)
    made.remove(".dockerenv")
    for path in _MOUNT_POINTS:
        if made.find(path) is None:
            made.put(path, FOLDER)
    _mount(made)
    if _is_mounted(made, "/var"):
        _keep_var(made)
    return made


def _identify(tree: Tree, request: BuildRequest) -> None:
    """Write version and variant into os-release; the link to it in /etc replaces a second copy."""
    path = layout.OS_RELEASE_LINK if tree.read(layout.OS_RELEASE_LINK) is not None else layout.OS_RELEASE
    wanted = {"VERSION_ID": request.version, "VARIANT_ID": request.variant}
    fields = {key: str(value) for key, value in wanted.items() if value is not None}
    text = (tree.read(path) or b"").decode()
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip() not in fields]
    lines = [*kept, *(f'{key}="{value}"' for key, value in fields.items())]
    _place(tree, layout.OS_RELEASE, file("".join(f"{line}\n" for line in lines).encode()))
    _place(tree, layout.OS_RELEASE_LINK, link("../usr/lib/os-release"))


def _place(tree: Tree, path: str, inode: Inode) -> None:
    """Put something where a path leads on the node: links of its folder are followed, a file is replaced."""
    tree.put(tree.place(path) or path, inode)


def _without_identity(tree: Tree) -> None:
    _place(tree, layout.MACHINE_ID, file(b"", mode=0o444))
    for path in (*layout.host_keys(tree), *layout.SEEDS, layout.DBUS_MACHINE_ID):
        inode = tree.find(path)
        if inode is not None and inode.kind is Kind.FILE and tree.get(path) is inode:
            tree.remove(path)


def _without_kernels(tree: Tree) -> None:
    for kernel in kernels_in(tree):
        folder = next(iter(kernel.modules.values())).path.split(f"/{kernel.version}/")[0]
        for name in _KERNEL_FILES:
            tree.remove(f"{folder}/{kernel.version}/{name}")
    tree.empty(tree.resolve("boot") or "boot")
    for name in ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"):
        tree.remove(name)


def _mount(tree: Tree) -> None:
    lines = [line for point, line in _MOUNTS.items() if not _is_mounted(tree, point)]
    if lines:
        before = (tree.read(layout.FSTAB) or b"").decode("utf-8", "surrogateescape")
        head = f"{before}\n" if before and not before.endswith("\n") else before
        whole = head + "".join(f"{line}\n" for line in lines)
        _place(tree, layout.FSTAB, file(whole.encode("utf-8", "surrogateescape")))


def _is_mounted(tree: Tree, point: str) -> bool:
    by_unit = point == "/tmp" and any(tree.find(path) for path in _TMP_UNITS)  # noqa: S108 - the node's
    return by_unit or any(there.rstrip("/") == point for _, there, _ in layout.fstab(tree))


def _keep_var(tree: Tree) -> None:
    """Move what is in /var to the factory, and say what of it systemd-tmpfiles copies or links."""
    lines = [line for name in tree.names("var") for line in _lines(tree, name)]
    moved = [(path, inode) for path, inode in tree.items() if path.startswith("var/")]
    for path, inode in moved:
        if path.split("/")[1] not in _NOT_KEPT:
            tree.put(f"{FACTORY}/{path.removeprefix('var/')}", inode)
    tree.empty("var")
    if lines:
        text = "".join(f"{line}\n" for line in lines)
        tree.put(TMPFILES, file(text.encode("utf-8", "surrogateescape")))


def _lines(tree: Tree, name: str) -> Iterator[str]:
    """Yield what is done for an entry of /var: caches begin empty, the rest is copied or linked.

    What a line copies or links to is what has the same path in ``/usr/share/factory``.
    """
    inode = tree.get(f"var/{name}")
    is_folder = inode is not None and inode.kind is Kind.FOLDER
    if name == "cache":
        for child in tree.names("var/cache") if is_folder else ():
            found = tree.get(f"var/cache/{child}")
            if found is not None and found.kind is Kind.FOLDER:
                yield f"d {_quoted(f'/var/cache/{child}')} {found.mode:04o} {found.uid} {found.gid} -"
        return
    if name in _NOT_KEPT:
        return
    shared = is_folder and name in _SHARED
    for path in [f"{name}/{child}" for child in tree.names(f"var/{name}")] if shared else [name]:
        verb = "L" if path in _OF_RELEASE else "C"
        if path not in _NOT_LISTED and "\n" not in path:  # which no line can name
            yield f"{verb} {_quoted(f'/var/{path}')}"


def _quoted(path: str) -> str:
    """Return a path as tmpfiles.d(5) reads it: % begins a specifier, a backslash escapes a quote."""
    doubled = path.replace("%", "%%")
    return doubled if _PLAIN.fullmatch(doubled) else '"' + _TO_ESCAPE.sub(r"\\\g<0>", doubled) + '"'
