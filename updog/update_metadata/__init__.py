"""The wire model of updates: versions, manifest, waves, migrations, outcome lines.

The publisher writes with the same code that the node reads with. Nothing here uses disk, network, clock or
log: bytes and values in, values and bytes out.
"""
