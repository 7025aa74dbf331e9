"""Methods side by side: accuracy, zeros and training time of each, at two sparsities, as a table.

    python examples/compare_methods.py                              drawn animals, two seeds
    python examples/compare_methods.py --data photos.zip --seeds 0

Each run leaves a result file in --out, and a run that was stopped goes on from its checkpoint, so the command can be
given again until all are there. The last lines are the table.
"""
import argparse
import dataclasses
import json
import pathlib
import statistics
import sys

import minisparse as ms
from minisparse import data, sparse
from minisparse.serialize import write_atomically

from train_animals import PRESETS, hold_out, read_data
from training import METHODS, Progress, Run, RunError, accuracy, evaluate, without_zeros

def result(run, progress, test, before=None):
    """The figures of one run, from its file or from training it. before(run): what to do ahead of the first step."""
    path = run.path.with_suffix(".json")
    figures = json.loads(path.read_text()) if path.exists() else {}
    settings = json.loads(json.dumps(run.settings))         # lists for tuples, as they come back from the file
    if figures.get("settings") != settings:
        run.resume()
        if before and not run.epoch:
            before(run)
        run.train(progress)
        figures = {"settings": settings,
                   "accuracy": accuracy(evaluate(run.model, test.images, **run.stats), test.labels),
                   "zeros": sparse.summary(run.model)[-1].sparsity,
                   "seconds": sum(row["seconds"] for row in run.history)}
        write_atomically(path, json.dumps(figures).encode())
    return figures


def compare(args, progress):
    """{(method, target): [figures of each seed]}; the dense net is ("dense", None)."""
    train, test, _ = read_data(args)
    recipe = PRESETS[args.preset or ("quick" if args.data == "drawn" else "accurate")]
    if args.epochs:
        recipe = dataclasses.replace(recipe, epochs=args.epochs)
    figures = {}
    for seed in args.seeds:
        part, held_out = hold_out(train, seed)
        stats = data.channel_stats(part.images)

        def make(name, recipe):
            run = Run(f"{name} {seed}", part, held_out, stats, recipe, seed,
                      args.out / f"{name.replace(' ', '-').replace('%', '')}-{seed}.checkpoint")
            progress.runs = [run]
            return run
        twin = make("dense", without_zeros(recipe))
        figures.setdefault(("dense", None), []).append(result(twin, progress, test))
        targets = {f"conv {100 * recipe.conv:.0f} %, FC {100 * recipe.linear:.0f} %": {},
                   "90 % overall": {"overall": 0.9}}
        for target, options in targets.items():
            for method in args.methods:
                run = make(f"{method} {target}", dataclasses.replace(recipe, method=method, **options))

                def ticket(run):
                    twin.resume()
                    run.draw_ticket(twin)
                figures.setdefault((method, target), []).append(
                    result(run, progress, test, ticket if method == "lottery" else None))
    return figures


def spread(values, form):
    """The mean, and half of what lies between the lowest and the highest."""
    text = form.format(statistics.mean(values))
    return text if len(values) == 1 else f"{text} ± {form.format((max(values) - min(values)) / 2)}"


def table(figures):
    """Markdown: a row for each method and target."""
    base = figures["dense", None]
    lines = ["| method | zeros asked for | accuracy % | zeros % | training time against dense |",
             "| --- | --- | --- | --- | --- |"]
    for (method, target), runs in figures.items():
        time = [run["seconds"] / twin["seconds"] for run, twin in zip(runs, base)]
        lines.append(f"| {method} | {target or 'none'} | {spread([100 * run['accuracy'] for run in runs], '{:.1f}')} "
                     f"| {spread([100 * run['zeros'] for run in runs], '{:.1f}')} | {spread(time, '{:.2f}')} |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="drawn", metavar="PATH", help="as in train_animals.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--epochs", type=int, help="instead of the preset's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/methods"))
    # what read_data asks for beside --data
    parser.set_defaults(val=[], seed=0, data_dir=None, download=False, skip_bad_images=False)
    args = parser.parse_args(argv)
    if args.threads:
        ms.set_num_threads(args.threads)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        print(table(compare(args, Progress(sys.stdout, []))))
    except (data.DataError, RunError, OSError) as error:
        print(f"compare_methods: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
