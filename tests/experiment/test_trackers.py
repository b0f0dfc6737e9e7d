"""Trackers get the same numbers as the log, and say what to install when they are missing."""

import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from jaxsci.experiment import Logger, TensorBoard, WeightsAndBiases, run_experiment


def scalars(folder):
    """The scalars in an event file, read with the protocol's own framing."""
    (path,) = folder.glob("tensorboard/events.*")
    data, values = path.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                values[value.tag, event.step] = value.simple_value
        data = data[16 + length :]
    return values


def test_tensorboard_has_the_scalars(tmp_path):
    assert RecordWriter  # The framing above is this class's.
    with Logger(tmp_path, sinks=[TensorBoard(tmp_path)], quiet=True) as log:
        log.metrics(3, loss=0.5)
        log.scope("fno").metrics(4, loss=0.25)
        log.say("a line")
    assert scalars(tmp_path) == {("loss", 3): 0.5, ("fno/loss", 4): 0.25}


def test_runner_makes_trackers_in_the_runs_folder(sample, tmp_path):
    run_experiment(sample, preset="smoke", quiet=True, trackers=[TensorBoard])
    assert len(scalars(tmp_path / "runs/mean")) == 2


class FakeWandb(types.ModuleType):
    """Records what is asked of Weights & Biases, which needs an account."""

    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, **options):
        self.calls.append(("init", options))
        return self

    def define_metric(self, name, step_metric):
        self.calls.append(("define_metric", name, step_metric))

    def log(self, values):
        self.calls.append(("log", values))

    def finish(self):
        self.calls.append(("finish",))


def test_wandb_gets_scoped_metrics_and_keeps_its_id(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        with Logger(tmp_path, sinks=[WeightsAndBiases(tmp_path, project="p")], quiet=True) as log:
            log.scope("fno").metrics(4, loss=0.25)
            log.say("text is not sent")
    inits = [options for name, *rest in fake.calls if name == "init" for options in rest]
    assert inits[0] == inits[1] and inits[0]["project"] == "p" and inits[0]["resume"] == "allow"
    assert fake.calls[1:4] == [
        ("define_metric", "fno/*", "fno/step"),
        ("log", {"fno/step": 4, "fno/loss": 0.25}),
        ("finish",),
    ]


@pytest.mark.parametrize(
    ("tracker", "package"), [(TensorBoard, "tensorboardX"), (WeightsAndBiases, "wandb")]
)
def test_a_missing_package_is_named(tracker, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package} is not installed: pip install 'jax"):
        tracker(tmp_path)
