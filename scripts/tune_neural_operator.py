"""Chooses the learning rates of `experiments/operators/neural_operator.py`, the same way for all.

    python scripts/tune_neural_operator.py [fno unet burgers_fno burgers_unet burgers_gno ...]

Each network is trained with four rates from a seed that the experiment does not use; the best one
is written into `experiments/operators/neural_operator_tuning.json`.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from jaxsci.experiment import Logger, find, load
from jaxsci.pde import BurgersOperator, cached, neuralop_darcy

RATES = (1e-3, 3e-3, 1e-2, 2e-2)
TUNING = Path(__file__).parents[1] / "experiments" / "operators" / "neural_operator_tuning.json"


def main() -> None:
    module = sys.modules[load(find("neural-operator")).run.__module__]
    config = module.PRESETS["quick"]
    recorded = json.loads(TUNING.read_text())
    darcy = neuralop_darcy()
    pairs = cached(BurgersOperator(resolution=config.burgers_resolution), 0, config.burgers_pairs)
    train, test = pairs.split(config.burgers_pairs * 5 // 6)
    stride = config.burgers_resolution // config.burgers_train
    burgers = (train.subsample(stride), test.subsample(stride))
    budget = {
        "fno": (module.darcy_fno, darcy["train"], darcy["test_16"]),
        "unet": (module.darcy_unet, darcy["train"], darcy["test_16"]),
        "burgers_fno": (module.burgers_fno(config.burgers_width), *burgers),
        "burgers_unet": (module.burgers_unet(config.burgers_width), *burgers),
    }
    for name, make in module.burgers_kernel_operators(config.kernel_width).items():
        budget[f"burgers_{name}"] = (make, *burgers)
    for name in sys.argv[1:] or budget:
        make, data, held_out = budget[name]
        on_darcy = not name.startswith("burgers")
        found = {}
        for rate in RATES:
            models, _ = module.train_seeds(
                make,
                data,
                seeds=1,
                steps=config.darcy_steps if on_darcy else config.burgers_steps,
                batch=config.darcy_batch if on_darcy else 20,
                rate=rate,
                key=jax.random.key(100),
                log=Logger.silent(),
                steps_per_dispatch=1 if "unet" in name else None,
            )
            found[rate] = float(np.median(module.errors(models, held_out)))
            print(name, rate, found[rate], flush=True)
        best = min(found, key=lambda rate: found[rate])
        recorded[name] = {"best": best, "error": {str(r): e for r, e in found.items()}}
        TUNING.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
