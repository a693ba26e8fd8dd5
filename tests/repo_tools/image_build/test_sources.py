"""What people have, read into trees: folders, archives and images made by the real tools; bombs."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from repo_tools.errors import ImageSourceError
from repo_tools.image_build import stored
from repo_tools.image_build.sources import SourceKind, read
from repo_tools.image_build.tree import Kind
from tests.support.root_trees import Layout, digest_of, entry, saved_archive, seen, tar_of, tar_of_files

if TYPE_CHECKING:
    from collections.abc import Callable

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and attributes of the system")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def fill(root: Path) -> None:
    """Make a small root with everything that is easily lost."""
    for folder in ("usr/bin", "usr/lib/x", "etc", "dev", "var/cache", "run", "tmp"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "usr/bin/sudo").write_bytes(b"sudo")
    (root / "usr/bin/sudo").chmod(0o4755)
    (root / "usr/bin/ping").write_bytes(b"ping" * 20_000)
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "etc", "user.note", b"\xff\x00 binary")
    (root / "usr/bin/sudoedit").hardlink_to(root / "usr/bin/sudo")
    (root / "bin").symlink_to("/usr/bin")
    (root / "etc/up").symlink_to("../../../../etc/passwd")
    os.mknod(root / "dev/null", 0o020666, os.makedev(1, 3))
    os.mknod(root / "dev/sda1", 0o060660, os.makedev(8, 1))
    os.chown(root / "dev/sda1", 0, 6)
    (root / "dev/sda1").chmod(0o660)
    os.mkfifo(root / "run/fifo")
    (root / os.fsdecode(b"etc/not \xff\xfe utf-8\n")).write_bytes(b"name")
    (root / ("usr/lib/x/" + "long" * 50)).write_bytes(b"long")
    (root / "var/cache/old").write_bytes(b"old")
    with (root / "var/sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")


@needs_root
def test_a_folder_is_read_with_all_that_is_easily_lost(tmp_path: Path, scratch: Path) -> None:
    root = tmp_path / "root"
    fill(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "run/socket"))

        source = read(root, scratch)

    found = seen(source.tree)
    assert (source.kind, source.arch, source.digest) == (SourceKind.FOLDER, None, None)
    assert source.notes == ('1 socket left out: "/run/socket".',)
    assert "run/socket" not in found
    assert found["usr/bin/sudo"][1] == "0o4755"
    assert found["usr/bin/sudoedit"][-1] == "usr/bin/sudo"
    assert found["usr/bin/ping"][4] == {"security.capability": CAPABILITY}
    assert found["etc"][4] == {"user.note": b"\xff\x00 binary"}
    assert found["dev/sda1"] == (Kind.BLOCK, "0o660", 0, 6, {}, "", (8, 1), b"", "dev/sda1")
    assert found["etc/not \udcff\udcfe utf-8\n"][7] == b"name"
    assert source.tree.find("etc/up") is None
    assert source.tree.read("bin/sudo") == b"sudo"
    assert not list(scratch.iterdir())


@needs_root
def test_what_is_mounted_in_a_folder_is_left_out(tmp_path: Path, scratch: Path) -> None:
    root = tmp_path / "root"
    for folder in ("usr", "proc", "dev/a b"):
        (root / folder).mkdir(parents=True)
    for folder in ("proc", "dev/a b"):
        run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", root / folder)
    try:
        (root / "proc/1").mkdir()
        source = read(root, scratch)
    finally:
        for folder in ("proc", "dev/a b"):
            run("umount", root / folder)

    assert set(seen(source.tree)) == {"", "usr", "proc", "dev", "dev/a b"}
    assert source.notes == ('what is mounted on 2 folders was left out: "/dev/a b, /proc".',)


@needs_root
@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".zst"])
def test_an_archive_by_gnu_tar_is_the_folder_it_was_made_of(
    tmp_path: Path, scratch: Path, ending: str
) -> None:
    fill(tmp_path / "root")
    archive = tmp_path / f"root.tar{ending}"
    run("tar", "--xattrs", "--xattrs-include=*", "--sparse", "-caf", archive, "-C", tmp_path / "root", ".")

    source = read(archive, scratch)

    (tmp_path / "empty").mkdir()
    assert seen(source.tree) == seen(read(tmp_path / "root", tmp_path / "empty").tree)
    assert (source.kind, source.digest) == (SourceKind.TAR, digest_of(archive.read_bytes()))
    assert [file.name for file in scratch.iterdir()] == (["spool"] if ending else [])


@pytest.fixture
def umoci_layout(tmp_path: Path) -> tuple[Path, Path]:
    """Return a layout of three layers, and the folder that it is in the end."""
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    root = bundle / "rootfs"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:v1")
    run("umoci", "unpack", "--image", f"{layout}:v1", bundle)
    fill(tmp_path / "first")
    run("cp", "-a", f"{tmp_path / 'first'}/.", root)
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:v1", bundle)
    (root / "usr/bin/sudo").unlink()  # a file of which another name stays
    (root / "usr/bin/ping6").hardlink_to(root / "usr/bin/ping")  # across layers
    shutil.rmtree(root / "usr/lib/x")
    (root / "usr/lib/x").symlink_to("/var")  # a link over a folder
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:v1", bundle)
    shutil.rmtree(root / "var")
    (root / "var/new").mkdir(parents=True)
    (root / "bin").unlink()
    (root / "bin").mkdir()  # a folder over a link
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:v1", bundle)
    return layout, root


@needs_root
def test_a_layout_by_umoci_is_the_folder_that_its_layers_make(
    umoci_layout: tuple[Path, Path], scratch: Path, tmp_path: Path
) -> None:
    layout, root = umoci_layout

    source = read(layout, scratch)

    (tmp_path / "empty").mkdir()
    assert (source.kind, source.arch) == (
        SourceKind.OCI,
        "x86_64" if os.uname().machine == "x86_64" else source.arch,
    )
    assert seen(source.tree) == seen(read(root, tmp_path / "empty").tree)
    assert {"usr/bin/sudoedit", "usr/bin/ping6", "var/new"} < set(seen(source.tree))


@needs_root
@pytest.mark.parametrize(
    ("transport", "kind"), [("docker-archive", SourceKind.SAVED), ("oci-archive", SourceKind.OCI)]
)
@pytest.mark.parametrize("compressor", ["", "gzip", "zstd"])
def test_an_archive_by_skopeo_is_the_layout_that_it_is_a_copy_of(
    umoci_layout: tuple[Path, Path], scratch: Path, tmp_path: Path, transport: str, kind: str, compressor: str
) -> None:
    layout, root = umoci_layout
    archive = tmp_path / "image.tar"
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:v1", f"{transport}:{archive}:demo:v1")
    if compressor:
        run(compressor, archive)
        archive = next(tmp_path.glob("image.tar.*"))

    source = read(archive, scratch)

    (tmp_path / "empty").mkdir()
    assert source.kind == kind
    assert seen(source.tree) == seen(read(root, tmp_path / "empty").tree)


ROOT = tar_of([entry("usr/"), entry("usr/file", b"content")])


def test_an_archive_that_comes_through_a_pipe_is_read(tmp_path: Path, scratch: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[ROOT])
    writer.start()

    source = read(tmp_path / "pipe", scratch)

    writer.join()
    assert source.tree.read("usr/file") == b"content"


@pytest.mark.parametrize("place", ["image", "image.tar.xz", "debian_1.0", "mkosi.output/image.tar"])
def test_the_output_of_mkosi_is_found_in_its_folder(tmp_path: Path, scratch: Path, place: str) -> None:
    output = tmp_path / "output" / place
    output.parent.mkdir(parents=True)
    if place.endswith(".xz"):
        output.write_bytes(lzma.compress(ROOT))
    elif place.endswith(".tar"):
        output.write_bytes(ROOT)
    else:
        (output / "usr").mkdir(parents=True)
        (output / "usr/file").write_bytes(b"content")
    (tmp_path / "output/image.manifest").write_text("{}")
    (tmp_path / "output/mkosi.extra/usr").mkdir(parents=True)
    if place == "debian_1.0":
        (tmp_path / "output/debian").symlink_to("debian_1.0")

    source = read(tmp_path / "output", scratch)

    assert (source.kind, source.tree.read("usr/file")) == (SourceKind.MKOSI, b"content")


def test_a_folder_with_two_outputs_of_mkosi_is_not_guessed_at(tmp_path: Path, scratch: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "output" / name / "usr").mkdir(parents=True)

    with pytest.raises(ImageSourceError, match=r'has several roots: "one, two"'):
        read(tmp_path / "output", scratch)


# -- bombs

MEMBER = tar_of([entry("usr/")])[:512]
LARGE = tarfile.TarInfo("usr/large")
LARGE.size = 10 << 30
ZEROS = bytes(64 << 20)
FRAMES = LARGE.size // len(ZEROS)


@pytest.mark.parametrize(
    "compress",
    [
        lambda data: gzip.compress(data, 1),
        zstandard.ZstdCompressor(level=1).compress,
        lambda data: lzma.compress(data, preset=0),
    ],
    ids=["gzip", "zstd", "xz"],
)
def test_a_bomb_of_10_gb_ends_early_and_takes_no_space(
    tmp_path: Path, scratch: Path, compress: Callable[[bytes], bytes]
) -> None:
    frame = compress(ZEROS)
    with (tmp_path / "bomb.tar").open("wb") as file:
        file.write(compress(MEMBER + LARGE.tobuf()))
        for _ in range(FRAMES):
            file.write(frame)

    with pytest.raises(ImageSourceError, match=r"bomb\.tar unpacks to more than 200 times its") as caught:
        read(tmp_path / "bomb.tar", scratch)

    assert "name the folder" in caught.value.next_step
    spool = (scratch / "spool").stat()
    assert spool.st_size <= stored.RATIO_FROM
    assert spool.st_blocks * 512 < 8 << 20


def test_a_layer_that_is_a_bomb_ends_at_the_limit(tmp_path: Path, scratch: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add([ROOT, tar_of([entry("usr/large", bytes(5 << 20))])])

    with pytest.raises(
        ImageSourceError, match=r"layer 2 of layout .* unpacks to more than 1.0 MiB"
    ) as caught:
        read(layout.folder, scratch, limit_bytes=1 << 20)

    assert "--limit." in caught.value.next_step
    assert (scratch / "spool").stat().st_size <= 1 << 20


def test_a_sparse_file_counts_with_all_its_size(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "root/usr").mkdir(parents=True)
    with (tmp_path / "root/usr/large").open("wb") as file:
        file.truncate(1 << 40)
    run("tar", "--sparse", "-cf", tmp_path / "root.tar", "-C", tmp_path / "root", ".")
    assert (tmp_path / "root.tar").stat().st_size < 1 << 20

    for source in ("root", "root.tar"):
        with pytest.raises(ImageSourceError, match=rf"{source} unpacks to more than 16.0 GiB"):
            read(tmp_path / source, scratch)


def test_hard_links_count_once_and_what_upper_layers_hide_does_not(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "root/usr").mkdir(parents=True)
    (tmp_path / "root/usr/a").write_bytes(bytes(700_000))
    (tmp_path / "root/usr/b").hardlink_to(tmp_path / "root/usr/a")

    assert read(tmp_path / "root", scratch, limit_bytes=1 << 20).tree.get("usr/b") is not None


def test_unpacking_ends_before_the_disk_is_full(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root.tar").write_bytes(gzip.compress(ROOT))
    monkeypatch.setattr(stored, "LEAST_FREE", shutil.disk_usage(scratch).total)

    with pytest.raises(ImageSourceError, match="free; unpacking was ended"):
        read(tmp_path / "root.tar", scratch)


def test_a_spool_that_cannot_be_written_is_not_the_source_s_fault(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "root.tar").write_bytes(gzip.compress(ROOT))
    (tmp_path / "precious").write_bytes(b"precious")
    (scratch / "spool").symlink_to(tmp_path / "precious")

    with pytest.raises(ImageSourceError, match=r"cannot write to .*scratch: File exists"):
        read(tmp_path / "root.tar", scratch)

    assert (tmp_path / "precious").read_bytes() == b"precious"


# -- what is not a source


def long_zstd(data: bytes) -> bytes:
    """Return data as ``zstd --long=28`` packs it: unpacking needs 256 MiB."""
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is neither a tar archive nor a folder"),
        (b"hello\n" * 500, "is neither a tar archive nor a folder"),
        (bytes(4096), "is neither a tar archive nor a folder"),
        (gzip.compress(b"hello\n" * 500, mtime=0), "is neither a tar archive nor a folder"),
        (bytes(0x438) + b"\x53\xef" + bytes(4096), "is an ext4 image"),
        (bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(4096), "is an erofs image"),
        (b"hsqs" + bytes(4096), "is a squashfs image"),
        (bytes(512) + b"EFI PART" + bytes(4096), "is a disk image"),
        (gzip.compress(bytes(512) + b"EFI PART" + bytes(4096), mtime=0), "is a disk image"),
        (b"070701" + bytes(4096), "is a cpio archive"),
        (ROOT[:1536], "it is cut after"),
        (gzip.compress(ROOT, mtime=0)[:-5], "cannot unpack source"),
        (gzip.compress(ROOT, mtime=0) + b"more", "cannot unpack source: Not a gzipped file"),
        (lzma.compress(ROOT)[:-5], "cannot unpack source: the stream is cut"),
        (lzma.compress(ROOT) + b"more", "cannot unpack source"),
        (zstandard.ZstdCompressor().compress(ROOT)[:-1], "cannot unpack source: the stream ends inside"),
        (zstandard.ZstdCompressor().compress(ROOT) + b"m", "cannot unpack source: .*Unknown frame"),
        (long_zstd(ROOT), "cannot unpack source: .*requires too much memory"),
    ],
)
def test_a_file_that_is_no_source_is_refused(tmp_path: Path, scratch: Path, data: bytes, why: str) -> None:
    (tmp_path / "source").write_bytes(data)

    with pytest.raises(ImageSourceError, match=why):
        read(tmp_path / "source", scratch)


def test_xz_that_wants_the_memory_of_the_machine_is_refused(tmp_path: Path, scratch: Path) -> None:
    packed = bytearray(lzma.compress(ROOT, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 12}]))
    at = 12 + 4  # stream header, then size, flags, filter and the size of its properties
    assert packed[at] == 0  # 4 KiB
    packed[at] = 40  # 4 GiB
    header_size = (packed[12] + 1) * 4
    packed[12 + header_size - 4 : 12 + header_size] = zlib.crc32(packed[12 : 12 + header_size - 4]).to_bytes(
        4, "little"
    )
    (tmp_path / "root.tar.xz").write_bytes(packed)

    with pytest.raises(ImageSourceError, match="Memory usage limit exceeded"):
        read(tmp_path / "root.tar.xz", scratch)


def test_a_source_that_is_not_there_and_an_empty_folder_are_refused(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(ImageSourceError, match=r'cannot read .*none": No such file'):
        read(tmp_path / "none", scratch)
    with pytest.raises(ImageSourceError, match="scratch"):
        read(scratch, scratch)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageSourceError, match="empty is empty"):
        read(tmp_path / "empty", scratch)


@needs_root
def test_what_only_root_can_read_needs_root(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "root.tar").write_bytes(ROOT)
    (tmp_path / "root.tar").chmod(0o600)
    (tmp_path / "root/usr").mkdir(parents=True)
    (tmp_path / "root/usr").chmod(0o700)
    # What a path leads through has to be open to others, as the test's own folder is not.
    places = [os.open(tmp_path, os.O_PATH), os.open(scratch, os.O_PATH)]
    tmp_path.chmod(0o755)
    here, there = (f"/proc/self/fd/{place}" for place in places)
    os.seteuid(65534)
    try:
        for name in ("root.tar", "root"):
            with pytest.raises(ImageSourceError, match="Permission denied") as caught:
                read(Path(here) / name, Path(there))
            assert "as root" in caught.value.next_step
    finally:
        os.seteuid(0)
        for place in places:
            os.close(place)


def test_an_output_inside_of_the_source_is_refused(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(ImageSourceError, match="the output is inside of the source"):
        read(tmp_path, scratch)


def test_nothing_outside_of_the_scratch_folder_is_touched(tmp_path: Path, scratch: Path) -> None:
    bad = [
        entry("usr/"),
        entry("usr/link", type=tarfile.SYMTYPE, linkname=str(tmp_path)),
        entry("usr/link/x", b"x"),
    ]
    (tmp_path / "saved.tar").write_bytes(tar_of_files(saved_archive([tar_of(bad)])))
    before = sorted(tmp_path.iterdir())

    read(tmp_path / "saved.tar", scratch)

    assert sorted(tmp_path.iterdir()) == before
