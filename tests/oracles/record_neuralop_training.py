"""Records what neuraloperator's FNO reaches on the experiment's Darcy data and budget.

    pip install torch neuraloperator==2.0.0 jaxsci
    python tests/oracles/record_neuralop_training.py [--steps 200 400]

Same files, normalisation, loss, optimiser, schedule, batch size and number of updates as
`experiments/operators/neural_operator.py`. The learning rate is the best of four for one seed; the
recorded numbers are medians over five others. Writes into
`experiments/operators/neural_operator_tuning.json`.
"""

import argparse
import json
from pathlib import Path

import neuralop
import numpy as np
import torch
from neuralop.models import FNO

from jaxsci.pde import neuralop_darcy

ROOT = Path(__file__).parents[2]
TUNING = ROOT / "experiments" / "operators" / "neural_operator_tuning.json"
BATCH, RATES, TUNING_SEED, SEEDS = 32, (1e-3, 3e-3, 1e-2, 2e-2), 100, range(5)


def relative_l2(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    error = (prediction - target).flatten(1).norm(dim=1)
    return (error / target.flatten(1).norm(dim=1)).mean()


def train(data, seed: int, rate: float, steps: int) -> dict[str, float]:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    inputs, outputs = (torch.tensor(a) for a in (data["train"].inputs, data["train"].outputs))
    shift, scale = inputs.mean(), inputs.std(correction=0)
    out_shift, out_scale = outputs.mean(), outputs.std(correction=0)
    model = FNO(n_modes=(16, 16), in_channels=1, out_channels=1, hidden_channels=24, n_layers=4)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def predict(u):
        return model((u - shift) / scale) * out_scale + out_shift

    order = np.concatenate(
        [rng.permutation(1000)[: 1000 // BATCH * BATCH] for _ in range(steps * BATCH // 900 + 1)]
    )
    for i in range(steps):
        chosen = order[i * BATCH : (i + 1) * BATCH]
        optimizer.zero_grad()
        relative_l2(predict(inputs[chosen]), outputs[chosen]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return {
            split: float(
                relative_l2(
                    predict(torch.tensor(data[split].inputs)), torch.tensor(data[split].outputs)
                )
            )
            for split in ("test_16", "test_32")
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 400])
    args = parser.parse_args()
    data = neuralop_darcy()
    by_steps = {}
    for steps in args.steps:
        tuned = {rate: train(data, TUNING_SEED, rate, steps)["test_16"] for rate in RATES}
        best = min(tuned, key=lambda rate: tuned[rate])
        runs = [train(data, seed, best, steps) for seed in SEEDS]
        by_steps[str(steps)] = {
            "rate": best,
            "tuning": tuned,
            **{split: float(np.median([r[split] for r in runs])) for split in runs[0]},
            "each": [r["test_16"] for r in runs],
        }
        print(steps, by_steps[str(steps)], flush=True)
    recorded = json.loads(TUNING.read_text())
    parameters = sum(
        p.numel() * (2 if p.is_complex() else 1)
        for p in FNO(
            n_modes=(16, 16), in_channels=1, out_channels=1, hidden_channels=24
        ).parameters()
    )
    recorded["neuralop"] = {
        "versions": {"neuraloperator": neuralop.__version__, "torch": torch.__version__},
        "batch": BATCH,
        "parameters": parameters,
        "by_steps": recorded.get("neuralop", {}).get("by_steps", {}) | by_steps,
    }
    TUNING.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
