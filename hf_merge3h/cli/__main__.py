"""`python -m hf_merge3h.cli`, where the console script is not on the path."""

from . import main

main()
