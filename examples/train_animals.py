"""The main job: train a dense and a sparse animal classifier on a CPU, and report what sparsity gave.

    python examples/train_animals.py                        on animals that it draws itself, in about two minutes
    python examples/train_animals.py --data photos.zip      on your own class folders
    python examples/train_animals.py --help                 everything else

Both nets see the same batches, take the same number of steps and begin with the same weights (but see --method in
training.py: SET and RigL begin with random filters, a lottery ticket with the dense net's weights after an epoch). The
report, its pictures and both models are written to --out.
"""
import argparse
import dataclasses
import errno
import os
import pathlib
import platform
import shlex
import sys
import time

import numpy as np

import minisparse as ms
from minisparse import data, deploy, sparse

from report import write_report
from training import METHODS, Progress, Recipe, Run, RunError, accuracy, without_zeros

PRESETS = {
    "quick": Recipe(widths=(24, 48, 64), hidden=64, epochs=5, batch=64, optimizer="adamw", lr=4e-3, warmup=0.2,
                    weight_decay=1e-2, smoothing=0.1, shift=2, cutout=0, looks=(0,), conv=0.55),
    "accurate": Recipe(),
}
HELD_OUT = 0.05         # of the training images are not trained on: the learning curves' accuracy
DRAWN_TRAIN, DRAWN_TEST = 1000, 200     # drawn animals, of each class
SIZE = 32


def at_least(low):
    """An argparse type: a whole number, not below `low`."""
    def number(text):
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {value}")
        return value
    return number


def share(text):
    """An argparse type: a number in [0, 1)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must lie in [0, 1), got {text}")
    return value


def not_negative(text):
    """An argparse type: a number, not negative."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number, not negative, got {text}")
    return value


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Train a dense and a sparse animal classifier and compare them.")
    parser.add_argument("--data", default="drawn", metavar="PATH",
                        help="a folder or zip of class folders, 'cifar10', or 'drawn' (the default)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="where the files of --data cifar10 are")
    parser.add_argument("--download", action="store_true", help="fetch CIFAR-10 into --data-dir if it is not there")
    parser.add_argument("--val", action="append", default=[], metavar="NAME=PATH",
                        help="an external validation set: class folders, or drawn:STYLE; may be repeated")
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/animals"), metavar="FOLDER",
                        help="for the report, the models and the checkpoints (runs/animals)")
    parser.add_argument("--resume", action="store_true",
                        help="go on from the checkpoints in --out; without it a run begins anew and removes them")
    parser.add_argument("--preset", choices=PRESETS, help="quick (default for drawn animals) or accurate (photographs)")
    parser.add_argument("--epochs", type=at_least(1), help="instead of the preset's")
    parser.add_argument("--l1", type=not_negative, metavar="LAMBDA",
                        help="strength of the L1 penalty of the sparse net")
    parser.add_argument("--method", choices=METHODS, default="gradual",
                        help="how the sparse net becomes sparse (gradual)")
    parser.add_argument("--sparsity", type=share, metavar="SHARE",
                        help="zeros of all weights, in place of the next two")
    parser.add_argument("--conv-sparsity", type=share, metavar="SHARE",
                        help="zeros of each convolution (quick: 0.55, accurate: 0.6)")
    parser.add_argument("--fc-sparsity", type=share, metavar="SHARE",
                        help="zeros of each fully connected layer (0.75)")
    parser.add_argument("--seed", type=at_least(0), default=0,
                        help="of every random choice: the same seed gives the same nets (0)")
    parser.add_argument("--threads", type=at_least(1), help="of BLAS and the kernels alike (default: all cores)")
    args = parser.parse_args(argv)
    if args.sparsity is not None and {args.conv_sparsity, args.fc_sparsity} != {None}:
        parser.error("--sparsity is in place of --conv-sparsity and --fc-sparsity: give it or them")
    args.preset = args.preset or ("quick" if args.data == "drawn" else "accurate")
    return args


def check_folder(out):
    """OSError where `out` cannot be written, before the hours of work and without creating anything."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "--out needs a folder, this is a file", str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "--out cannot be written", str(there))


def drawn(style, count, seed):
    images, labels = data.drawn.draw(count, style, seed=seed, size=SIZE)
    return data.ImageSet(images, labels, data.drawn.CLASSES, [f"{style} {i}" for i in range(len(labels))])


def read_data(args):
    """(train, test, {name: validation set}); DataError where something cannot be read."""
    external = {}
    for item in args.val:
        name, found, path = item.partition("=")
        if not found or not name or name in (*external, "test"):
            raise data.DataError(f"--val {item}: expected NAME=PATH, each name once, and not test.")
        style = path.removeprefix("drawn:")
        if style != path and style not in data.drawn.STYLES:
            raise data.DataError(f"--val {item}: the styles are {', '.join(data.drawn.STYLES)}.")
        external[name] = path
    if args.data == "drawn":
        train = drawn(data.drawn.STYLES[0], DRAWN_TRAIN, args.seed)
        test = drawn(data.drawn.STYLES[0], DRAWN_TEST, args.seed + 1_000_003)
        external = {style: f"drawn:{style}" for style in data.drawn.STYLES[1:]} | external
    elif args.data == "cifar10":
        train, test = data.read_cifar10(args.data_dir, download=args.download, size=SIZE)
    else:
        train, test = data.read_images(args.data, SIZE, args.seed, skip_bad=args.skip_bad_images)
    if len(train) < 3:          # one is held out, and batch norm needs two
        raise data.DataError(f"{args.data}: {len(train)} images to train on are not enough. Add images.")
    if (train.images.min(axis=(0, 2, 3)) == train.images.max(axis=(0, 2, 3))).any():
        raise data.DataError(f"{args.data}: a colour channel has one value in all pixels of all images. Add others.")
    sets = {}
    for name, path in external.items():
        if path.startswith("drawn:"):
            if train.classes != data.drawn.CLASSES:
                raise data.DataError(f"--val {name}={path}: the classes must be {', '.join(data.drawn.CLASSES)}.")
            sets[name] = drawn(path.removeprefix("drawn:"), DRAWN_TEST, args.seed + 2_000_003)
        else:
            sets[name] = data.read_validation(path, train.classes, SIZE, skip_bad=args.skip_bad_images)
    return train, test, sets


def hold_out(train, seed):
    """(the rest, a random share of HELD_OUT) of a set."""
    order = np.random.default_rng([seed, 5]).permutation(len(train))
    count = max(1, round(HELD_OUT * len(train)))
    return train.subset(np.sort(order[count:])), train.subset(np.sort(order[:count]))


def per_class(scores, labels, classes):
    """Accuracy overall, of each class that occurs, and the mean over these."""
    hit = scores.argmax(axis=1) == labels
    counts = {name: int(np.sum(labels == i)) for i, name in enumerate(classes) if (labels == i).any()}
    share = {name: float(hit[labels == classes.index(name)].mean()) for name in counts}
    return {"count": len(labels), "counts": counts, "accuracy": float(hit.mean()), "per_class": share,
            "mean": float(np.mean(list(share.values())))}


def inference_seconds(engines, images, batch, calls=30):
    """Median time of a call of each engine with `batch` images, after a warm-up.

    The engines take turns, so that what slows the machine for a while slows all of them.
    """
    images = images[:batch]
    if len(images) < batch:
        images = np.resize(images, (batch, *images.shape[1:]))
    times = np.zeros((3 + calls, len(engines)))
    for row in times:
        for i, engine in enumerate(engines):
            began = time.perf_counter()
            engine(images)
            row[i] = time.perf_counter() - began
    return np.median(times[3:], axis=0).tolist()


def answers(engine, images, normalise, batch=64):
    """The class of each image by an engine."""
    return np.concatenate([engine(normalise(images[i:i + batch])).argmax(axis=1)
                           for i in range(0, len(images), batch)])


def examine(run, files, normalise, test, validation):
    """The figures of a finished net, but for its inference times; files: {how values are stored: path}."""
    looks = run.looks(test.images, run.recipe.looks)
    scores = looks.mean(axis=0)
    confusion = np.zeros((len(test.classes),) * 2, int)
    np.add.at(confusion, (test.labels, scores.argmax(axis=1)), 1)
    return scores, {
        "history": run.history,
        "steps": run.losses,
        "schedule": run.schedule(),
        "test": per_class(scores, test.labels, test.classes) | {"confusion": confusion.tolist()},
        "validation": {name: per_class(run.evaluate(part.images), part.labels, test.classes)
                       for name, part in validation.items()},
        "training": {"seconds": sum(row["seconds"] for row in run.history),
                     "data_waited": sum(row["waited"] for row in run.history),
                     "data_worked": sum(row["worked"] for row in run.history)},
        "file_bytes": {values: path.stat().st_size for values, path in files.items()},
        "one_look": accuracy(looks[0], test.labels),
        "int8_accuracy": float(np.mean(answers(deploy.load(files["int8"]), test.images, normalise) == test.labels)),
        "layers": [{"name": row.name, "kind": row.kind, "shape": list(row.shape), "weights": row.weights,
                    "zeros": row.zeros} for row in sparse.summary(run.model)[:-3]],
    }


def machine():
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            cpu = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    numba = sys.modules.get("numba")
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__,
            "numba": numba.__version__ if numba else "not used"}


def run(args):
    began = time.perf_counter()
    check_folder(args.out)
    print({"drawn": "drawing animals"}.get(args.data, f"reading {args.data}"), flush=True)
    train, test, validation = read_data(args)
    left_out = [item for part in (train, *validation.values()) for item in part.left_out]
    for item in left_out:
        print(f"left out: {item}")
    recipe = PRESETS[args.preset]
    for name, value in (("epochs", args.epochs), ("l1", args.l1), ("conv", args.conv_sparsity),
                        ("linear", args.fc_sparsity), ("overall", args.sparsity), ("method", args.method)):
        if value is not None:
            recipe = dataclasses.replace(recipe, **{name: value})
    train, held_out = hold_out(train, args.seed)
    stats = data.channel_stats(train.images)
    print(f"{len(train)} training images, {len(held_out)} held out, {len(test)} for testing, "
          f"{len(train.classes)} classes; read in {time.perf_counter() - began:.1f} s")

    runs = {}
    for name, setup in (("dense", without_zeros(recipe)), ("sparse", recipe)):
        runs[name] = Run(name, train, held_out, stats, setup, args.seed, args.out / f"{name}.checkpoint")
        if args.resume:
            runs[name].resume()
            print(f"{name}: {runs[name].epoch} of {recipe.epochs} epochs are done")
    args.out.mkdir(parents=True, exist_ok=True)
    for net in runs.values():
        if not args.resume and net.path.exists():       # else a later --resume would go on from what an older run left
            print(f"{net.path}: of an earlier run, removed (--resume would go on with it)")
            net.path.unlink()
    progress = Progress(sys.stdout, list(runs.values()))
    runs["dense"].train(progress)
    if recipe.method == "lottery" and not runs["sparse"].epoch:
        runs["sparse"].draw_ticket(runs["dense"])
    runs["sparse"].train(progress)

    shape = (-1, 1, 1)
    mean, std = (np.reshape(s, shape).astype(np.float32) for s in stats)

    def normalise(images):
        return (images.astype(np.float32) / 255 - mean) / std
    info = {"classes": list(train.classes), **{key: [float(v) for v in s] for key, s in zip(("mean", "std"), stats)}}
    nets, scores, engines = {}, {}, {}
    print("measuring both nets", flush=True)
    for name, net in runs.items():
        net.model.eval()
        engine = engines[name] = deploy.compile(net.model, (3, SIZE, SIZE), info)
        files = {"float32": args.out / f"{name}.safetensors"}
        files |= {values: args.out / f"{name}-{values}.safetensors" for values in ("float16", "int8")}
        for values, path in files.items():
            engine.save(path, values)
        scores[name], nets[name] = examine(net, files, normalise, test, validation)
    batch = normalise(test.images[:64])
    times = {str(n): inference_seconds(list(engines.values()), batch, n) for n in (1, 64)}
    for i, name in enumerate(engines):
        nets[name]["inference"] = {n: seconds[i] for n, seconds in times.items()}

    settings = {"preset": args.preset, "seed": args.seed, "threads": ms.get_num_threads()} | dataclasses.asdict(recipe)
    results = {
        "command": " ".join(["python", *map(shlex.quote, sys.argv)]), "settings": settings, "machine": machine(),
        "data": {"name": str(args.data), "classes": list(train.classes), "train": len(train), "held_out": len(held_out),
                 "test": len(test), "validation": {name: len(part) for name, part in validation.items()},
                 "left_out": left_out},
        "nets": nets}
    shown = np.random.default_rng(args.seed).permutation(len(test))
    first = {name: net.model.conv1a.weight for name, net in runs.items()}
    pictures = {
        "filters": {name: weight.data for name, weight in first.items()}, "mask": first["sparse"].mask,
        "examples": {"images": test.images[shown], "truth": test.labels[shown],
                     "scores_sparse": ms.softmax(ms.Tensor(scores["sparse"][shown]), dim=1).numpy(),
                     **{name: s[shown].argmax(axis=1) for name, s in scores.items()}}}
    print(write_report(args.out, results, pictures))
    print(f"report, pictures and models in {args.out}; {time.perf_counter() - began:.0f} s in all")


def main(argv=None):
    args = parse(argv)
    if args.threads:
        ms.set_num_threads(args.threads)
    try:
        run(args)
    except (data.DataError, RunError) as error:
        message, status = str(error), 2
    except OSError as error:
        message, status = f"{error.filename or args.out}: {error.strerror or error}", 2
    except KeyboardInterrupt:
        message, status = "stopped; the same command with --resume goes on from the last whole epoch", 130
    else:
        return 0
    if sys.stdout.isatty():
        print()                 # the progress line stays
    print(f"train_animals: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
