"""Methods side by side: accuracy, zeros and training time of each, at two sparsities, as a table.

    python examples/compare_methods.py                              drawn animals, two seeds
    python examples/compare_methods.py --data photos.zip --seeds 0

Each run leaves a result file in --out, and a run that was stopped goes on from its checkpoint, so the command can be
given again until all are there. The last lines are the table.
"""
import dataclasses
import sys

from minisparse import data

import study
from study import result, spread
from train_animals import at_least, hold_out
from training import METHODS, Progress, Run, without_zeros


def compare(args, progress):
    """{(method, target): [figures of each seed]}; the dense net is ("dense", None)."""
    train, test = study.read(args.data, skip_bad=args.skip_bad_images)
    recipe = study.preset(args)
    figures = {}
    for seed in dict.fromkeys(args.seeds):
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
                ticket = (lambda run: run.draw_ticket(twin)) if method == "lottery" else None
                figures.setdefault((method, target), []).append(result(run, progress, test, ticket))
    return figures


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


def work(args):
    print(table(compare(args, Progress(sys.stdout, []))))


def main(argv=None):
    parser = study.options(__doc__, "runs/methods")
    study.preset_options(parser)
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    return study.attempt("compare_methods", work, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
