"""Several processes that compute one thing: joining them, and agreeing on what process 0 found.

JAX's runtime does the work (`jax.distributed`): every process runs the same program on its own
devices, and an array may be spread over the devices of all. Process 0 alone writes files.
"""

import os
import pickle
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from jaxsci.experiment.errors import UsageError

T = TypeVar("T")

HEARTBEAT = 20
"""Seconds without a sign of life after which a process counts as dead."""


class LostProcess(ConnectionError):
    """Another process of the job is gone, so this one cannot go on; the job has to be resumed."""


def join_processes() -> int:
    """Joins the other processes of a job, before anything is computed.

    Where `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` are set, they say who
    takes part; in a Slurm step with several tasks and on a TPU pod slice JAX finds out by itself;
    everywhere else the process is alone and nothing happens.

    **Returns:** the number of processes.

    **Raises:** `UsageError` if the variables are no numbers, or the others cannot be reached.
    """
    variables = {
        "num_processes": os.environ.get("JAX_NUM_PROCESSES"),
        "process_id": os.environ.get("JAX_PROCESS_ID"),
    }
    slurm = os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    told = all(variables.values()) and "JAX_COORDINATOR_ADDRESS" in os.environ
    if not (told or slurm or pod):
        return 1
    options: dict[str, Any] = {}
    if told:
        try:
            options = {name: int(value) for name, value in variables.items() if value is not None}
        except ValueError:
            raise UsageError(
                f"JAX_NUM_PROCESSES={variables['num_processes']!r}, "
                f"JAX_PROCESS_ID={variables['process_id']!r}: expected integers"
            ) from None
        if options["num_processes"] == 1:
            return 1
        options["cluster_detection_method"] = "deactivate"
    import jax

    # How processes on CPUs talk to each other; other platforms do not read it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=HEARTBEAT, **options
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"the processes of the job cannot be joined: {reason}") from error
    return jax.process_count()


def process_count() -> int:
    """The number of processes that compute together; does not start JAX."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return 1
    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes."""
    jax = sys.modules.get("jax")
    return process_count() == 1 or jax is None or jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What `make()` returns in process 0, for every process; an error there is raised everywhere.

    **Arguments:**

    - `make`: called in process 0 alone; its result, or the error, must be picklable.
    """
    if process_count() == 1:
        return make()
    import numpy as np
    from jax.experimental import multihost_utils

    error: Exception | None = None
    packed = b""
    if is_first():
        try:
            packed = pickle.dumps((make(), None))
        except Exception as raised:
            error = raised
            packed = pickle.dumps((None, f"{type(raised).__name__}: {raised}"))
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(packed))))
    buffer = np.zeros(size, np.uint8)
    buffer[: len(packed)] = np.frombuffer(packed, np.uint8)
    value, message = pickle.loads(
        np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()
    )
    if error is not None:
        raise error
    if message is not None:
        raise UsageError(f"process 0 stopped: {message}")
    return value
