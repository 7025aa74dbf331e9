"""Does sparsity raise accuracy where a net overfits? A hundred images of each class, dense nets against sparse ones.

    python examples/overfitting.py                              drawn animals, five seeds
    python examples/overfitting.py --data photos.zip --methods gradual lottery

A seed chooses the images, the first weights and the batches, and a sparse net shares them with its dense twin, so that
they are compared in pairs. Each pair is trained on the images as they are, where overfitting is at its worst, and on
shifted and mirrored ones, the usual remedy. No L1 penalty: zeros are all that differs. A run leaves a result file in
--out and is not run again. overfitting.md and overfitting.png are written there too.
"""
import dataclasses
import statistics
import sys

from matplotlib.figure import Figure
import numpy as np

from minisparse import data

import study
from report import COLOUR, GREY
from study import result, spread
from train_animals import PRESETS, at_least, share
from training import METHODS, Progress, Run, accuracy, without_zeros

HELD_OUT = 20       # of each class, for the learning curves alone: nothing is decided by them
VIEWS = {"as they are": None, "shifted, mirrored": data.Augment(shift=2)}


def sample(images, count, seed):
    """(`count` random images of each class, HELD_OUT others of each)."""
    order = np.random.default_rng([seed, 6]).permutation(len(images))
    classes = [order[images.labels[order] == c] for c in range(len(images.classes))]
    if min(map(len, classes)) <= count:
        raise data.DataError(f"{count} images of each class asked for, and one more at least to hold out: "
                             f"{min(map(len, classes))} is all that one class has.")
    return (images.subset(np.concatenate([c[:count] for c in classes])),
            images.subset(np.concatenate([c[count:count + HELD_OUT] for c in classes])))


def pairs(args, progress):
    """{(view, method, sparsity): [figures of each seed]}; dense nets are (view, "dense", 0)."""
    images, test = study.read(args.data, skip_bad=args.skip_bad_images)
    recipe = dataclasses.replace(PRESETS["quick"], epochs=args.epochs, l1=0.0)
    figures = {}
    for seed in dict.fromkeys(args.seeds):
        train, held_out = sample(images, args.count, seed)
        stats = data.channel_stats(train.images)

        def figure(view, recipe, twin=None):
            name = f"{recipe.method or 'dense'} {recipe.overall or 0} {view}, seed {seed}"
            run = Run(name, train, held_out, stats, recipe, seed,
                      args.out / f"{name.replace(',', '').replace(' ', '-')}.checkpoint")
            run.loader.augment = VIEWS[view] or data.Augment(shift=0, flip=False)
            run.settings["view"] = view
            progress.runs = [run]
            ticket = recipe.method == "lottery"
            found = result(run, progress, test, (lambda run: run.draw_ticket(twin)) if ticket else None)
            found["training"] = accuracy(run.evaluate(train.images), train.labels)
            figures.setdefault((view, recipe.method or "dense", recipe.overall or 0), []).append(found)
            return run
        for view in VIEWS:
            twin = figure(view, without_zeros(recipe))
            for method in args.methods:
                for sparsity in args.sparsities:
                    figure(view, dataclasses.replace(recipe, method=method, overall=sparsity), twin)
    return figures


def gains(figures, key):
    """What a sparse net gains on its dense twin, in points, seed by seed."""
    return [100 * (run["accuracy"] - twin["accuracy"])
            for run, twin in zip(figures[key], figures[key[0], "dense", 0])]


def verdict(gain):
    """Only what all seeds agree on is called a difference: by chance, 5 seeds do so in 1 of 16 cases."""
    if len(gain) < 5:
        return "too few seeds to tell"
    return "better" if min(gain) > 0 else "worse" if max(gain) < 0 else "seeds disagree"


def table(figures):
    """Markdown: a row for each view of the images, method and sparsity; ± is half the range over the seeds."""
    lines = ["| training images | method | zeros % | training accuracy % | test accuracy % | against its dense twin, "
             "points: mean, lowest to highest | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for (view, method, sparsity), runs in figures.items():
        gain = gains(figures, (view, method, sparsity))
        change = [f"{statistics.mean(gain):+.1f}, {min(gain):+.1f} to {max(gain):+.1f}", verdict(gain)]
        shares = [spread([100 * run[key] for run in runs], "{:.1f}") for key in ("zeros", "training", "accuracy")]
        lines.append(f"| {' | '.join([view, method, *shares, *(change if method != 'dense' else ['', ''])])} |")
    return "\n".join(lines)


def draw(figures):
    """Test accuracy over zeros: a line through the means, a dot for each seed."""
    figure = Figure(figsize=(8, 3.6))
    methods = list(dict.fromkeys(method for _, method, _ in figures if method != "dense"))
    for ax, view in zip(figure.subplots(1, len(VIEWS)), VIEWS):
        for method, style in zip(methods, ("-", "--", ":", "-.", (0, (1, 3)), (0, (5, 5)))):
            points = {sparsity: [100 * run["accuracy"] for run in runs] for (v, m, sparsity), runs in figures.items()
                      if v == view and m in ("dense", method)}
            ax.plot([100 * s for s in points], [statistics.mean(p) for p in points.values()], style,
                    color=COLOUR["sparse"], lw=1.8, label=method)
            for sparsity, accuracies in points.items():
                ax.plot([100 * sparsity] * len(accuracies), accuracies, ".", ms=5,
                        color=COLOUR["sparse" if sparsity else "dense"])
        dense = statistics.mean(100 * run["accuracy"] for run in figures[view, "dense", 0])
        ax.axhline(dense, color=COLOUR["dense"], lw=1, label="dense, mean")
        ax.set(xlabel="zeros, %", ylabel="test accuracy, %")
        ax.set_title(f"Training images {view}")
        ax.grid(color=GREY, alpha=.2)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(methods) + 1)
    return figure


def work(args):
    figures = pairs(args, Progress(sys.stdout, [], every=60))
    text = table(figures)
    study.write(args.out / "overfitting", text, draw, figures)
    print(text)


def main(argv=None):
    parser = study.options(__doc__, "runs/overfitting")
    parser.add_argument("--count", type=at_least(1), default=100, help="training images of each class (100)")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["gradual"])
    parser.add_argument("--sparsities", type=share, nargs="+", default=[0.5, 0.75, 0.9, 0.95])
    parser.add_argument("--epochs", type=at_least(1), default=20)
    return study.attempt("overfitting", work, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
