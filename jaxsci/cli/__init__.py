"""The `jaxsci` command: `list`, `run`, `verify`, `sweep`, `report`, `info`.

`jaxsci run neural-operator --preset quick` runs an experiment and prints what it claims and
measured; `jaxsci run path/to/mine.py` does so for a file of yours. `jaxsci COMMAND --help` says
the rest. Exit status: 0 when all claims hold, 1 when one fails, 2 for a mistake in the call (one
line on standard error says which), 3 when the experiment itself raised, 75 when another process of
the job is gone, 130 after Ctrl-C, 143 after SIGTERM.

From Python, `main(["run", "neural-operator"])` does the same and returns the status.
"""

import os

# XLA calls OpenBLAS from several threads at once for batched factorisations. With threads of its
# own OpenBLAS makes them wait for each other: on two cores the experiment `aas` then takes over
# twice as long. It reads the variable when NumPy is loaded, so this stands before the imports.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from jaxsci.cli.main import main as main
