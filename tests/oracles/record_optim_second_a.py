"""Records 40 steps of the authors' SANIA (AdaGrad-SQR, Adam-SQR) and SMB (SMB, SMBi).

    python tests/oracles/record_optim_second_a.py SANIA_FOLDER SMB_FOLDER

needs torch 2.13 and checkouts of github.com/fxrshed/SANIA (commit ce6662f) and
github.com/sibirbil/SMB (commit 17fb8ba); writes data/optim_second_a.npz. float64; the losses are
written out below and in the tests. A step of SMB calls its closure more than once, and the
"mini-batch" changes from step to step, not from call to call.
"""

import logging
import sys
import types
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import torch

A = np.random.default_rng(0).normal(size=(20, 5)) * np.geomspace(0.1, 10, 5)
X0 = np.linspace(-0.5, 0.5, 5)
STEPS = 40


def logistic(w):
    """Separable: the signs are those of a linear function, so that the infimum is 0."""
    signs = torch.sign(torch.tensor(A @ np.arange(1.0, 6.0)))
    return torch.mean(torch.nn.functional.softplus(-signs * (torch.tensor(A) @ w)))


def two_groups(w, b, t):
    """A loss of two tensors that depends on the step: (3,) and (2, 2)."""
    shift = 0.1 * np.sin(t)
    return (
        torch.sum(torch.tensor([1.0, 4.0, 30.0]) * (w - 1 - shift) ** 2) / 2
        + torch.sum(torch.cos(w))
        + torch.log1p(torch.sum((b @ b - torch.eye(2) * (2 + shift)) ** 2))
        + 0.2 * torch.sum(w) * torch.sum(b)
    )


def load(path, name):
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sania(make):
    w = torch.tensor(X0, requires_grad=True)
    optimizer = make([w])
    points = []
    for _ in range(STEPS):

        def closure():
            optimizer.zero_grad()
            loss = logistic(w)
            loss.backward()
            return loss

        optimizer.step(closure)
        points.append(w.detach().numpy().copy())
    return np.array(points)


def smb(make):
    w = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
    b = torch.tensor([[1.0, 0.2], [-0.3, 0.5]], requires_grad=True)
    optimizer = make([w, b])
    points = []
    for t in range(STEPS):

        def closure(t=t):
            optimizer.zero_grad()
            return two_groups(w, b, t)

        optimizer.step(closure=closure)
        points.append(np.concatenate([w.detach().numpy(), b.detach().numpy().ravel()]))
    return np.array(points)


def main():
    torch.set_default_dtype(torch.float64)
    sania_folder, smb_folder = map(Path, sys.argv[1:])
    adagrad = load(sania_folder / "SANIA" / "sania_adagrad_sqr.py", "a").SANIA_AdagradSQR
    adam = load(sania_folder / "SANIA" / "sania_adam_sqr.py", "b").SANIA_AdamSQR
    # Its only import is the experiments' logger.
    stub = types.ModuleType("smbexperiments.experimentlogger")
    stub.get_logger = logging.getLogger
    sys.modules["smbexperiments"] = types.ModuleType("smbexperiments")
    sys.modules["smbexperiments.experimentlogger"] = stub
    SMB = load(smb_folder / "source" / "smbsolve" / "smb.py", "c").SMB
    schedule = dict(autoschedule=True, n_batches_per_epoch=5, gamma=0.3)
    data = {
        "adagrad_sqr": sania(lambda p: adagrad(p, eps=1e-3)),
        "adagrad": sania(lambda p: adagrad(p, is_sqrt=True)),
        "adam_sqr": sania(adam),
        "adam": sania(lambda p: adam(p, is_sqrt=True, betas=(0.9, 0.97), eps=1e-4)),
        "smb": smb(lambda p: SMB(p, lr=0.07)),
        "smb_scheduled": smb(lambda p: SMB(p, lr=0.07, **schedule)),
        "smbi": smb(lambda p: SMB(p, lr=0.2, independent_batch=True)),
        "smbi_scheduled": smb(lambda p: SMB(p, lr=0.2, independent_batch=True, **schedule)),
        "versions": np.array([f"torch {torch.__version__}", "SANIA ce6662f", "SMB 17fb8ba"]),
    }
    np.savez_compressed(Path(__file__).parent / "data" / "optim_second_a.npz", **data)


if __name__ == "__main__":
    main()
