"""What zeros cost and what they bring: accuracy against zeros, file size, inference time and training time.

    python examples/tradeoff.py                                     drawn animals, the small net
    python examples/tradeoff.py --data photos.zip --workers 2       two runs at a time

Each target and method is a run of its own, which leaves its result, its checkpoint and its log in --out: give the
command again, and what is finished is not run again, what is not goes on. tradeoff.md and tradeoff.png have them all.

The runs go through a concurrent.futures.Executor, and any will do. With Dask (pip install -e '.[dask]') they spread
over as many machines as see --data and --out under the same paths:

    from distributed import Client
    import tradeoff
    if __name__ == "__main__":
        with Client("scheduler:8786") as client:        # or Client(), for processes on this machine
            tradeoff.main(["--out", "/shared/tradeoff"], client.get_executor())

Inference is timed here, when all runs are over. Training times can be compared only if nothing else ran: one worker,
which is the default, and no other program.
"""
import dataclasses
import functools
import multiprocessing
import pathlib
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

import minisparse as ms
from minisparse import data, deploy

import study
from report import GREY, INK
from train_animals import SIZE, at_least, hold_out, inference_seconds, share
from training import METHODS, Progress, Recipe, Run, RunError, without_zeros

TARGETS = [0.5, 0.75, 0.9, 0.95, 0.98]      # zeros of all weights
COLOURS = ["#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]     # of Okabe and Ito
AXES = {"zeros": "zeros, %", "float32": "file, float32 values, KB", "int8": "file, int8 values, KB",
        "batch 1": "inference, batch 1, ms", "batch 64": "inference, batch 64, ms", "seconds": "training, s"}
SCALE = {"zeros": 100, "float32": 1e-3, "int8": 1e-3, "batch 1": 1e3, "batch 64": 1e3, "seconds": 1}


@dataclass(frozen=True)
class Job:
    """The settings of one run; they decide its result."""

    name: str
    recipe: Recipe
    data: str
    seed: int
    threads: int
    out: pathlib.Path
    skip_bad: bool = False

    def path(self, end):
        return self.out / f"{self.name.replace(' ', '-')}{end}"


read = functools.lru_cache(1)(study.read)       # a worker reads the images once for all its runs


def finish(job):
    """The figures of one run, in whatever process: train it, or go on, or take them from its files."""
    ms.set_num_threads(job.threads)
    train, test = read(job.data, job.seed, job.skip_bad)
    train, held_out = hold_out(train, job.seed)
    stats = data.channel_stats(train.images)
    run = Run(job.name, train, held_out, stats, job.recipe, job.seed, job.path(".checkpoint"))
    with open(job.path(".log"), "a") as log:
        figures = study.result(run, Progress(log, [run]), test)
    run.model.eval()
    engine = deploy.compile(run.model, (3, SIZE, SIZE))
    for values in ("float32", "int8"):
        engine.save(job.path(f"-{values}.safetensors"), values)
        figures[values] = job.path(f"-{values}.safetensors").stat().st_size
    return figures


def sweep(jobs, executor):
    """{job: its figures}, in the order of the jobs."""
    futures = {executor.submit(finish, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            figures = future.result()
            print(f"{futures[future].name}: accuracy {figures['accuracy']:.1%}, zeros {figures['zeros']:.1%}, "
                  f"trained for {figures['seconds']:.0f} s", flush=True)
    except BrokenProcessPool:
        raise RunError("a worker was killed; the same command goes on from the last whole epoch") from None
    finally:                    # where one fails, the others need not begin
        for future in futures:
            future.cancel()
    return {job: future.result() for future, job in futures.items()}


def time_inference(figures):
    """Add the seconds of a call to the figures of each job."""
    engines = [deploy.load(job.path("-float32.safetensors")) for job in figures]
    job = next(iter(figures))
    images = (read(job.data, job.seed, job.skip_bad)[1].images[:64] / 255 - 0.5).astype("float32")
    for n in (1, 64):
        for found, seconds in zip(figures.values(), inference_seconds(engines, images, n)):
            found[f"batch {n}"] = seconds


def front(points):
    """The numbers of the (cost, accuracy) pairs that no other one beats in one without losing in the other."""
    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b
    return [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]


def table(figures):
    """Markdown: a row for each run. Bold: no run that costs as little of this is as accurate."""
    best = {key: front([(found[key], found["accuracy"]) for found in figures.values()]) for key in AXES}
    best["zeros"] = []          # they are no cost
    lines = [f"| method | accuracy % | {' | '.join(AXES.values())} |", "| --- |" + " --- |" * (1 + len(AXES))]
    for i, (job, found) in enumerate(figures.items()):
        cells = [f"{SCALE[key] * found[key]:.3g}" for key in AXES]
        cells = [f"**{cell}**" if i in best[key] else cell for key, cell in zip(AXES, cells)]
        lines.append(f"| {job.recipe.method or 'dense'} | {100 * found['accuracy']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(figures):
    """Accuracy over each cost: a line for each method, from the dense net on, and the Pareto front behind them."""
    figure = Figure(figsize=(11, 6))
    methods = dict.fromkeys(job.recipe.method for job in figures if job.recipe.method)
    for ax, key in zip(figure.subplots(2, 3, sharey=True).flat, AXES):
        points = {job: (SCALE[key] * found[key], 100 * found["accuracy"]) for job, found in figures.items()}
        for method, colour in zip(methods, COLOURS * len(methods)):
            line = [point for job, point in points.items() if job.recipe.method in (None, method)]
            ax.plot(*zip(*line), "o-", color=colour, lw=1.6, ms=4, label=method)
        ax.plot(*next(iter(points.values())), "D", color=INK, ms=6, label="dense")
        if key != "zeros":
            edge = sorted(list(points.values())[i] for i in front(list(points.values())))
            ax.step(*zip(*edge), where="post", color=GREY, alpha=.35, lw=6, zorder=0, label="Pareto front")
            ax.set_xscale("log")
            for which in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
                which(ScalarFormatter())
            ax.tick_params(axis="x", which="both", labelsize=7, rotation=45)
        ax.set_title(f"Accuracy, %, over {AXES[key]}")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=8)
    return figure


def work(args, executor=None):
    recipe, threads = study.preset(args), args.threads or max(1, ms.get_num_threads() // args.workers)

    def job(name, recipe):
        return Job(name, recipe, args.data, args.seed, threads, args.out, args.skip_bad_images)
    jobs = [job("dense", without_zeros(recipe))]
    jobs += [job(f"{method} {target}", dataclasses.replace(recipe, method=method, overall=target))
             for method in dict.fromkeys(args.methods) for target in dict.fromkeys(args.targets)]
    if executor:
        figures = sweep(jobs, executor)
    else:           # new processes: a fork would take the locks of this one's threads along. Ctrl-C ends them at once
        with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), signal.signal,
                                 (signal.SIGINT, signal.SIG_DFL)) as executor:
            figures = sweep(jobs, executor)
    ms.set_num_threads(threads)
    time_inference(figures)
    text = table(figures)
    study.write(args.out / "tradeoff", text, draw, figures)
    print(text)


def main(argv=None, executor=None):
    """executor: None for processes on this machine; whoever brings one closes it."""
    parser = study.options(__doc__, "runs/tradeoff")
    study.preset_options(parser)
    parser.add_argument("--methods", nargs="+", choices=[m for m in METHODS if m != "lottery"],
                        default=["gradual", "rigl"], help="lottery tickets are no runs of their own: left out")
    parser.add_argument("--targets", type=share, nargs="+", default=TARGETS, help="zeros of all weights")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--workers", type=at_least(1), default=1,
                        help="runs at a time (1), each with --threads threads (its share of the cores)")
    return study.attempt("tradeoff", functools.partial(work, executor=executor), parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
