"""Copies of a repository: pushed to where readers fetch it, mirrored, bundled for an air gap, served."""
