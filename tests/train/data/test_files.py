"""Readers of PDEBench and The Well: small files in those layouts, written here and read back."""

import pickle
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zarr

from jaxsci.train import (
    Checkpoints,
    PDEBench,
    PDEBenchDarcy,
    TheWell,
    Windows,
    fit,
    pipeline,
)
from jaxsci.train.data.files import ArrayFile

N, T, X, Y = 3, 5, 4, 6


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def open_for_writing(path):
    return zarr.open_group(path, mode="w") if path.suffix == ".zarr" else h5py.File(path, "w")


def write(path, arrays, attributes=()):
    root = open_for_writing(path)
    for name, array in arrays.items():
        root[name] = array
    for name, value in dict(attributes).items():
        root.attrs[name] = value
    if isinstance(root, h5py.File):
        root.close()
    return path


@pytest.mark.parametrize("suffix", [".hdf5", ".zarr"])
def test_one_dimensional_scalar(tmp_path, suffix):
    """Advection, Burgers, reaction-diffusion; the stored times end one entry later."""
    tensor = values(N, T, X)
    path = write(
        tmp_path / f"1D_Burgers_Sols_Nu0.1{suffix}",
        {
            "tensor": tensor,
            "x-coordinate": np.linspace(0, 1, X, dtype=np.float32),
            "t-coordinate": np.linspace(0, 2, T + 1, dtype=np.float32),
        },
        {"Nu": 0.1},
    )
    data = PDEBench(path)
    assert (len(data), list(data.n_times), data.channels) == (N, [T] * N, ("u",))
    assert data.parameters == {"Nu": 0.1}
    np.testing.assert_allclose(data.times, np.linspace(0, 2, T + 1)[:T], rtol=1e-6)
    np.testing.assert_array_equal(data.read(1, slice(1, 4)), tensor[1, 1:4, None])
    half = PDEBench(path, every_point=2)
    assert len(half.coords[0]) == 2
    np.testing.assert_array_equal(half.read(2, slice(0, 5, 2)), tensor[2, ::2, None, ::2])


def test_compressible_navier_stokes(tmp_path):
    names = ("density", "pressure", "Vx", "Vy")
    fields = {name: values(N, T, X, Y, seed=i) for i, name in enumerate(names)}
    coordinates = {"x-coordinate": np.arange(X), "y-coordinate": np.arange(Y)}
    path = write(
        tmp_path / "2D_CFD.hdf5",
        fields | coordinates | {"t-coordinate": np.arange(T + 1)},
        {"eta": 0.01, "zeta": 0.02, "M": 0.1},
    )
    data = PDEBench(path)
    assert data.channels == names and data.parameters["M"] == 0.1
    window = data.read(2, slice(0, 2))
    assert window.shape == (2, 4, X, Y)
    for c, name in enumerate(names):
        np.testing.assert_array_equal(window[:, c], fields[name][2, :2])
    np.testing.assert_array_equal(data.coords[1], np.arange(Y))


def test_incompressible_navier_stokes(tmp_path):
    velocity, particles = values(N, T, X, Y, 2), values(N, T, X, Y, 1, seed=1)
    force, t = values(N, X, Y, 2, seed=2), np.tile(np.linspace(0, 1, T), (N, 1))
    path = write(
        tmp_path / "ns_incom_inhom_2d.h5",
        {"velocity": velocity, "particles": particles, "force": force, "t": t},
        {"config": "seed: 1", "latestIndex": 4},
    )
    data = PDEBench(path)
    assert data.channels == ("Vx", "Vy", "particles")
    window = data.read(1, slice(3, 5))
    np.testing.assert_array_equal(window[:, 1], velocity[1, 3:5, ..., 1])
    np.testing.assert_array_equal(window[:, 2], particles[1, 3:5, ..., 0])
    np.testing.assert_array_equal(data.constants(1)["force"][0], force[1, ..., 0])
    np.testing.assert_allclose(data.times, np.linspace(0, 1, T))
    np.testing.assert_allclose(data.coords[0], (np.arange(X) + 0.5) / X)


@pytest.mark.parametrize(("n_channels", "names"), [(1, ("h",)), (2, ("u0", "u1"))])
def test_a_group_for_each_sample(tmp_path, n_channels, names):
    """Shallow water (radial dam break) and 2-D reaction-diffusion."""
    samples = {f"{i:04d}": values(T, X, Y, n_channels, seed=i) for i in range(N)}
    arrays = {f"{key}/data": array for key, array in samples.items()}
    for key in samples:
        arrays |= {
            f"{key}/grid/x": np.linspace(-2.5, 2.5, X),
            f"{key}/grid/y": np.linspace(-2.5, 2.5, Y),
            f"{key}/grid/t": np.linspace(0, 1, T),
        }
    data = PDEBench(write(tmp_path / "2D_rdb_NA_NA.h5", arrays))
    assert data.channels == names and len(data) == N
    expected = np.moveaxis(samples["0002"][1:3], -1, 1)
    np.testing.assert_array_equal(data.read(2, slice(1, 3)), expected)
    np.testing.assert_allclose(data.coords[1], np.linspace(-2.5, 2.5, Y))


def test_darcy(tmp_path):
    nu, u = values(N, X, Y), values(N, 1, X, Y, seed=1)
    path = write(
        tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5",
        {"nu": nu, "tensor": u, "x-coordinate": np.arange(X), "y-coordinate": np.arange(Y)},
        {"beta": 1.0},
    )
    data = PDEBenchDarcy(path, samples=[2, 0])
    assert len(data) == 2 and data.parameters == {"beta": 1.0}
    np.testing.assert_array_equal(data[0]["inputs"], nu[2][None])
    np.testing.assert_array_equal(data[1]["outputs"], u[0])
    assert PDEBenchDarcy(path, every_point=2)[0]["inputs"].shape == (1, 2, 3)
    with pytest.raises(ValueError, match="Darcy file, which has no time; use PDEBenchDarcy"):
        PDEBench(path)
    with pytest.raises(ValueError, match="samples must be among 0 to 2"):
        PDEBenchDarcy(path, samples=[3])


def write_well(path, seed=0, shape=(X, Y), drop=()):
    """A file of The Well as its documentation specifies it."""
    n, t = 2, T
    with h5py.File(path, "w") as root:
        root.attrs.update(
            dataset_name="example", grid_type="cartesian", n_spatial_dims=2, n_trajectories=n
        )
        root.attrs["simulation_parameters"] = ["Re"]
        root.attrs["Re"] = 100.0
        dimensions = root.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, size in [("time", t), ("x", shape[0]), ("y", shape[1])]:
            dimensions[name] = np.linspace(0, 1, size, dtype=np.float32)
            dimensions[name].attrs["sample_varying"] = False
        wall = root.create_group("boundary_conditions").create_group("x_periodic")
        wall.attrs["bc_type"] = "PERIODIC"
        wall.attrs["associated_dims"] = ["x"]
        wall["mask"] = np.array([True, False, False, True])
        scalars = root.create_group("scalars")
        scalars.attrs["field_names"] = ["Re", "forcing"]
        scalars["Re"] = np.float32([100.0, 200.0])
        scalars["Re"].attrs.update(sample_varying=True, time_varying=False)
        scalars["forcing"] = np.zeros(t, np.float32)
        scalars["forcing"].attrs.update(sample_varying=False, time_varying=True)
        fields = {
            # name: order, array, sample_varying, time_varying, dim_varying
            "density": (0, values(n, t, *shape, seed=seed), True, True, [True, True]),
            "depth": (0, values(shape[1], seed=seed + 1), False, False, [False, True]),
            "velocity": (1, values(n, t, *shape, 2, seed=seed + 2), True, True, [True, True]),
            "wind": (1, values(t, shape[0], 2, seed=seed + 3), False, True, [True, False]),
            "strain": (2, values(n, t, *shape, 2, 2, seed=seed + 4), True, True, [True, True]),
        }
        for order in range(3):
            group = root.create_group(f"t{order}_fields")
            group.attrs["field_names"] = [k for k, v in fields.items() if v[0] == order]
        for name, (order, array, by_sample, by_time, by_dim) in fields.items():
            root[f"t{order}_fields/{name}"] = array
            root[f"t{order}_fields/{name}"].attrs.update(
                sample_varying=by_sample, time_varying=by_time, dim_varying=by_dim
            )
        for name in drop:
            del root[name]
    return {name: field[1] for name, field in fields.items()}


def test_the_well(tmp_path):
    first, second = write_well(tmp_path / "a.hdf5"), write_well(tmp_path / "b.hdf5", seed=10)
    data = TheWell(tmp_path)
    assert len(data) == 4 and list(data.n_times) == [T] * 4
    assert data.channels == (
        "density",
        *("velocity_x", "velocity_y", "wind_x", "wind_y"),
        *("strain_xx", "strain_xy", "strain_yx", "strain_yy"),
    )
    window = data.read(3, slice(1, 4, 2))
    assert window.shape == (2, 9, X, Y)
    channel = dict(zip(data.channels, np.moveaxis(window, 1, 0), strict=True))
    np.testing.assert_array_equal(channel["density"], second["density"][1, 1:4:2])
    np.testing.assert_array_equal(channel["velocity_y"], second["velocity"][1, 1:4:2, ..., 1])
    np.testing.assert_array_equal(channel["strain_yx"], second["strain"][1, 1:4:2, ..., 1, 0])
    for y in range(Y):  # Constant along y, and the same for all samples.
        np.testing.assert_array_equal(channel["wind_x"][..., y], second["wind"][1:4:2, :, 0])
    constants = data.constants(1)
    assert data.constant_channels == ("depth",) and data.scalars == ("Re",)
    np.testing.assert_array_equal(constants["fields"], np.tile(first["depth"], (1, X, 1)))
    np.testing.assert_array_equal(constants["scalars"], [200.0])
    assert data.boundaries == {"x_periodic": "PERIODIC"}


@pytest.fixture
def burgers(tmp_path):
    tensor = values(N, T, X)
    return tensor, write(tmp_path / "burgers.hdf5", {"tensor": tensor})


def test_windows_are_all_the_windows(burgers):
    tensor, path = burgers
    windows = Windows(PDEBench(path), 2, 1, trajectories=[0, 2])
    assert len(windows) == 2 * (T - 2)
    for k, (i, start) in enumerate((i, s) for i in (0, 2) for s in range(T - 2)):
        np.testing.assert_array_equal(windows[k]["inputs"], tensor[i, start : start + 2, None])
        np.testing.assert_array_equal(windows[k]["outputs"], tensor[i, start + 2, None][None])
    apart = Windows(PDEBench(path), every=3)
    assert len(apart) == N * 2
    np.testing.assert_array_equal(apart[1]["outputs"][0, 0], tensor[0, 4])
    with pytest.raises(IndexError, match="window 6, expected 0 to 5"):
        apart[6]


def test_pipeline_visits_every_item_and_has_a_new_order_each_epoch(burgers):
    _, path = burgers
    windows = Windows(PDEBench(path))
    keys = [w["inputs"].tobytes() for w in map(windows.__getitem__, range(12))]
    batches = iter(pipeline(windows, 5, seed=1))
    epochs = []
    for _ in range(4):
        items = [item for _ in range(2) for item in next(batches)["inputs"]]
        epochs.append([keys.index(item.tobytes()) for item in items])
    assert all(len(set(epoch)) == 10 for epoch in epochs)  # Two of twelve are left out.
    assert len({tuple(epoch) for epoch in epochs}) == 4
    stored = iter(pipeline(windows, 5, shuffle=False))
    np.testing.assert_array_equal(next(stored)["inputs"][4], windows[4]["inputs"])


def pair(sample):
    return sample["inputs"][0], sample["outputs"][0]


def test_pipeline_trains_and_resumes_to_the_bit(burgers, tmp_path, key):
    _, path = burgers

    def run(steps, checkpoint):
        return fit(
            eqx.nn.Linear(X, X, key=key),
            lambda model, batch, key: jnp.mean(
                (jax.vmap(jax.vmap(model))(batch[0]) - batch[1]) ** 2
            ),
            optax.adam(1e-2),
            pipeline(Windows(PDEBench(path)), 4, transform=pair),
            steps=steps,
            key=key,
            checkpoint=checkpoint,
        )

    unbroken = run(17, False)
    plan = Checkpoints(folder=tmp_path / "checkpoints", every=100, resume=True)
    run(8, plan)
    resumed = run(17, plan)
    np.testing.assert_array_equal(resumed.model.weight, unbroken.model.weight)
    np.testing.assert_array_equal(resumed.history["loss"], unbroken.history["loss"])


WORKERS = """
import sys
from jaxsci.train import PDEBench, Windows, pipeline

if __name__ == "__main__":
    windows = Windows(PDEBench(sys.argv[1]))
    windows[0]  # The file is open in this process before the workers start.
    one = iter(pipeline(windows, 3, workers=0))
    two = iter(pipeline(windows, 3, workers=2))
    for step in range(6):
        a, b = next(one), next(two)
        assert (a["inputs"] == b["inputs"]).all(), step
        if step == 2:
            state = two.get_state()
    expected = b
    two.set_state(state)
    for _ in range(3):
        b = next(two)
    assert (b["inputs"] == expected["inputs"]).all()
    print("same")
"""


def test_worker_processes_read_the_same_and_restore(burgers, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WORKERS)
    root = Path(__file__).parent.parent.parent.parent
    result = subprocess.run(
        [sys.executable, program, burgers[1]],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "", "JAX_PLATFORMS": "cpu"},
    )
    assert result.stdout == "same\n", result.stderr[-2000:]


def test_open_files_can_be_pickled(burgers):
    _, path = burgers
    windows = Windows(PDEBench(path))
    before = windows[3]
    after = pickle.loads(pickle.dumps(windows))[3]
    np.testing.assert_array_equal(before["inputs"], after["inputs"])


def test_data_that_are_not_finite_are_named(tmp_path):
    tensor = values(N, T, X)
    tensor[1, 3, 2] = np.nan
    path = write(tmp_path / "bad.hdf5", {"tensor": tensor})
    windows = Windows(PDEBench(path))
    with pytest.raises(ValueError, match=r"bad\.hdf5: outputs of trajectory 1 from time 2 on"):
        windows[6]
    assert np.isnan(Windows(PDEBench(path), check_finite=False)[6]["outputs"]).any()
    darcy = write(
        tmp_path / "darcy.hdf5",
        {
            "nu": values(N, X, Y),
            "tensor": np.full((N, 1, X, Y), np.inf),
            "x-coordinate": np.arange(X),
            "y-coordinate": np.arange(Y),
        },
    )
    with pytest.raises(ValueError, match=r"darcy\.hdf5: outputs of sample 0"):
        PDEBenchDarcy(darcy)[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "expected a PDEBench file, with 'tensor'.*found nothing"),
        ({"u": values(2, 3)}, r"expected a PDEBench file.*found u\[2, 3\]"),
        ({"tensor": values(2, 3)}, r"expected 'tensor' to have 3 axes, found \[2, 3\]"),
        ({"tensor": values(0, T, X)}, r"no samples, found tensor\[0, 5, 4\]"),
        ({"density": values(N, T, X)}, "expected an array 'pressure', found"),
        (
            {"density": values(N, T, X), "pressure": values(N, T, 2), "Vx": values(N, T, X)},
            r"expected 'pressure' to have the shape \[3, 5, 4\]",
        ),
        ({"velocity": values(N, T, X, Y, 2)}, "expected an array 'particles'"),
        ({"0000/grid/x": np.arange(3)}, "expected an array '0000/data', found 0000/"),
        (
            {"tensor": values(N, T, X), "x-coordinate": np.arange(2)},
            "expected 'x-coordinate' to have 4 entries, found 2",
        ),
    ],
)
def test_pdebench_refuses(tmp_path, arrays, message):
    path = write(tmp_path / "file.hdf5", arrays)
    with pytest.raises(ValueError, match=r"file\.hdf5: " + message):
        PDEBench(path)


def test_darcy_refuses(tmp_path):
    path = write(tmp_path / "a.hdf5", {"tensor": values(N, 1, X, Y)})
    with pytest.raises(ValueError, match=r"a\.hdf5: expected an array 'nu', found tensor"):
        PDEBenchDarcy(path)
    path = write(tmp_path / "b.hdf5", {"tensor": values(N, 1, X, Y), "nu": values(N, Y, X)})
    with pytest.raises(ValueError, match=r"expected 'nu' to have shape \[3, 4, 6\]"):
        PDEBenchDarcy(path)
    with pytest.raises(ValueError, match="every_point=0"):
        PDEBenchDarcy(path, every_point=0)


def test_the_well_refuses(tmp_path):
    path = write(tmp_path / "burgers.hdf5", {"tensor": values(N, T, X)})
    with pytest.raises(ValueError, match=r"expected a file of The Well.*'dimensions', found tens"):
        TheWell(path)
    write_well(tmp_path / "field.hdf5", drop=["t1_fields/velocity"])
    with pytest.raises(ValueError, match="expected an array 't1_fields/velocity'"):
        TheWell(tmp_path / "field.hdf5")
    folder = tmp_path / "split"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.hdf5, \.h5 or \.zarr file in"):
        TheWell(folder)
    write_well(folder / "a.hdf5")
    write_well(folder / "b.hdf5", shape=(X, Y + 1))
    with pytest.raises(ValueError, match=r"b\.hdf5: expected the grid and fields of .*a\.hdf5"):
        TheWell(folder)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data file"):
        PDEBench(tmp_path / "none.hdf5")
    with pytest.raises(FileNotFoundError, match="no data at"):
        TheWell(tmp_path / "none")
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.hdf5 cannot be read as an HDF5 file"):
        PDEBench(tmp_path / "text.hdf5")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match=r"empty\.zarr cannot be read as a Zarr store"):
        ArrayFile(tmp_path / "empty.zarr").open()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_inputs": 0}, "n_inputs=0"),
        ({"n_outputs": 0}, "n_outputs=0"),
        ({"every": 0}, "every=0"),
        ({"n_outputs": 5}, "span 6 times, but trajectory 0 has 5"),
        ({"trajectories": []}, "trajectories is empty"),
        ({"trajectories": [3]}, "trajectory 3, expected 0 to 2"),
    ],
)
def test_windows_refuse(burgers, arguments, message):
    with pytest.raises(ValueError, match=message):
        Windows(PDEBench(burgers[1]), **arguments)


def test_pipeline_refuses(burgers):
    windows = Windows(PDEBench(burgers[1]))
    with pytest.raises(ValueError, match="batch_size=13, expected 1 to 12"):
        pipeline(windows, 13)
    with pytest.raises(ValueError, match="workers=-1"):
        pipeline(windows, 2, workers=-1)
    with pytest.raises(ValueError, match="every_point=0"):
        PDEBench(burgers[1], every_point=0)
