"""A root file system is the same tree whatever it comes in, and its archive is the same bytes."""

from __future__ import annotations

import os
import random
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from repo_tools.image_build.sources import SourceKind, read
from repo_tools.image_build.tree import write_tar
from tests.support.root_trees import Layout, entry, hard_link, link, seen, tar_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# A path and what it is: ("folder", mode), ("file", mode, bytes, group of its hard links), ("link", target),
# ("fifo", mode).
Model = dict[str, tuple[object, ...]]
Member = tuple[tarfile.TarInfo, bytes]

_WORDS = ("a", "b", "lib", ".wh", "caf\u00e9", "\udcff", "x y\n", "long" * 30)
_TARGETS = ("a", "../a", "/lib", "/../../etc", "\udcfe", "b/../..")


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draw a root: folders are there before what is in them."""
    model: Model = {}
    folders = [""]
    for _ in range(draw(st.integers(0, 12))):
        folder = draw(st.sampled_from(folders))
        path = f"{folder}/{draw(st.sampled_from(_WORDS))}".lstrip("/")
        if path in model:
            continue
        mode = draw(st.sampled_from([0o700, 0o755, 0o1777, 0o2775, 0o4755]))
        kind = draw(st.sampled_from(["folder", "folder", "file", "file", "link", "fifo"]))
        if kind == "folder":
            folders.append(path)
            model[path] = (kind, mode)
        elif kind == "file":
            group = draw(st.integers(0, 8))  # the small ones are shared by several names
            data = draw(st.binary(max_size=8)) + bytes(draw(st.sampled_from([0, 0, 2000])))
            twin = next((one for one in model.values() if one[0] == "file" and one[3] == group), None)
            model[path] = twin if twin and group < 3 else (kind, mode, data, group if group < 3 else path)
        elif kind == "link":
            model[path] = (kind, draw(st.sampled_from(_TARGETS)))
        else:
            model[path] = (kind, mode)
    return model


def group_of(model: Model, path: str) -> frozenset[str]:
    """Return the names of a file."""
    if model[path][0] != "file":
        return frozenset({path})
    return frozenset(name for name, one in model.items() if one[0] == "file" and one[3] == model[path][3])


def parents(path: str) -> list[str]:
    words = path.split("/")
    return ["/".join(words[:depth]) for depth in range(1, len(words))]


def layer(old: Model, new: Model, order: random.Random) -> bytes:
    """Return the layer that makes ``new`` of ``old``, as an overlay file system has it."""
    both = [path for path in new if new[path][0] == "folder" and old.get(path, ("",))[0] == "folder"]
    opaque = {path for path in both if order.random() < 0.2}
    changed = {
        path
        for path in new
        if opaque & set(parents(path))
        or path not in old
        or (old[path], group_of(old, path)) != (new[path], group_of(new, path))
    }
    # Of each file, the name that the layers below have.
    written = {one[3]: path for path, one in new.items() if one[0] == "file" and path not in changed}
    in_order = sorted(changed, key=lambda name: name.split("/"))
    members = [entry("./", uid=os.getuid(), gid=os.getgid())]
    members += [member(path, new[path], written) for path in in_order]
    for whiteout in whiteouts(old, new, both, opaque):
        members.insert(order.randint(0, len(members)), whiteout)
    return tar_of(members)


def whiteouts(old: Model, new: Model, both: list[str], opaque: set[str]) -> Iterator[Member]:
    """Yield what hides the names of ``old`` that ``new`` does not have, in folders that both have."""
    for path in opaque:
        yield entry(f"{path}/.wh..wh..opq")
    for path in old:
        folder, _, name = path.rpartition("/")
        if path not in new and (not folder or folder in both) and not opaque & set(parents(path)):
            yield entry(f"{folder}/.wh.{name}".lstrip("/"))


def member(path: str, one: tuple[object, ...], written: dict[object, str]) -> Member:
    """Return the member of an archive; ``written`` has the name of each file that there is already."""
    kind, *details = one
    if kind == "link":
        info, data = link(path, str(details[0]))
    elif kind == "file" and written.setdefault(details[2], path) != path:
        return hard_link(path, written[details[2]])
    elif kind == "file":
        assert isinstance(details[1], bytes)
        info, data = entry(path, details[1], mode=details[0])
    elif kind == "folder":
        info, data = entry(path + "/", mode=details[0])
    else:
        info, data = entry(path, type=tarfile.FIFOTYPE, mode=details[0])
    info.uid, info.gid = os.getuid(), os.getgid()
    return info, data


def unpack(model: Model, folder: Path) -> None:
    """Make the folder that a root is."""
    first: dict[object, Path] = {}
    folder.chmod(0o755)
    for path, (kind, *details) in model.items():
        place = folder / path
        if kind == "folder":
            place.mkdir()
        elif kind == "link":
            place.symlink_to(str(details[0]))
        elif kind == "fifo":
            os.mkfifo(place)
        elif details[2] in first:
            place.hardlink_to(first[details[2]])
        else:
            first[details[2]] = place
            assert isinstance(details[1], bytes)
            place.write_bytes(details[1])
        if kind != "link":
            assert isinstance(details[0], int)
            place.chmod(details[0])


@settings(max_examples=100, deadline=None)
@given(st.lists(models(), min_size=1, max_size=3), st.integers(0, 1 << 32))
def test_a_root_is_the_same_tree_as_a_folder_as_layers_and_as_its_own_archive(
    roots: list[Model], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "folder").mkdir()
        unpack(roots[-1], work / "folder")
        (work / "folder" / "usr").mkdir()  # an empty folder is no source
        (work / "folder" / "usr").chmod(0o755)
        order = random.Random(seed)
        layout = Layout(work / "layout")
        usr: Model = {"usr": ("folder", 0o755)}
        steps = [usr | root for root in roots]
        layout.add([layer(old, new, order) for old, new in zip([{}, *steps], steps, strict=False)])
        scratch = []
        for number in range(3):
            scratch.append(work / f"scratch{number}")
            scratch[-1].mkdir()

        folder = read(work / "folder", scratch[0])
        image = read(layout.folder, scratch[1])

        assert (folder.kind, image.kind) == (SourceKind.FOLDER, SourceKind.OCI)
        assert seen(image.tree) == seen(folder.tree)
        write_tar(folder.tree, work / "one.tar", moment=1)
        write_tar(image.tree, work / "two.tar", moment=1)
        assert (work / "one.tar").read_bytes() == (work / "two.tar").read_bytes()
        assert seen(read(work / "one.tar", scratch[2]).tree) == seen(folder.tree)
