"""Checkpoints: what comes back is what was, to the bit; what is damaged or foreign is not used."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.experiment import Logger
from jaxsci.train import (
    ArraySource,
    CheckpointError,
    CheckpointMismatch,
    Checkpoints,
    OnlineSource,
    fit,
    load_model,
    pipeline,
)
from jaxsci.train.checkpoint import Checkpointer, Snapshot


class Model(eqx.Module):
    """Leaves of all kinds: trained, constant, a key, a function, a static, an empty array."""

    weight: jax.Array
    half: jax.Array
    spectrum: jax.Array
    table: jax.Array
    empty: jax.Array
    key: jax.Array
    activation: object
    name: str = eqx.field(static=True, default="net")

    def __init__(self, size=4, activation=jnp.tanh):
        self.weight = jnp.linspace(-1, 1, size)
        self.half = jnp.full(2, 1 / 3, jnp.bfloat16)
        self.spectrum = jnp.array([1 + 2j, 0.5j], jnp.complex64)
        self.table = jnp.arange(3, dtype=jnp.uint8)
        self.empty = jnp.zeros((0, 2))
        self.key = jax.random.key(7, impl="rbg")
        self.activation = activation


def loss(model, batch, key):
    noise = 0.01 * jax.random.normal(key)
    out = model.activation(batch @ model.weight) * jnp.abs(model.spectrum).sum()
    return jnp.mean((out - 0.3 + noise) ** 2) + jnp.sum(model.half.astype(jnp.float32) ** 2)


class Stop(Exception):
    pass


class StopAt(Logger):
    """A logger that breaks the run off when it hears of a step."""

    def __init__(self, step):
        super().__init__(None, quiet=True)
        self.stop = step
        self.said = []

    def say(self, text):
        self.said.append(text)

    def metrics(self, step, values=None, **more):
        if self.stop is not None and step >= self.stop:
            raise Stop


def evaluate(model):
    return {"error": jnp.sum(jnp.abs(model.weight))}


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)


def run(data, checkpoint, *, log=None, steps=23, model=None, optimizer=None, seed=0, **kwargs):
    kwargs = {"evaluate": evaluate, "evaluate_every": 5, "ema_decay": 0.9, **kwargs}
    return fit(
        Model() if model is None else model,
        loss,
        optax.adam(1e-2) if optimizer is None else optimizer,
        data,
        steps=steps,
        key=jax.random.key(seed),
        log=StopAt(None) if log is None else log,
        checkpoint=checkpoint,
        **kwargs,
    )


def raw(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def assert_same(a, b):
    """Bit for bit: the whole state, the history, the evaluations."""
    for x, y in zip(
        jax.tree.leaves(eqx.filter(a.state, eqx.is_array)),
        jax.tree.leaves(eqx.filter(b.state, eqx.is_array)),
        strict=True,
    ):
        assert x.dtype == y.dtype
        assert raw(x).tobytes() == raw(y).tobytes()
    for mine, other in ((a.history, b.history), (a.evaluations, b.evaluations)):
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name])


def online(key):
    return jax.random.normal(key, (4,))


SOURCES = {
    "arrays": lambda samples: ArraySource(samples, 3),
    "online": lambda samples: OnlineSource(online, 3),
    "grain": lambda samples: pipeline(samples, 3, seed=3),
}


@pytest.fixture(scope="module")
def unbroken(samples):
    return {name: run(make(samples), False) for name, make in SOURCES.items()}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("stop", [3, 14])
def test_interrupted_and_resumed_is_the_unbroken_run(kind, stop, samples, unbroken, tmp_path):
    """Broken off by an error in the middle (3: before the first checkpoint), then resumed."""
    with pytest.raises(Stop):
        run(
            SOURCES[kind](samples),
            Checkpoints(folder=tmp_path, every=4),
            log=StopAt(stop),
            steps_per_dispatch=2,
        )
    log = StopAt(None)
    resumed = run(SOURCES[kind](samples), Checkpoints(folder=tmp_path, resume=True), log=log)
    message = "no checkpoint yet" if stop == 3 else "resumed from the checkpoint of step 12"
    assert message in " ".join(log.said)
    assert_same(resumed, unbroken[kind])


def test_resumed_functions_are_those_of_the_new_model(samples, tmp_path):
    run(ArraySource(samples, 3), Checkpoints(folder=tmp_path))
    other = Model(activation=jnp.sin)
    result = run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, resume=True), model=other)
    assert result.state.model.activation is jnp.sin


def test_a_finished_run_resumes_to_its_result_and_may_be_prolonged(samples, unbroken, tmp_path):
    plan = Checkpoints(folder=tmp_path, resume=True)
    short = run(ArraySource(samples, 3), plan, steps=10)
    assert_same(run(ArraySource(samples, 3), plan, steps=10), short)
    prolonged = run(ArraySource(samples, 3), plan)
    assert_same(prolonged, unbroken["arrays"])
    with pytest.raises(ValueError, match="steps=20, but 23 are already made"):
        run(ArraySource(samples, 3), plan, steps=20)


def test_an_error_in_evaluate_saves_the_state(samples, unbroken, tmp_path):
    calls = []

    def failing(model):
        calls.append(1)
        if len(calls) == 3:
            raise Stop
        return evaluate(model)

    log = StopAt(None)
    plan = Checkpoints(folder=tmp_path, every=20)
    with pytest.raises(Stop):
        run(ArraySource(samples, 3), plan, evaluate=failing, log=log)
    assert "resume from the checkpoint of step 15" in log.said[-1]
    resumed = run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, resume=True))
    assert_same(resumed, unbroken["arrays"])  # The evaluation that failed is made up for.


def test_keeps_the_last_and_the_best(samples, tmp_path):
    errors = iter([3.0, 1.0, 2.0, 5.0, 4.0])
    run(
        ArraySource(samples, 3),
        Checkpoints(folder=tmp_path, best="error", keep_last=1),
        steps=25,
        evaluate=lambda model: {"error": next(errors)},
    )
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["10", "25"]


def test_keeps_the_highest_when_that_is_best(samples, tmp_path):
    errors = iter([3.0, 1.0, 2.0])
    plan = Checkpoints(folder=tmp_path, best="error", keep_last=1, mode="max")
    run(ArraySource(samples, 3), plan, steps=15, evaluate=lambda m: {"error": next(errors)})
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["15", "5"]


def test_best_is_remembered_by_a_resumed_run(samples, tmp_path):
    def values(*errors):
        errors = iter(errors)
        return lambda model: {"error": next(errors)}

    plan = Checkpoints(folder=tmp_path, best="error", keep_last=1, resume=True)
    run(ArraySource(samples, 3), plan, steps=10, evaluate=values(1.0, 2.0))
    run(ArraySource(samples, 3), plan, steps=20, evaluate=values(3.0, 4.0))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["20", "5"]


def largest_file(folder):
    files = [p for p in folder.rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def truncate(folder):
    file = largest_file(folder / "arrays")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(folder):
    file = largest_file(folder / "arrays")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def cut_metadata(folder):
    (folder / "meta" / "metadata").write_text('{"format": 1, "st')


def remove_arrays(folder):
    import shutil

    shutil.rmtree(folder / "arrays")


@pytest.mark.parametrize("damage", [truncate, flip, cut_metadata, remove_arrays])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    damage, samples, unbroken, tmp_path
):
    run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, every=10))
    damage(tmp_path / "23")
    log = StopAt(None)
    resumed = run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, resume=True), log=log)
    assert "the checkpoint of step 23 is damaged" in log.said[0]
    assert "resumed from the checkpoint of step 20" in log.said[1]
    assert_same(resumed, unbroken["arrays"])
    assert (tmp_path / "23.damaged").is_dir() and (tmp_path / "23").is_dir()


def test_a_flipped_bit_in_a_large_array_is_found(tmp_path):
    """Orbax returns the wrong number here without a word: its files check small arrays only."""
    state = {"w": jax.random.normal(jax.random.key(0), (100_000,))}
    said = []
    with Checkpointer(Checkpoints(folder=tmp_path), said.append) as checkpointer:
        checkpointer.save(1, Snapshot(state))
        checkpointer.save(2, Snapshot({"w": state["w"] + 1}))
        checkpointer.wait()
        flip(tmp_path / "2")
        step, snapshot = checkpointer.restore(Snapshot(state))
    assert step == 1 and "does not have the checksum it was written with" in said[0]
    np.testing.assert_array_equal(snapshot.state["w"], state["w"])


def test_only_damaged_checkpoints_are_an_error(samples, tmp_path):
    run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, keep_last=1))
    truncate(tmp_path / "23")
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged \(steps \[23\]"):
        run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, resume=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": Model(5)}, r"model\.weight is float32\[4\] there and float32\[5\] here"),
        ({"optimizer": optax.sgd(0.1, momentum=0.9)}, r"opt_state.*absent here|absent there"),
        ({"ema_decay": None}, r"ema\.weight is float32\[4\] there and absent here"),
        ({"data": lambda x: ArraySource(x, 4)}, "batch_size is 3 there and 4 here"),
        ({"data": lambda x: ArraySource(x[:9], 3)}, "samples is 11 there and 9 here"),
        ({"data": lambda x: OnlineSource(online, 3)}, "source is 'ArraySource' there"),
        ({"identity": {"experiment": "b", "width": 8}}, "experiment is 'a' there and 'b' here"),
        ({"identity": {"experiment": "a"}}, "width is 8 there and None here"),
    ],
)
def test_a_foreign_checkpoint_is_refused_with_the_difference(change, message, samples, tmp_path):
    identity = {"experiment": "a", "width": 8}
    run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, identity=identity), steps=2)
    change = dict(change)
    data = change.pop("data", lambda x: ArraySource(x, 3))(samples)
    identity = change.pop("identity", identity)
    plan = Checkpoints(folder=tmp_path, identity=identity, resume=True)
    with pytest.raises(CheckpointMismatch, match=message):
        run(data, plan, **change)
    assert (tmp_path / "2").is_dir()  # Refused, not set aside.


def test_another_format_is_refused(samples, tmp_path, monkeypatch):
    run(ArraySource(samples, 3), Checkpoints(folder=tmp_path), steps=2)
    monkeypatch.setattr("jaxsci.train.checkpoint.FORMAT", 2)
    with pytest.raises(CheckpointMismatch, match="format version 1, this program reads 2"):
        run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, resume=True))


def test_two_runs_on_one_folder_are_refused(samples, tmp_path):
    plan = Checkpoints(folder=tmp_path)

    def second(model):
        with pytest.raises(CheckpointError, match="another run is using"):
            run(ArraySource(samples, 3), plan)
        return {}

    run(ArraySource(samples, 3), plan, steps=2, evaluate=second)


def test_a_fresh_run_sets_the_earlier_one_aside(samples, tmp_path):
    plan = Checkpoints(folder=tmp_path / "ckpt", every=5)
    run(ArraySource(samples, 3), plan, steps=2)
    log = StopAt(None)
    run(ArraySource(samples, 3), plan, steps=3, log=log)
    assert (tmp_path / "ckpt.previous" / "2").is_dir()
    assert "starting afresh" in log.said[0]
    assert not (tmp_path / "ckpt" / "2").exists() and (tmp_path / "ckpt" / "3").is_dir()


def test_a_folder_that_cannot_be_written_is_one_clear_line(samples, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match=r"cannot be written to .*file/ckpt: Not a directory"):
        run(ArraySource(samples, 3), Checkpoints(folder=tmp_path / "file" / "ckpt"))


def test_a_full_disk_is_one_clear_line_and_spoils_nothing(samples, tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    save = ocp.CheckpointManager.save

    def full_after_ten(self, step, **kwargs):
        if step > 10:
            raise ValueError('RESOURCE_EXHAUSTED: Error writing "x": No space left on device [28]')
        return save(self, step, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", full_after_ten)
    with pytest.raises(CheckpointError, match=r"device; earlier ones are intact$"):
        run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, every=5))
    monkeypatch.undo()
    log = StopAt(None)
    run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, resume=True), log=log)
    assert "resumed from the checkpoint of step 10" in log.said[0]


def test_a_keyboard_interrupt_saves_the_state_and_says_how_to_go_on(samples, unbroken, tmp_path):
    def interrupted(model):
        raise KeyboardInterrupt

    log = StopAt(None)
    with pytest.raises(KeyboardInterrupt):
        run(ArraySource(samples, 3), Checkpoints(folder=tmp_path), evaluate=interrupted, log=log)
    assert "interrupted; resume from the checkpoint of step 5" in log.said[-1]
    resumed = run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, resume=True))
    assert_same(resumed, unbroken["arrays"])


def test_iterators_without_a_state_are_refused(samples, tmp_path):
    with pytest.raises(TypeError, match=r"no get_state and set_state.*grain"):
        run(iter([samples] * 5), Checkpoints(folder=tmp_path))


def test_load_model(samples, tmp_path):
    result = run(ArraySource(samples, 3), Checkpoints(folder=tmp_path))
    loaded = load_model(Model(activation=jnp.sin), tmp_path)
    np.testing.assert_array_equal(loaded.weight, result.state.ema.weight)
    assert loaded.activation is jnp.sin and loaded.key == result.model.key
    with pytest.raises(CheckpointMismatch, match=r"weight is float32\[4\] there"):
        load_model(Model(5), tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint of step 7"):
        load_model(Model(), tmp_path, step=7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "every=0"),
        ({"keep_last": 0}, ValueError, "keep_last=0"),
        ({"mode": "least"}, ValueError, "mode='least'"),
        ({"identity": {"model": Model}}, TypeError, "plain values"),
    ],
)
def test_checkpoints_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        Checkpoints(folder="x", **arguments)


def test_best_must_be_among_the_evaluations(samples, tmp_path):
    with pytest.raises(ValueError, match="'accuracy' is to be kept, but evaluate returned"):
        run(ArraySource(samples, 3), Checkpoints(folder=tmp_path, best="accuracy"))
