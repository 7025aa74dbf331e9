"""L1 makes weights zero: a regression in which 30 of 100 features matter, and what the zeros of a layer save.

    python examples/l1_regression.py --out runs/l1

1. The path: fits for 40 strengths lambda, each starting from the one before; held-out data choose one. Its
   picture is l1_path.png.
2. The same regression without L1, with L1 in the loss, and with the proximal step: which weights are zero?
3. A layer of 1000 x 500 weights with 80 % zeros: bytes, and the time of its product, dense and sparse.
"""
import argparse
import copy
import io
import pathlib
import sys
import time

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import minisparse as ms
from minisparse import nn, optim, sparse
from minisparse.serialize import write_atomically

from report import COLOUR, GREY, PALE, STYLE

FEATURES, RELEVANT, ROWS, NOISE = 100, 30, 400, 2.0
LR = 0.02


def make_data(rng):
    """(x, y) to train on and (x, y) held out. The first 30 features have weights of size 0.5 to 1.5."""
    true = np.zeros(FEATURES)
    true[:RELEVANT] = rng.uniform(0.5, 1.5, RELEVANT) * rng.choice([-1, 1], RELEVANT)

    def sample():
        x = rng.standard_normal((ROWS, FEATURES))
        y = x @ true + 2 + NOISE * rng.standard_normal(ROWS)
        return ms.Tensor(np.float32(x)), ms.Tensor(np.float32(y[:, None]))
    return sample(), sample()


def half_mse(model, x, y):
    """1 / (2n) ||y - model(x)||^2; with lambda ||w||_1 it is the Lasso as it is usually written."""
    return nn.functional.mse_loss(model(x), y) / 2


def fit(model, optimizer, x, y, steps, l1=0.0):
    for _ in range(steps):
        loss = half_mse(model, x, y)
        if l1:
            loss = loss + l1 * sparse.l1(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def zero_model(y):
    model = nn.Linear(FEATURES, 1)
    nn.init.zeros_(model.weight)
    nn.init.constant_(model.bias, float(y.mean()))
    return model


def refit(model, x, y, steps, momentum=0.0):
    """A copy, trained on without L1 while its zeros stay: L1 has made the other weights too small."""
    model = copy.deepcopy(model)
    model.weight.set_mask(model.weight.data != 0)
    fit(model, optim.SGD(model.parameters(), lr=LR, momentum=momentum), x, y, steps)
    return model


# --- 1. the path -------------------------------------------------------------------------------------------
def follow_path(train, held_out):
    """(lambdas, weights (lambdas, features), {name: error on held-out data, one for each lambda})."""
    model = zero_model(train[1])
    half_mse(model, *train).backward()
    lambdas = sparse.lambda_path(model.weight, count=40, ratio=0.01)
    optimizer = optim.ProximalSGD(model.parameters(), lr=LR, momentum=0.9, l1=lambdas[0])
    weights, errors = [], {"with L1": [], "then without, zeros kept": []}
    for strength in lambdas:
        optimizer.param_groups[0]["l1"] = strength
        fit(model, optimizer, *train, steps=200)
        weights.append(np.copy(model.weight.data[0]))
        refitted = refit(model, *train, steps=100, momentum=0.9)
        for measured, fitted in zip(errors.values(), (model, refitted)):
            measured.append(2 * half_mse(fitted, *held_out).item())
    return lambdas, np.array(weights), errors


def draw_path(lambdas, weights, errors, chosen):
    """The bytes of a PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.8))
        panels = figure.subplot_mosaic([["weights", "error"], ["weights", "zeros"]], width_ratios=(3, 2))
        ax = panels["weights"]
        others = ax.plot(lambdas, weights[:, RELEVANT:], color="#AAAAAA", lw=.8)
        relevant = ax.plot(lambdas, weights[:, :RELEVANT], color=COLOUR["dense"], lw=1.1)
        ax.legend([relevant[0], others[0]], [f"the {RELEVANT} features that matter",
                                             f"the other {FEATURES - RELEVANT}"], loc="upper right",
                  frameon=True, framealpha=1, edgecolor="none")
        ax.set(title="Weights", xlabel="lambda")
        ax = panels["error"]
        for (name, error), colour in zip(errors.items(), (COLOUR["dense"], COLOUR["sparse"])):
            ax.plot(lambdas, error, color=colour, label=name)
        ax.set(title="Mean squared error, held out", yscale="log")
        ax.set_yticks([5, 10, 20, 40])
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
        ax.legend()
        ax = panels["zeros"]
        ax.plot(lambdas, 100 * (weights == 0).mean(axis=1), color=COLOUR["dense"])
        ax.set(title="Weights that are exactly zero, %", ylim=(0, 105), xlabel="lambda")
        for ax in panels.values():
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
            ax.axvline(lambdas[chosen], color=GREY, lw=1, ls=":")
            ax.grid(axis="y", color=PALE)
        panels["weights"].annotate(f"chosen: {lambdas[chosen]:.2g}", (lambdas[chosen], 0), xytext=(4, 4),
                                   xycoords=("data", "axes fraction"), textcoords="offset points",
                                   color=GREY)
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
    return picture.getbuffer()


# --- 2. which weights are zero? ----------------------------------------------------------------------------
def compare_fits(train, strength, steps=2000):
    """{name: trained model}."""
    def trained(kind, l1=0.0, **options):
        model = zero_model(train[1])
        fit(model, kind(model.parameters(), lr=LR, **options), *train, steps, l1)
        return model
    models = {"without L1": trained(optim.SGD),
              "L1 in the loss": trained(optim.SGD, strength),
              "L1 by proximal steps": trained(lambda *a, **o: optim.ProximalSGD(*a, l1=strength, **o))}
    return {**models, "  then without L1": refit(models["L1 by proximal steps"], *train, steps)}


def print_fits(models, held_out):
    print(f"{'':22}{'zeros':>7}{'|w| < 0.01':>12}{'of 30 kept':>12}{'of 70 kept':>12}{'error':>8}")
    for name, model in models.items():
        w, error = model.weight.data[0], 2 * half_mse(model, *held_out).item()
        print(f"{name:22}{np.sum(w == 0):7}{np.sum(np.abs(w) < 0.01):12}{np.count_nonzero(w[:RELEVANT]):12}"
              f"{np.count_nonzero(w[RELEVANT:]):12}{error:8.2f}")


# --- 3. a layer --------------------------------------------------------------------------------------------
def median_seconds(functions, calls=201):
    """The median time of each. They take turns, so that what else the machine does meets them all."""
    times = np.empty((calls, len(functions)))
    for row in times:
        for i, function in enumerate(functions):
            began = time.perf_counter()
            function()
            row[i] = time.perf_counter() - began
    return np.median(times[1:], axis=0)     # the first call compiles


def measure_layer(rng):
    layer = nn.Linear(1000, 500, bias=False)
    sparse.Pruner(layer, 0.8, sparse.OneShot())
    csr = layer.weight.detach().to_sparse_csr()
    nbytes = sum(part.data.nbytes for part in (csr.values(), csr.col_indices(), csr.crow_indices()))
    print(f"weights   {layer.weight.numel():,} -> {csr._nnz():,}")
    print(f"bytes     {layer.weight.data.nbytes:,} -> {nbytes:,} as CSR (float32 values, int64 indices)")
    for batch in (1, 64):
        columns = ms.Tensor(rng.standard_normal((1000, batch)).astype(np.float32))
        rows = columns.t()
        with ms.no_grad():
            dense, product = median_seconds([lambda: layer(rows), lambda: csr @ columns])
        print(f"batch {batch:<4}{1e6 * dense:.0f} us dense, {1e6 * product:.0f} us sparse: "
              f"{product / dense:.2f} of the dense time")


def run(out, seed):
    rng = np.random.default_rng(seed)
    ms.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    train, held_out = make_data(rng)

    print(f"{FEATURES} features, of which {RELEVANT} matter; {ROWS} rows")
    lambdas, weights, errors = follow_path(train, held_out)
    # by the error after the refit: with L1 still on, a small lambda wins, which shrinks the weights that
    # matter less and keeps many that do not
    chosen = int(np.argmin(errors["then without, zeros kept"]))
    write_atomically(out / "l1_path.png", draw_path(lambdas, weights, errors, chosen))
    print(f"path: lambda from {lambdas[0]:.3g} down to {lambdas[-1]:.3g}, {out / 'l1_path.png'}")
    print(f"chosen on the held-out rows: lambda = {lambdas[chosen]:.3g}\n")
    print_fits(compare_fits(train, lambdas[chosen]), held_out)

    print(f"\nA layer of 1000 x 500, 80 % zeros; threads: {ms.get_num_threads()}")
    measure_layer(rng)


def main(argv=None):
    parser = argparse.ArgumentParser(description="L1: which weights become zero, and what zeros save.")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/l1"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")
    try:
        run(args.out, args.seed)
    except OSError as error:
        print(f"l1_regression: {error.filename or args.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
