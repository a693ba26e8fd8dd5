"""Index an image, and plan which of its bytes a node fetches."""

import hashlib

from updog.image.index import BLOCK_BYTES, Index, Piece
from updog.image.plan import ChunkSource, SlotScan, plan_chunks

chunks = [bytes([number]) * (16 * BLOCK_BYTES) for number in (7, 0, 9)]
pieces = [
    Piece(
        length=len(chunk),
        packed=100 + number,  # bytes of its zstd frame in the packed image
        sha256=hashlib.sha256(chunk).digest(),
        zeros=not any(chunk),
    )
    for number, chunk in enumerate(chunks)
]
index = Index.of(pieces, image_sha256=hashlib.sha256(b"".join(chunks)).digest())
assert Index.from_bytes(index.to_bytes()) == index
print(index.image_size, index.pack_size, len(index.to_bytes()))
# → 196608 303 183

scan = SlotScan(in_place=frozenset({0}))  # chunk 0 is in the inactive slot already
plan = plan_chunks(index, scan)
print([source.value for source in plan.sources])
# → ['in-place', 'zeros', 'pack']
for request in plan.requests:
    print(request.source.value, request.span.offset, request.span.length)
# → pack 201 102
print(plan.wire, plan.raw[ChunkSource.PACK])
# → 102 65536
