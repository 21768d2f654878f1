"""``python -m modelcompression`` is the command ``modelcompression``."""

from .cli import main

main()
