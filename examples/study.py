"""What the studies have in common: options, data and presets, the figures of a run, and how a program ends."""
import argparse
import dataclasses
import io
import json
import pathlib
import statistics
import sys

import matplotlib

import minisparse as ms
from minisparse import data, sparse
from minisparse.serialize import write_atomically

from report import STYLE
from train_animals import PRESETS, at_least, read_data
from training import RunError, accuracy


def options(doc, out):
    """A parser with the options of every study; doc: the program's, of which the first line is shown."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", default="drawn", metavar="PATH", help="as in train_animals.py")
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--threads", type=at_least(1), help="of BLAS and the kernels alike (default: all cores)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(out), metavar="FOLDER",
                        help=f"for the table, the picture and the checkpoints ({out})")
    return parser


def preset_options(parser):
    """The options that `preset` reads."""
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--epochs", type=at_least(1), help="instead of the preset's")


def preset(args):
    """The recipe that is asked for."""
    recipe = PRESETS[args.preset or ("quick" if args.data == "drawn" else "accurate")]
    return dataclasses.replace(recipe, epochs=args.epochs or recipe.epochs)


def read(path, seed=0, skip_bad=False):
    """(train, test) of --data PATH."""
    return read_data(argparse.Namespace(data=path, val=[], seed=seed, data_dir=None, download=False,
                                        skip_bad_images=skip_bad))[:2]


def result(run, progress, test, before=None):
    """The figures of one run, from its file or from training it; the run is finished then, as its checkpoint is.

    before(run): what to do ahead of the first step.
    """
    path = run.path.with_suffix(".json")
    try:
        figures = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        figures = {}
    settings = json.loads(json.dumps(run.settings))         # lists for tuples, as they come back from the file
    run.resume()
    if before and not run.epoch:
        before(run)
    if figures.get("settings") != settings or run.epoch < run.recipe.epochs:
        run.train(progress)
        figures = {"settings": settings,
                   "accuracy": accuracy(run.evaluate(test.images), test.labels),
                   "zeros": sparse.summary(run.model)[-1].sparsity,
                   "seconds": sum(row["seconds"] for row in run.history)}
        write_atomically(path, json.dumps(figures).encode())
    return figures


def spread(values, form):
    """The mean, and half of what lies between the lowest and the highest."""
    text = form.format(statistics.mean(values))
    return text if len(values) == 1 else f"{text} ± {form.format((max(values) - min(values)) / 2)}"


def write(path, text, draw, figures):
    """text as path.md, and what draw(figures) draws as path.png."""
    picture = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        draw(figures).savefig(picture, format="png")
    write_atomically(path.with_suffix(".md"), (text + "\n").encode())
    write_atomically(path.with_suffix(".png"), picture.getbuffer())


def attempt(name, work, args):
    """The exit status of the program `name`: work(args), with args.out in its place.

    Bad input, and Ctrl-C, end it with a line.
    """
    if args.threads:
        ms.set_num_threads(args.threads)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        return work(args)
    except (data.DataError, RunError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on from the last whole epoch", file=sys.stderr)
        return 130
