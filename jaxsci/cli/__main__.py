"""`python -m jaxsci.cli` is the `jaxsci` command."""

import sys

from jaxsci.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
