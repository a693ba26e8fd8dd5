"""PURE: results as people read them. Values in, text out; no colour, no clock, no terminal.

One module a group of commands, as in `cli`; `text` is what they share.
"""
