"""Our initrd has the tree's own programs with their libraries, and its modules in the order of loading."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from repo_tools.errors import ImageSourceError
from repo_tools.image_build.initrd import build_initrd, ready_initrd
from repo_tools.image_build.kernels import kernels_in
from repo_tools.image_build.request import BuildRequest, Etc
from repo_tools.image_build.tree import Inode, Tree, file, link
from tests.support.trees import KERNEL, elf, module, sound_tree

MODULES = f"usr/lib/modules/{KERNEL}/kernel"
INIT = Path(sys.modules[build_initrd.__module__].__file__ or "").parent / "init.sh"


def entries(archive: bytes) -> dict[str, bytes]:
    """Return the files of a compressed newc archive by name: content, or target of a link."""
    data = zstandard.ZstdDecompressor().decompressobj().decompress(archive)
    found: dict[str, bytes] = {}
    at = 0
    while True:
        size, length = int(data[at + 54 : at + 62], 16), int(data[at + 94 : at + 102], 16)
        name = data[at + 110 : at + 110 + length - 1].decode()
        at = at + 110 + length + -(110 + length) % 4
        if name == "TRAILER!!!":
            return found
        found[name] = data[at : at + size]
        at += size + -size % 4


def built(tree: Tree, request: BuildRequest | None = None) -> dict[str, bytes]:
    return entries(build_initrd(tree, kernels_in(tree)[0], request or BuildRequest()))


def test_it_says_how_etc_is_written_and_what_comes_next() -> None:
    assert built(sound_tree())["settings"] == b"ETC=transient\nINIT=usr/lib/systemd/systemd\n"


def test_modules_are_loaded_after_what_they_need_and_softdog_only_if_nothing_else_watches() -> None:
    found = built(sound_tree())
    modules = [name.rpartition("-")[2] for name in found if name.startswith("modules/")]
    assert modules == ["dm_mod.ko", "dm_verity.ko", "erofs.ko", "overlay.ko"]
    assert [name for name in found if name.startswith("softdog/")] == ["softdog/000-softdog.ko"]


@pytest.mark.parametrize(
    ("etc", "modules", "programs"),
    [
        (Etc.READ_ONLY, {"dm_mod", "dm_verity", "erofs"}, {"findfs", "veritysetup"}),
        (Etc.TRANSIENT, {"dm_mod", "dm_verity", "erofs", "overlay"}, {"findfs", "veritysetup"}),
        (Etc.PERSISTENT, {"dm_mod", "dm_verity", "erofs", "overlay"}, {"findfs", "mke2fs", "veritysetup"}),
    ],
)
def test_only_what_the_choice_of_etc_needs_is_in_it(etc: Etc, modules: set[str], programs: set[str]) -> None:
    found = built(sound_tree(), BuildRequest(etc=etc))
    assert {name[12:-3] for name in found if name.startswith("modules/")} == modules
    assert {name[9:] for name in found if name.startswith("programs/")} == programs


def test_modules_that_a_person_names_and_drivers_of_disks_that_are_there_are_in_it() -> None:
    changes: dict[str, Inode | None] = {
        f"{MODULES}/drivers/nvme/nvme-core.ko": file(module()),
        f"{MODULES}/drivers/nvme/nvme.ko": file(module("nvme-core")),
        f"{MODULES}/drivers/scsi/megaraid-sas.ko": file(module()),
    }
    found = built(sound_tree(changes), BuildRequest(modules=("megaraid-sas",)))
    names = {name[12:-3] for name in found if name.startswith("modules/")}
    assert {"nvme_core", "nvme", "megaraid_sas"} <= names


def test_the_same_tree_gives_the_same_bytes() -> None:
    one, two = sound_tree(), sound_tree()
    request = BuildRequest()
    assert build_initrd(one, kernels_in(one)[0], request) == build_initrd(two, kernels_in(two)[0], request)


def test_a_program_comes_with_its_loader_and_all_libraries_at_the_places_of_the_tree() -> None:
    program = Path(shutil.which("tar") or sys.executable).resolve()
    command = ["ldd", str(program)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in shown.splitlines()]
    libraries = {words[0]: Path(words[2]) for words in pairs if "=>" in words}
    (loader,) = [Path(words[0]) for words in pairs if words[0].startswith("/")]
    changes: dict[str, Inode | None] = {
        f"usr/lib/x86_64-linux-gnu/{name}": file(path.read_bytes()) for name, path in libraries.items()
    }
    changes[f"usr/lib/x86_64-linux-gnu/{loader.name}"] = file(loader.read_bytes())
    changes["lib"] = link("usr/lib")
    changes[str(loader)[1:]] = link(f"/usr/lib/x86_64-linux-gnu/{loader.name}")
    changes["usr/sbin/veritysetup"] = file(program.read_bytes(), mode=0o755)
    found = built(sound_tree(changes))
    assert found["programs/veritysetup"] == program.read_bytes()
    assert found[str(loader)[1:]] == loader.read_bytes()
    for name, path in libraries.items():
        assert found[f"lib/x86_64-linux-gnu/{name}"] == path.read_bytes()


def test_a_library_that_is_missing_is_named_with_its_program() -> None:
    program = Path(shutil.which("tar") or sys.executable).resolve().read_bytes()
    tree = sound_tree(
        {"usr/sbin/findfs": file(program, mode=0o755), "lib64/ld-linux-x86-64.so.2": file(elf())}
    )
    with pytest.raises(ImageSourceError, match="/usr/sbin/findfs needs the library"):
        built(tree)


def test_a_ready_initrd_beside_the_kernel_comes_before_that_in_boot() -> None:
    tree = sound_tree()
    kernel = kernels_in(tree)[0]
    assert ready_initrd(tree, kernel) == b"the initrd of the distribution"
    tree.put(f"usr/lib/modules/{KERNEL}/initramfs.img", file(b"of dracut"))
    assert ready_initrd(tree, kernel) == b"of dracut"


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_init_is_a_script_that_busybox_reads() -> None:
    subprocess.run(["busybox", "sh", "-n", str(INIT)], check=True)
