"""Small LeNets on MNIST by hard-concrete gates and by magnitude, beside the published rows.

    python examples/mnist_l0.py --data FOLDER                           LeNet-300-100 with gates, 3 seeds
    python examples/mnist_l0.py --data FOLDER --net lenet-5 --method magnitude
    python examples/mnist_l0.py --data FOLDER --download --epochs 20    fetch MNIST first; a shorter run
    python examples/mnist_l0.py --data FOLDER --resume                  go on where it was stopped

A row is the net after its last epoch, never the best one on the way: that would be chosen by the test set.
"""
import argparse
import dataclasses
import pathlib
import sys
import time
from dataclasses import dataclass

import numpy as np

import minisparse as ms
from minisparse import data, deploy, nn, optim, sparse

from train_animals import at_least, not_negative, share

METHODS = {
    "dense": "all weights",
    "l0": "a gate for each unit",
    "l0-weight": "a gate for each weight",
    "magnitude": "the smallest weights of all layers together are pruned, on the way",
}

# method, what is kept, test error in percent, of the papers
PUBLISHED = {
    "lenet-300-100": [
        ("L0, Louizos et al. 2018, one lambda", "219-214-100", "1.4"),
        ("L0, Louizos et al. 2018, a lambda for each layer", "266-88-33", "1.8"),
        ("RigL+, neurons removed", "375-62-51, 11.4 % of weights, 16,113 bytes", "1.69"),
        ("Han et al. 2015, Deep Compression", "8 % of weights (12x), 27 KB", "1.59"),
        ("SNIP", "5 %; 2 % of weights", "1.6; 2.4"),
        ("dynamic network surgery", "1.8 % of weights (56x)", "1.99"),
        ("sparse variational dropout", "1.5 % of weights (68x)", "1.92")],
    "lenet-5": [
        ("L0, Louizos et al. 2018, one lambda", "20-25-45-462", "0.9"),
        ("L0, Louizos et al. 2018, a lambda for each layer", "9-18-65-25", "1.0"),
        ("structured Bayesian pruning", "3-18-284-283", "0.9"),
        ("Bayesian compression, GNJ", "8-13-88-13", "1.0"),
        ("Han et al. 2015, Deep Compression", "8 % of weights (12x), 44 KB", "0.77; 0.74"),
        ("dynamic network surgery", "0.9 % of weights (111x)", "0.91"),
        ("sparse variational dropout", "0.36 % of weights (280x)", "0.75"),
        ("ADMM-NN-S", "0.29 % of weights (348x)", "0.8")],
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, besides the net, the data and the seed.

    The defaults are Louizos et al.'s, but for `decay` and `gates`, which are 0 and 1 there.
    """

    epochs: int = 200
    batch: int = 100
    lr: float = 1e-3
    decay: float = 0.25             # the learning rate falls to zero over this last share of the epochs
    weight_decay: float = 5e-4      # 1/2 weight_decay |w|^2, expected under the gates where there are any
    strength: tuple = (0.1,)        # lambda of each layer with gates (or of all): lambda / N a weight
    sparsity: float = 0.98          # share of zeros at the end, of "magnitude"
    prune: tuple = (0.1, 0.6)       # when it begins and when it is reached, as shares of all steps
    gates: float = 0.6              # share of the epochs with gates; then the open units train on without,
    after: tuple = (5e-4, 0.0)      # with this weight decay, and so many of the input's numbers dropped


# our settings where they are not the defaults; --strength 0.1 is the paper's first one
RECIPES = {
    ("lenet-300-100", "l0"): Recipe(epochs=120, decay=0.4, gates=0.5, strength=(0.2, 0.7, 20.0), after=(2e-4, 0.1)),
    ("lenet-5", "l0"): Recipe(epochs=60, decay=0.4, gates=0.45, strength=(45.0, 1.7, 0.5, 50.0), after=(2e-4, 0.1)),
    ("lenet-300-100", "magnitude"): Recipe(epochs=100, sparsity=0.9822),
    ("lenet-5", "magnitude"): Recipe(epochs=80, decay=0.15, weight_decay=1e-4, sparsity=0.9965),
}


def build(net, method):
    """The net for images (N, 1, 28, 28), initialised after He et al. 2015."""
    gates = {"l0": "unit", "l0-weight": "weight"}.get(method)

    def linear(inputs, outputs, droprate=0.5):
        if gates:
            return sparse.L0Linear(inputs, outputs, gates=gates, droprate=droprate)
        return nn.Linear(inputs, outputs)

    def conv(inputs, outputs):
        return sparse.L0Conv2d(inputs, outputs, 5, gates=gates) if gates else nn.Conv2d(inputs, outputs, 5)
    if net == "lenet-300-100":
        model = nn.Sequential(nn.Flatten(), linear(784, 300, 0.2), nn.ReLU(), linear(300, 100), nn.ReLU(),
                              linear(100, 10))
    else:
        model = nn.Sequential(conv(1, 20), nn.ReLU(), nn.MaxPool2d(2),
                              conv(20, 50), nn.ReLU(), nn.MaxPool2d(2),
                              nn.Flatten(), linear(800, 500), nn.ReLU(), linear(500, 10))
    for layer in sparse.sparsifiable(model).values():
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return model


def error(model, images, labels, batch=1000):
    """Test error in percent, in evaluation mode."""
    model.eval()
    with ms.no_grad():
        scores = [model(ms.Tensor(images[i:i + batch])).data for i in range(0, len(images), batch)]
    return 100 * float(np.mean(np.concatenate(scores).argmax(axis=1) != labels))


def kept(model):
    """What is left of a shrunk net, as the papers write it: filters, and inputs that a linear layer reads."""
    weights = [layer.weight.data for layer in sparse.sparsifiable(model).values()]
    return "-".join(str(len(w) if w.ndim == 4 else np.count_nonzero(w.any(axis=0))) for w in weights)


class Run:
    """One net in training."""

    def __init__(self, net, method, recipe, seed, train, test, folder):
        ms.manual_seed(seed)
        self.recipe, self.seed, self.train, self.test = recipe, seed, train, test
        self.path = folder / f"{net}-{method}-{seed}.checkpoint"
        self.model = build(net, method)
        self.total = sparse.summary(self.model)[-1].weights
        self.gated = [layer for layer in self.model.modules() if hasattr(layer, "gate")]
        self.strengths = recipe.strength * len(self.gated) if len(recipe.strength) == 1 else recipe.strength
        if self.gated and len(self.strengths) != len(self.gated):
            raise ValueError(f"{len(recipe.strength)} values of --strength for {len(self.gated)} layers")
        # with gates, weight decay is part of the loss
        self.make_optimizer(0 if self.gated else recipe.weight_decay)
        steps = recipe.epochs * (len(train[0]) // recipe.batch)
        start, end = (round(share * steps) for share in recipe.prune)
        self.pruner = method == "magnitude" and sparse.Pruner(
            self.model, recipe.sparsity, sparse.Cubic(start, max(end, start + 1)), scope="global")
        self.epoch, self.seconds, self.with_gates, self.dropout = 0, 0.0, None, 0.0

    def make_optimizer(self, weight_decay):
        self.optimizer = optim.Adam(self.model.parameters(), self.recipe.lr, weight_decay=weight_decay)

    def remove_gates(self):
        """From here on train what is open, as an ordinary net: without the noise of gates it gets better."""
        weight_decay, self.dropout = self.recipe.after
        self.with_gates, self.gated = self.model.state_dict(), []
        self.model = sparse.shrink(self.model)
        self.make_optimizer(weight_decay)

    def loss(self, x, y):
        x = nn.functional.dropout(x, self.dropout)
        loss = nn.functional.cross_entropy(self.model(x), y)
        if self.gated:
            count = len(self.train[0])
            for layer, strength in zip(self.gated, self.strengths):
                loss = loss + strength / count * sparse.expected_l0(layer)
            loss = loss + self.recipe.weight_decay * sparse.expected_l2(self.model)
        return loss

    def one_epoch(self):
        """Train one epoch; its random numbers are a function of the seed and its number alone."""
        if self.gated and self.epoch == round(self.recipe.gates * self.recipe.epochs):
            self.remove_gates()
        images, labels = self.train
        order = ms.manual_seed([self.seed, self.epoch + 1]).permutation(len(images))
        left = 1 - self.epoch / self.recipe.epochs
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * min(1, left / max(self.recipe.decay, 1e-9))
        self.model.train()
        for i in range(0, len(order) - self.recipe.batch + 1, self.recipe.batch):
            index = order[i:i + self.recipe.batch]
            loss = self.loss(ms.Tensor(images[index]), ms.Tensor(labels[index]))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.pruner:
                self.pruner.step()
        if not np.isfinite(loss.item()):
            raise FloatingPointError(f"{self.path.stem}: the loss is {loss.item()}")
        self.flush()

    @ms.no_grad()
    def flush(self):
        """Zero what has died out.

        A unit that no other reads decays until its numbers, and their squares in Adam, are subnormal, and a
        CPU is many times slower with those. 1e-17 is far below what counts: Adam's eps squared is 1e-16.
        """
        for weight in self.model.parameters():
            weight.change()
            moments = self.optimizer.state.get(weight, {})
            for array in (weight.data, *(moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments)):
                array[np.abs(array) < 1e-17] = 0

    def finish(self):
        """Train what is left to train, with a checkpoint after each epoch. Returns the row of the table."""
        while self.epoch < self.recipe.epochs:
            began = time.perf_counter()
            self.one_epoch()
            self.seconds += time.perf_counter() - began
            self.epoch += 1
            self.save()
            small = sparse.shrink(self.model)
            print(f"{self.path.stem} epoch {self.epoch}/{self.recipe.epochs}  "
                  f"error {error(small, *self.test):.2f} %  kept {kept(small)}, {nonzeros(small)} weights  "
                  f"{self.seconds:.0f} s", flush=True)
        small = sparse.shrink(self.model)
        file = self.path.with_suffix(".safetensors")
        deploy.compile(small, (1, 28, 28)).save(file, "int8")
        return {"seed": self.seed, "kept": kept(small), "nonzeros": nonzeros(small), "total": self.total,
                "bytes": file.stat().st_size, "error": error(small, *self.test), "seconds": self.seconds}

    def save(self):
        ms.save({"recipe": dataclasses.asdict(self.recipe), "epoch": self.epoch, "seconds": self.seconds,
                 "with_gates": self.with_gates, "model": self.model.state_dict(),
                 "optimizer": self.optimizer.state_dict(),
                 "pruner": self.pruner and self.pruner.state_dict()}, self.path)

    def resume(self):
        """Go on from the checkpoint, where there is one. ValueError where it is of other settings."""
        if not self.path.exists():
            return
        state = ms.load(self.path)
        if state["recipe"] != dataclasses.asdict(self.recipe):
            raise ValueError(f"{self.path} was made with other settings: {state['recipe']}")
        if state["with_gates"]:
            self.model.load_state_dict(state["with_gates"])
            self.remove_gates()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.pruner:
            self.pruner.load_state_dict(state["pruner"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]


def nonzeros(model):
    every = sparse.summary(model)[-1]
    return every.weights - every.zeros


def table(net, method, recipe, rows):
    """Our rows and the published ones, as Markdown."""
    lines = [f"{net}, {METHODS[method]}, {recipe.epochs} epochs, last epoch:", "",
             "| method | kept | test error % | weights not zero | int8 file, bytes | time, s |",
             "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        lines.append(f"| {method}, seed {row['seed']} | {row['kept']} | {row['error']:.2f} "
                     f"| {row['nonzeros']} ({row['total'] / row['nonzeros']:.0f}x) | {row['bytes']} "
                     f"| {row['seconds']:.0f} |")
    if len(rows) > 1:
        errors, counts = ([row[key] for row in rows] for key in ("error", "nonzeros"))
        lines.append(f"| {method}, mean (range) | "
                     f"| {np.mean(errors):.2f} ({min(errors):.2f} to {max(errors):.2f}) "
                     f"| {np.mean(counts):.0f} ({min(counts)} to {max(counts)}) | | |")
    lines += [f"| {name} | {what} | {wrong} | | | |" for name, what, wrong in PUBLISHED[net]]
    return "\n".join(lines)


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Train small LeNets on MNIST, beside the papers' figures.")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="where MNIST's four IDX files are")
    parser.add_argument("--download", action="store_true", help="fetch the files that are missing in --data")
    parser.add_argument("--net", choices=PUBLISHED, default="lenet-300-100")
    parser.add_argument("--method", choices=METHODS, default="l0")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=at_least(1), help="instead of the recipe's")
    parser.add_argument("--strength", type=not_negative, nargs="+", metavar="LAMBDA",
                        help="of the L0 penalty: one for all layers, or one for each")
    parser.add_argument("--weight-decay", type=not_negative, help="instead of the recipe's")
    parser.add_argument("--sparsity", type=share, help="share of zeros of all weights, of --method magnitude")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/mnist"), metavar="FOLDER")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--threads", type=at_least(1))
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.threads:
        ms.set_num_threads(args.threads)
    recipe = RECIPES.get((args.net, args.method), Recipe())
    given = {"epochs": args.epochs, "strength": args.strength and tuple(args.strength),
             "weight_decay": args.weight_decay, "sparsity": args.sparsity}
    recipe = dataclasses.replace(recipe, **{key: value for key, value in given.items() if value is not None})
    try:
        train, test = ((part.images / np.float32(255), part.labels) for part in
                       data.read_mnist(args.data, args.download))
        args.out.mkdir(parents=True, exist_ok=True)
        rows = []
        for seed in args.seeds:
            run = Run(args.net, args.method, recipe, seed, train, test, args.out)
            if args.resume:
                run.resume()
            rows.append(run.finish())
    except (ValueError, FloatingPointError) as problem:
        print(f"mnist_l0: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; --resume goes on from the last checkpoint in {args.out}", file=sys.stderr)
        return 130
    print(table(args.net, args.method, recipe, rows))


if __name__ == "__main__":
    sys.exit(main())
