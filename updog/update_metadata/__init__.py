"""The wire model of updates: versions, manifest, waves, migrations.

One home for what the publisher writes and the node reads. Nothing here touches disk, network, clock or log:
bytes and values in, values and bytes out.
"""
