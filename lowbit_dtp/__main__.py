"""`python -m lowbit_dtp` is the command `lowbit-dtp`."""

from .cli import main

main()
