"""Drills: a node in a folder, for trying things out and for CI."""
