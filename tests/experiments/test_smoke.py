"""Every experiment runs end to end through the command, and claims measured numbers."""

import json
import math
from pathlib import Path

import jax
import pytest

from jaxsci.cli import main

SLUGS = {
    "autodiff": [
        "stde",
    ],
    "dynamics": [
        "continuous-time-td",
        "equation-discovery",
        "hippo-prophecy",
        "hypersolvers",
        "irregular-series",
        "langevin-sqrt-d",
        "local-neural-de-reg",
        "log-ode",
        "neural-differential-equations",
        "resnet-neural-ode",
        "rl-time-stepping",
        "sde-gan",
        "singly-rk-tase",
    ],
    "fields": [
        "acoustic-volume-rendering",
        "complex-wavelet-inr",
        "field-comparison",
        "insr",
        "neurbf",
    ],
    "manifolds": [
        "riemannian-adam",
    ],
    "nn": [
        "u-mup",
    ],
    "optim": [
        "accelerated-sgd-interpolation",
        "adabound",
        "adafactor",
        "adamp",
        "adaptive-sde-scaling",
        "amp-regularizer",
        "damped-newton",
        "diffgrad",
        "ema-scaling",
        "gradient-regularization",
        "gravity",
        "innaprop",
        "lazy-hessian",
        "m-fac",
        "multiadam",
        "oasis",
        "polynomial-preconditioning",
        "powersgd",
        "psgd-lie",
        "quadratic-sync",
        "rmsprop-adam-convergence",
        "sam-sde",
        "sania",
        "scaled-trust-region",
        "sgdr",
        "shootout",
        "smb",
        "thermodynamic-ngd",
    ],
    "operators": [
        "cape",
        "coral",
        "covariance-augmentation",
        "dpot",
        "mp-pde",
        "multiscale-neural-operator",
        "neural-operator",
        "neural-operator-review",
        "neural-spectral",
        "neural-stagger",
        "nuno",
        "pde-refiner",
        "pdeformer",
        "sound-deeponet",
        "spon",
        "temporal-stencil",
        "transform-once",
    ],
    "pinn": [
        "aas",
        "nonlinear-pde-barron",
        "operator-preconditioning",
        "pinnacle",
        "r3-sampling",
    ],
}
FOLDER = Path(__file__).parents[2] / "experiments"
# These have tests of their own, which run them.
ELSEWHERE = ["neural-operator"]


@pytest.fixture(autouse=True)
def programs_of_one_experiment():
    yield
    jax.clear_caches()


def test_every_experiment_is_listed():
    found = {}
    for path in FOLDER.glob("*/*.py"):
        found.setdefault(path.parent.name, []).append(path.stem.replace("_", "-"))
    assert {room: sorted(slugs) for room, slugs in found.items()} == SLUGS


@pytest.mark.parametrize(
    "slug", [slug for slugs in SLUGS.values() for slug in slugs if slug not in ELSEWHERE]
)
def test_smoke(slug, tmp_path, capsys):
    with jax.enable_x64(False):  # the runner turns 64 bits on where the experiment asks for them
        status = main(["run", slug, "--preset", "smoke", "--quiet", "--out", str(tmp_path)])
    assert status in (0, 1), capsys.readouterr().err  # at this size claims need not hold
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["claims"]
    for claim in result["claims"]:
        assert isinstance(claim["measured"], float) and math.isfinite(claim["target"])
    assert list(tmp_path.glob("*.png"))
