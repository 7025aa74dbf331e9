"""The smallest net within a point of the dense one, by search: no sparsity is given, it is found, layer by layer.

    python examples/budget.py                               drawn animals, the small net
    python examples/budget.py --data photos.zip --within 0.5

1. Train the dense net. A fifth of the training images is held out, and all choices are made on these.
2. Sensitivity: prune each layer alone, without retraining, and measure (minisparse/sparse/sensitivity.py).
3. One number, the loss that each layer may cause alone, gives all their sparsities. Bisect on it: a candidate begins
   with the dense weights, trains for a fifth of the epochs (two at least) while it is pruned, and must stay within
   the tolerance.
4. Train the smallest that did for all of the epochs, from the dense weights too: what the learning rate does is
   repeated, which Renda et al. (arXiv:2003.02389) found better than training on at its last value. If the net does
   not stay within the tolerance, the next one has its turn.
5. Read the test set, once, for the dense net and for this one.

That takes three to four times as long as the dense net alone. budget.md in --out has everything that was tried. A
search that was stopped goes on when the command is given again.
"""
import dataclasses
import math
import sys

import numpy as np

from minisparse import data, sparse
from minisparse.serialize import write_atomically

import study
from train_animals import at_least, not_negative
from training import Progress, Run, accuracy, gradually, without_zeros

HELD_OUT = 0.2          # more than for learning curves: the search must tell a point from noise
SPARSITIES = [1 - 0.5 ** k for k in range(1, 7)]    # of the curves: half of the weights each time, 0.5 to 0.984
LOSSES = 0.001, 1.0     # between which it bisects, by ratios
TRIES = 7
ENOUGH = 2000           # images to measure a curve on


class Search:
    """The data, the dense net, and a candidate for any targets; all accuracies are on the images held out."""

    def __init__(self, args, train, progress):
        order = np.random.default_rng([args.seed, 7]).permutation(len(train))
        count = max(1, round(HELD_OUT * len(train)))
        self.train, self.held_out = train.subset(np.sort(order[count:])), train.subset(np.sort(order[:count]))
        self.stats = data.channel_stats(self.train.images)
        self.recipe = without_zeros(study.preset(args))
        self.within, self.seed, self.out, self.progress = args.within / 100, args.seed, args.out, progress
        self.dense, found = self.run("dense", self.recipe)
        self.accuracy = found["accuracy"]

    def run(self, name, recipe, targets=None, start=None):
        """(the finished run, its figures), pruned to the targets on the way; start: a state_dict to begin with."""
        run = Run(name, self.train, self.held_out, self.stats, recipe, self.seed,
                  self.out / f"{name.replace(' ', '-')}.checkpoint")
        self.progress.runs = [run]
        if targets:
            run.pruner = sparse.Pruner(run.model, targets, sparse.Cubic(*gradually(recipe, run.steps)))
            run.settings["targets"] = targets
        before = start and (lambda run: run.model.load_state_dict(start))
        return run, study.result(run, self.progress, self.held_out, before)

    def curves(self):
        """Accuracy over sparsity of each layer alone."""
        part = self.held_out.subset(np.arange(0, len(self.held_out), -(-len(self.held_out) // ENOUGH)))

        def measure():
            return accuracy(self.dense.evaluate(part.images), part.labels)
        return sparse.sensitivity(self.dense.model, measure, SPARSITIES, dense=["whiten"])

    def pruned(self, name, targets, epochs):
        """What `run` returns, of the dense net's weights pruned over the first half of a training."""
        recipe = dataclasses.replace(self.recipe, epochs=epochs, prune=(0.0, 0.5))
        return self.run(name, recipe, targets, self.dense.model.state_dict())

    def candidate(self, loss, targets):
        """The figures of a short training."""
        return self.pruned(f"candidate {loss:.6g}", targets, max(2, self.recipe.epochs // 5))[1]

    def full(self, loss, targets):
        return self.pruned(f"sparse {loss:.6g}", targets, self.recipe.epochs)

    def fits(self, other):
        """Whether an accuracy is within the tolerance; the little more is for rounding."""
        return self.accuracy - other <= self.within + 1e-9

    def standard_error(self, other):
        """Of the difference of two accuracies, as if each net had images of its own: in truth it is smaller."""
        return math.sqrt(sum(a * (1 - a) for a in (self.accuracy, other)) / len(self.held_out))


def bisect(search, curves, tries):
    """[{loss, targets, zeros, accuracy, fits}] of the candidates, in the order they were tried."""
    (low, high), tried = LOSSES, []
    for _ in range(tries):
        loss = math.sqrt(low * high)
        targets = {name: share or None for name, share in sparse.tolerated(curves, loss, SPARSITIES).items()}
        found = search.candidate(loss, targets)
        fits = search.fits(found["accuracy"])
        tried.append({"loss": loss, "targets": targets, "zeros": found["zeros"], "accuracy": found["accuracy"],
                      "fits": fits})
        low, high = (loss, high) if fits else (low, loss)
    return tried


def smallest(search, tried):
    """(the smallest net that is within the tolerance after full training, [(loss, figures) of all trained in full])."""
    trained = []
    for candidate in sorted((c for c in tried if c["fits"]), key=lambda c: -c["zeros"]):
        run, found = search.full(candidate["loss"], candidate["targets"])
        trained.append((candidate["loss"], found))
        if search.fits(found["accuracy"]):
            return run, trained
    return search.dense, trained


def markdown(rows):
    head, *rest = ([str(cell) for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rest])


def report(search, curves, tried, trained, winner, test):
    """Everything that was tried, as Markdown."""
    def shares(values):
        return [f"{100 * (value or 0):.1f}" for value in values]
    layers = list(curves)
    final = {run.name: accuracy(run.evaluate(test.images), test.labels)
             for run in (search.dense, winner)}
    zeros = sparse.summary(winner.model)[-1]
    noise = 100 * max(search.standard_error(c["accuracy"]) for c in tried)
    return "\n\n".join([
        f"# The smallest net within {100 * search.within:g} point{'s' * (search.within != 0.01)} of dense",
        f"{len(search.train)} images trained on, {len(search.held_out)} held out, {len(test)} in the test set. On the "
        f"images held out the dense net's accuracy is {search.accuracy:.1%}. Standard error of a difference: at most "
        f"{noise:.1f} points.",
        "## Each layer alone: accuracy % on the images held out, without retraining, over its zeros %",
        markdown([["layer", *shares([0, *SPARSITIES])], *([name, *shares(curve)] for name, curve in curves.items())]),
        "## Candidates, in the order they were tried: zeros % of each layer, and accuracy % on the images held out",
        markdown([["a layer may lose, points", *layers, "all", "accuracy", "within"],
                  *([f"{100 * c['loss']:.2f}", *shares(c["targets"].values()), *shares([c["zeros"], c["accuracy"]]),
                     "yes" if c["fits"] else "no"] for c in tried)]),
        "## Trained in full, the smallest first",
        markdown([["a layer may lose, points", "zeros %", "accuracy % held out", "within"],
                  *([f"{100 * loss:.2f}", *shares([found["zeros"], found["accuracy"]]),
                     "yes" if search.fits(found["accuracy"]) else "no"] for loss, found in trained)]),
        "## Result",
        f"{winner.name}: {zeros.sparsity:.1%} zeros, {zeros.weights - zeros.zeros:,} of {zeros.weights:,} weights kept."
        " Test set, read once: " + ", ".join(f"{name} {share:.2%}" for name, share in final.items()) + "."]) + "\n"


def work(args):
    train, test = study.read(args.data, args.seed, args.skip_bad_images)
    search = Search(args, train, Progress(sys.stdout, []))
    curves = search.curves()
    tried = bisect(search, curves, args.tries)
    winner, trained = smallest(search, tried)
    text = report(search, curves, tried, trained, winner, test)
    write_atomically(args.out / "budget.md", text.encode())
    print(text)


def main(argv=None):
    parser = study.options(__doc__, "runs/budget")
    study.preset_options(parser)
    parser.add_argument("--within", type=not_negative, default=1.0, metavar="POINTS",
                        help="of the dense net's accuracy (1)")
    parser.add_argument("--tries", type=at_least(1), default=TRIES, help="candidates (7)")
    parser.add_argument("--seed", type=at_least(0), default=0)
    return study.attempt("budget", work, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
