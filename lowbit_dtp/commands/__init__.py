"""The commands of `lowbit-dtp`, one a file; `cli` makes the program of them.

What is slow to import is imported by the command that needs it, so that `--help` answers at once.
"""
