"""The repository on disk: verified state, one locked change at a time, the channels, the change log."""
