"""`python -m dysem_lab.cli` is `dysem-lab`."""

from dysem_lab.cli import main

main()
