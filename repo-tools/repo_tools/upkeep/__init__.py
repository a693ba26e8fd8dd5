"""Maintain a repository: find faults, re-sign before signatures expire, remove old releases."""
