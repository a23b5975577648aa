"""The commands of `lowbit-dtp`, one a file; `cli` makes the program of them.

Slow modules are imported by the command that needs them, so that `--help` is printed at once.
"""
