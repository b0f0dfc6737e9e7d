"""What JAX computes on and where it keeps compiled programs; set before JAX starts."""

import os
from pathlib import Path

from jaxsci.experiment import UsageError, nearest

PLATFORMS = ("cpu", "gpu", "tpu", "cuda", "rocm")


def check_backend(platform: str | None, devices: int | None) -> None:
    """Refuses a platform or a number of devices that cannot be, without importing JAX.

    **Raises:**

    - `UsageError` naming the option.
    """
    if platform is not None and platform not in PLATFORMS:
        raise UsageError(f"--platform {platform}: unknown" + nearest(platform, PLATFORMS))
    if devices is not None and devices < 1:
        raise UsageError(f"--devices {devices}: expected at least 1")
    if devices is not None and platform not in (None, "cpu"):
        raise UsageError(
            f"--devices {devices}: makes devices of the host's processor, "
            f"so it does not go with --platform {platform}"
        )


def start_backend(platform: str | None, devices: int | None) -> None:
    """Tells JAX the platform and the number of host devices, before it looks for any.

    **Arguments:**

    - `platform`: one of `PLATFORMS`; `None` leaves the choice to JAX.
    - `devices`: the number of devices that the host's processor counts as; implies `cpu`.

    **Raises:**

    - `UsageError` if the platform is unknown or not there, or JAX already runs with another number
      of devices.
    """
    check_backend(platform, devices)
    if devices is not None:
        platform = "cpu"
    if platform is None:
        return
    import jax

    jax.config.update("jax_platforms", platform)
    if devices is not None:
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError:
            pass  # JAX already runs in this process; whether that will do is seen below.
    try:
        count = len(jax.devices(platform))
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else "none found"
        raise UsageError(f"--platform {platform}: not available here ({reason})") from error
    if devices is not None and count != devices:
        raise UsageError(f"--devices {devices}: JAX already runs with {count} in this process")


def cache_folder() -> Path:
    """The folder for what can be made again: `$JAXSCI_CACHE_DIR`, or the platform's own."""
    import platformdirs

    chosen = os.environ.get("JAXSCI_CACHE_DIR")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("jaxsci"))


def keep_compiled_programs() -> Path | None:
    """Turns on JAX's cache of compiled programs on disk, so that a second run starts at once.

    A folder that the user has given to JAX itself (`JAX_COMPILATION_CACHE_DIR`) stays.

    **Returns:** the folder, or `None` if it cannot be written, and then programs are not kept.
    """
    import jax

    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen:
        return Path(chosen)
    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return folder
