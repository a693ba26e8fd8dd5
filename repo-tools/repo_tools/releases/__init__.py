"""Releases: published, promoted, rolled out in waves, held, withdrawn, put on a first disk."""
