"""Make a partition table in memory, damage one copy, and repair it."""

from signpost import gpt
from signpost.sets import DATA

MIB = 1 << 20
disk = bytearray(8 * MIB)
geometry = gpt.Geometry(sector_size=512, sectors=len(disk) // 512)


def read(extent: gpt.Extent) -> bytes:
    """Return a range of the disk. With a real disk: seek, then read."""
    return bytes(disk[extent.offset : extent.end])


partitions = [gpt.NewPartition(DATA, gpt.guid("A1B2C3D4-0000-4000-8000-000000000001"), 2 * MIB, "DATA")]
made = gpt.new_table(
    partitions, disk_size=len(disk), disk_guid=gpt.guid("a1b2c3d4-0000-4000-8000-000000000000")
)
for offset, data in made.writes():
    disk[offset : offset + len(data)] = data

disk[512:1024] = bytes(512)  # the primary header is lost
examined = gpt.examine(read, geometry)
print([fault.name for fault in examined.primary.faults], examined.backup.faults)
# → ['SIGNATURE'] ()

pair = gpt.repair(examined)
for offset, data in (*pair.backup.writes(), *pair.primary.writes()):  # a power cut leaves one whole copy
    disk[offset : offset + len(data)] = data

table = gpt.examine(read, geometry).trusted
assert table is not None
for number, place in table.extents().items():
    print(number, table.entries[number - 1].label, place.offset, place.size)
# → 1 DATA 1048576 2097152
