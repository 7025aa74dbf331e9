"""Two nets compared in figures and in words: the table of the report, and sentences that say what it shows.

`results` is the dictionary that train_animals.py collects and report.json keeps. Every figure comes from it,
except the article's: the figures of the report on sparse networks that this project set out to beat, measured
there on its own data. They stand in a column of their own.
"""
import math
from collections import namedtuple

import numpy as np

NETS = ("dense", "sparse")
KINDS = {"conv": "conv layers", "linear": "fully connected layers", "all": "all of these"}
ARTICLE = {"accuracy": "92.5 %, at most 1.5 points under dense", "training": "30 % faster",
           "inference": "40 % faster", "file": "30 % of the size",
           "conv": "about 55 %", "linear": "75 %", "all": "60 %"}
TIE = 0.03             # times closer than this count as equal: one run cannot tell them apart
DATA_SHARE = 0.05      # a data pipeline that takes more of the training time than this earns a remark

Row = namedtuple("Row", "name dense sparse change article", defaults=("",) * 4)
HEAD = Row("", *NETS, "sparse against dense", "article (its own data)")
Finding = namedtuple("Finding", "topic verdict sentence")    # verdict: worse, better, same; "" for a remark


# Figures as text

def percent(x):
    return "-" if x is None else f"{100 * x:.1f} %"


def points(dense, sparse):
    return "-" if dense is None or sparse is None else f"{100 * (sparse - dense):+.1f} points"


def seconds(x):
    if x < 0.9995:
        return f"{1000 * x:.3g} ms"
    return f"{x:.1f} s" if x < 120 else f"{x:.0f} s ({x / 60:.0f} min)"


def faster(dense, sparse):
    """How the sparse net's time compares, in words that cannot be misread."""
    if abs(sparse - dense) <= TIE * dense:
        return "same speed"
    return f"{dense / sparse:.2f}x faster" if sparse < dense else f"{sparse / dense:.2f}x slower"


def short(name, length):
    """A long name with its middle left out."""
    return name if len(name) <= length else f"{name[:length // 2 - 1]}…{name[-(length // 2):]}"


def standard_error(dense, sparse, n):
    """Binomial standard error of the difference of two accuracies, as if each had n images of its own.

    Both nets see the same images, so their errors go together and the true one is, as a rule, smaller.
    """
    return math.sqrt((dense * (1 - dense) + sparse * (1 - sparse)) / n)


# The table

def both(results, *path):
    """results["nets"][net][path[0]][path[1]]... of the dense and the sparse net, None where it is missing."""
    pair = [results["nets"][net] for net in NETS]
    for key in path:
        pair = [None if value is None else value.get(key) for value in pair]
    return pair


def image_sets(results):
    """(name, title, path for `both`, images) of the test set and of each external set."""
    sets = [("test", "the test set", ["test"], results["data"]["test"])]
    return sets + [(name, name, ["validation", name], n) for name, n in results["data"]["validation"].items()]


def present_classes(results, path):
    return [c for c in results["data"]["classes"] if None not in both(results, *path, "per_class", c)]


def batch_sizes(results):
    return sorted(results["nets"]["dense"]["inference"], key=int)


def zero_counts(results):
    """(name, zeros in the dense net, in the sparse net, weights) of each layer; {kind: the same summed}."""
    layers = [(b["name"], a["zeros"], b["zeros"], b["weights"]) for a, b in zip(*both(results, "layers"))]
    kinds = [layer["kind"] for layer in results["nets"]["sparse"]["layers"]]
    sums = {}
    for kind, name in KINDS.items():
        counts = [layer[1:] for layer, k in zip(layers, kinds) if kind in (k, "all")]
        if counts:
            sums[kind] = (name, *(sum(column) for column in zip(*counts)))
    return layers, sums


def table(results, detail=1):
    """The rows of the report's table; a row with only a name is a heading.

    detail 0: sums alone; 1: the test set class by class, and every layer; 2: external sets by class too.
    """
    def shares(name, dense, sparse, article=""):
        return Row(name, percent(dense), percent(sparse), points(dense, sparse), article)

    def times(name, dense, sparse, article=""):
        return Row(name, seconds(dense), seconds(sparse), faster(dense, sparse), article)

    rows = []
    for _, title, path, n in image_sets(results):
        present = present_classes(results, path)
        missing = len(results["data"]["classes"]) - len(present)
        mean = f"mean over {len(present)} classes" + (f" ({missing} not in this set)" if missing else "")
        rows += [Row(f"Accuracy on {title}, {n} images"),
                 shares("overall", *both(results, *path, "accuracy"),
                        ARTICLE["accuracy"] if path == ["test"] else ""),
                 shares(mean, *both(results, *path, "mean"))]
        if path == ["test"]:
            rows += [shares("overall, one look", *both(results, "one_look")),
                     shares("overall, one look, int8 file", *both(results, "int8_accuracy"))]
        if detail > (path != ["test"]):
            rows += [shares(c, *both(results, *path, "per_class", c)) for c in present]

    whole = both(results, "training", "seconds")
    epochs = [[e["seconds"] for e in history] for history in both(results, "history")]
    rows += [Row("Training time"), times("whole", *whole, ARTICLE["training"]),
             times("median epoch", *map(np.median, epochs)),
             Row("shortest to longest", *(f"{min(t):.1f} to {max(t):.1f} s" for t in epochs),
                 "the first one compiles")]
    for name, key in ("waited for data", "data_waited"), ("CPU of the data thread", "data_worked"):
        cells = [f"{seconds(x)}, {percent(x / t)}" for x, t in zip(both(results, "training", key), whole)]
        rows.append(Row(name, *cells, "of the training time"))

    rows.append(Row("Inference"))
    for batch in batch_sizes(results):
        pair = both(results, "inference", batch)
        rows += [times(f"batch {batch}, per call", *pair, ARTICLE["inference"]),
                 Row(f"batch {batch}, images/s", *(f"{int(batch) / t:,.0f}" for t in pair))]

    rows.append(Row("Model file, bytes"))
    whole = results["nets"]["dense"]["file_bytes"]["float32"]
    for values in results["nets"]["dense"]["file_bytes"]:
        dense, sparse = both(results, "file_bytes", values)
        ratio = f"{sparse / whole:.2f} of " + ("the size" if values == "float32" else "dense float32")
        rows.append(Row(f"{values} values", f"{dense:,}", f"{sparse:,}", ratio, ARTICLE["file"]))

    layers, sums = zero_counts(results)
    rows.append(Row("Zeros"))
    rows += [shares(name, a / n, b / n, ARTICLE[kind]) for kind, (name, a, b, n) in sums.items()]
    return rows + [shares(name, a / n, b / n) for name, a, b, n in layers if detail]


def as_text(rows):
    """The table for a terminal."""
    rows = [HEAD] + [r._replace(name=("  " if r.dense else "") + short(r.name, 44)) for r in rows]
    a, b, c, d, _ = (max(map(len, column)) for column in zip(*rows))
    return "\n".join(f"{r.name:{a}}  {r.dense:>{b}}  {r.sparse:>{c}}  {r.change:{d}}  {r.article}".rstrip()
                     for r in rows)


def as_markdown(rows):
    rows = [HEAD, Row(":--", "--:", "--:", ":--", ":--")] + [
        r if r.dense else r._replace(name=f"**{r.name}**") for r in rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


# In words

def findings(results):
    """Where the sparse net is worse or slower, where better, and where nobody can tell."""
    looks = results["settings"]["looks"]
    moved = f", moved by {', '.join(map(str, looks))} pixels down and to the right" if len(looks) > 1 else ""
    found = [Finding("looks", "", f"Accuracies are those of {2 * len(looks)} looks at each image, as it is and mirrored"
                     f"{moved}, whose scores are averaged; in the learning curves as it is and mirrored, where the "
                     "table says one look as it is.")]
    found += [accuracy_finding(name, f"{title} ({n} images)", *both(results, *path, "accuracy"), n)
              for name, title, path, n in image_sets(results)]
    for name, title, path, _ in image_sets(results):
        pairs = {c: both(results, *path, "per_class", c) for c in present_classes(results, path)}
        by_gain = sorted(pairs, key=lambda c: pairs[c][1] - pairs[c][0])
        for c, rank in (by_gain[0], "worst"), (by_gain[-1], "best"):
            n = both(results, *path, "counts", c)[0]
            where = f"{c} ({n} images of {title}; its {rank} class there against dense)"
            found.append(accuracy_finding(c if path == ["test"] else f"{name}'s {c}", where, *pairs[c], n))

    whole = both(results, "training", "seconds")
    steady = [sum(e["seconds"] for e in history[1:]) for history in both(results, "history")]
    if len(results["nets"]["sparse"]["history"]) < 3:
        found.append(Finding("training", "same", "Training: too few epochs to compare times, since the first one "
                             "compiles."))
    else:
        found.append(time_finding("training", *steady, ", without the first epoch, which compiles"))
    during = [e["sparsity"] for e in results["nets"]["sparse"]["history"]]
    early = "" if np.mean(during) > 0.9 * during[-1] else (
        " --method set and --method rigl have all their zeros from the first step on.")
    found.append(Finding("schedule", "", f"Zeros during training: {percent(np.mean(during))} on average "
                         f"over the epochs, {percent(during[-1])} at the end; training can gain from the former only."
                         + early))
    for net, t in zip(NETS, whole):
        waited, worked = (results["nets"][net]["training"][key] / t for key in ("data_waited", "data_worked"))
        if max(waited, worked) > DATA_SHARE:
            found.append(Finding("data", "", f"Data pipeline: over {percent(DATA_SHARE)} of the {net} net's "
                                 f"training time: {percent(waited)} waiting for it, {percent(worked)} as CPU "
                                 "time of its thread."))
    found += [time_finding(f"inference at batch {batch}", *both(results, "inference", batch))
              for batch in batch_sizes(results)]
    dense, sparse = both(results, "file_bytes", "float32")
    verdict = "better" if sparse < dense else "worse" if sparse > dense else "same"
    size = {"better": "smaller", "worse": "larger", "same": "as large"}[verdict]
    return found + [Finding("model file", verdict, f"Model file: the sparse net's is {size}, "
                            f"{sparse:,} bytes against {dense:,} ({sparse / dense:.2f} of the size).")]


def accuracy_finding(name, where, dense, sparse, n):
    gap, error = 100 * (sparse - dense), 100 * standard_error(dense, sparse, n)
    word = "worse" if gap < 0 else "better"
    noise = abs(gap) <= 2 * error
    how = f"{abs(gap):.1f} points {word}" if gap else "equal"
    return Finding(f"accuracy on {name}", "same" if noise else word,
                   f"Accuracy on {where}: the sparse net is {how}, {percent(sparse)} against "
                   f"{percent(dense)}; standard error of the difference {error:.1f} points: "
                   f"{'within noise' if noise else 'more than noise'}.")


def time_finding(topic, dense, sparse, how_measured=""):
    change = faster(dense, sparse)
    verdict = "same" if change == "same speed" else "better" if sparse < dense else "worse"
    how = f"as fast (within {percent(TIE)})" if verdict == "same" else change
    return Finding(topic, verdict, f"{topic.capitalize()}{how_measured}: the sparse net is {how}, "
                   f"{seconds(sparse)} against {seconds(dense)}.")


def summary(found):
    """One line each for what is worse, what is better, and what cannot be told apart."""
    heads = {"worse": "Sparse is worse or slower", "better": "Sparse is better, faster or smaller",
             "same": "No difference beyond noise"}
    return [f"{head}: {', '.join(f.topic for f in found if f.verdict == verdict) or 'nothing'}."
            for verdict, head in heads.items()]
