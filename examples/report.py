"""The report of train_animals.py, a dense and a sparse net side by side: pictures, report.md, report.json."""
import io
import json
import math
import pathlib

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minisparse.serialize import write_atomically

from comparison import (HEAD, NETS, TIE, as_markdown, as_text, both, findings, image_sets, percent, short,
                        summary, table, zero_counts)

COLOUR = {"dense": "#0072B2", "sparse": "#D55E00"}      # of Okabe and Ito: told apart by the colour-blind
INK, GREY, PALE = "#222222", "#777777", "#E4E4E4"
STYLE = {"font.size": 9, "text.color": INK, "axes.labelcolor": GREY, "axes.edgecolor": "#BBBBBB",
         "xtick.color": GREY, "ytick.color": INK, "xtick.major.size": 0, "ytick.major.size": 0,
         "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
         "legend.frameon": False, "text.parse_math": False,      # a class may be called $x$
         "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlesize": 10.5, "axes.titlepad": 9,
         "figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": .12,
         "figure.constrained_layout.h_pad": .1, "savefig.dpi": 150,
         "savefig.bbox": "tight", "savefig.pad_inches": .15}


# Panels: each draws on the axes it is given, so that the overview can use it too

def draw_curve(ax, results, measure):
    """The "loss" or "accuracy" of both nets over the epochs, the sparse net's zeros behind it."""
    last = results["nets"]["sparse"]["history"][-1]
    steps_an_epoch = last["step"] / last["epoch"]
    for net, history, steps in zip(NETS, both(results, "history"), both(results, "steps")):
        curve = {key: np.array([e[key] for e in history], float)
                 for key in ("epoch", "loss", "accuracy", "held_out")}
        style = {"color": COLOUR[net], "marker": "o" if len(history) < 3 else "", "ms": 4}
        if measure == "loss":
            step, loss = np.array(steps, float).reshape(-1, 2).T
            ax.plot(step / steps_an_epoch, loss, color=COLOUR[net], alpha=.25, lw=.8)
            ax.plot(curve["epoch"] - .5, curve["loss"], "--", lw=1.1, mfc="white", **style)     # means over an epoch
        else:
            ax.plot(curve["epoch"] - .5, 100 * curve["accuracy"], "--", lw=1.1, mfc="white", **style)
            ax.plot(curve["epoch"], 100 * curve["held_out"], lw=1.8, **style)
    zeros = ax.twinx()
    step, conv, linear = np.array(results["nets"]["sparse"]["schedule"], float).reshape(-1, 3).T
    zeros.fill_between(step / steps_an_epoch, 100 * conv, color=PALE, alpha=.6, lw=0)
    zeros.plot(step / steps_an_epoch, 100 * linear, ":", color=GREY, lw=1.2)
    zeros.set(ylim=(0, 100), ylabel="zeros, %")
    zeros.tick_params(axis="y", colors=GREY)
    ax.set_zorder(zeros.get_zorder() + 1)       # the curves in front of the schedule
    ax.patch.set_visible(False)
    ax.set(xlabel="epoch", xlim=(0, 1.02 * last["epoch"]))
    ax.set_title("Training loss (pale: the mean of ten steps)" if measure == "loss" else "Accuracy, %")
    ax.xaxis.get_major_locator().set_params(integer=True)


def curve_legend(figure, **where):
    styles = {"held out": {"lw": 1.8}, "training, augmented": {"ls": "--"},
              "zeros, conv": {"color": PALE, "lw": 7}, "zeros, fully connected": {"ls": ":"}}
    handles = [Line2D([], [], color=COLOUR[net], lw=1.8, label=net) for net in NETS]
    handles += [Line2D([], [], label=label, **{"color": GREY, "lw": 1.2, **style})
                for label, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, columnspacing=1.3, **where)


def draw_zeros(ax, results, counts=True):
    """Zeros of each layer, of each kind and of all; the dense net's as a tick."""
    layers, sums = zero_counts(results)
    bars = layers + list(sums.values())
    ys = [i + .6 * (i >= len(layers)) for i in range(len(bars))]
    for y, (_, dense, zeros, weights) in zip(ys, bars):
        ax.barh(y, 100, height=.66, color="#F2F2F2")
        strength = .8 if y > len(layers) else .55
        ax.barh(y, 100 * zeros / weights, height=.66, color=COLOUR["sparse"], alpha=strength)
        ax.plot([100 * dense / weights], [y], "|", color=COLOUR["dense"], ms=8, mew=2.5, clip_on=False)
        label = percent(zeros / weights) + (f"   {zeros:,} of {weights:,}" if counts else "")
        ax.text(102, y, label, va="center", fontsize=8)
    ax.set_yticks(ys, [short(bar[0], 22) for bar in bars])
    ax.set(xlim=(0, 100), ylim=(ys[-1] + .5, -.5))
    ax.set_title("Zeros, % (tick: dense)")
    ax.spines[["left", "bottom"]].set_visible(False)


def draw_accuracy(ax, results, title, path):
    """Accuracy overall, its mean, and class by class: a ring for the dense net, a dot for the sparse one."""
    pairs = [both(results, *path, "accuracy"), both(results, *path, "mean")]
    pairs += [both(results, *path, "per_class", c) for c in results["data"]["classes"]]
    ys = [i + .5 * (i > 1) for i in range(len(pairs))]
    for y, pair in zip(ys, pairs):
        if None in pair:
            ax.text(.5, y, "not in this set", transform=ax.get_yaxis_transform(), ha="center", va="center",
                    color=GREY, fontsize=8, backgroundcolor="white")
        else:
            ax.plot(100 * np.array(pair), [y, y], color="#C8C8C8", lw=2, zorder=1)
            ax.plot(100 * pair[0], y, "o", color=COLOUR["dense"], ms=8, mew=1.8, mfc="white", label="dense")
            ax.plot(100 * pair[1], y, "o", color=COLOUR["sparse"], ms=5, label="sparse")
    ax.set_yticks(ys, ["overall", "mean"] + [short(c, 18) for c in results["data"]["classes"]])
    ax.set_ylim(ys[-1] + .6, -.6)
    ax.set_title(title)
    ax.margins(x=.08)
    ax.spines["left"].set_visible(False)
    ax.grid(color=PALE, lw=.8)


def draw_confusion(ax, results, net):
    """Rows: the true class, in percent of its images; columns: the net's answer."""
    counts = np.array(results["nets"][net]["test"]["confusion"], float)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cmap = LinearSegmentedColormap.from_list(net, ["white", COLOUR[net]])
    ax.imshow(share, cmap=cmap, norm=PowerNorm(.5, 0, 100))       # the square root shows a few percent too
    for i, j in zip(*np.nonzero(counts)):
        ax.text(j, i, f"{share[i, j]:.1f}", ha="center", va="center", fontsize=8,
                color="white" if share[i, j] > 35 else INK)
    classes = [short(c, 14) for c in results["data"]["classes"]]
    ax.set_xticks(range(len(classes)), classes, rotation=90 if len(classes) > 6 else 0, fontsize=8, color=INK)
    ax.set_yticks(range(len(classes)), classes, fontsize=8)
    ax.set(xlabel="answer", ylabel="truth")
    ax.set_title(f"{net.capitalize()}, % of each true class")
    ax.spines[:].set_visible(False)


def draw_filters(ax, weights, mask, title, columns, rows):
    """The first filters of a layer, a column of tiles each: in colour if RGB, then channel by channel.

    As many filters and channels as fit into so many rows and columns of tiles.
    """
    rgb = weights.shape[1] == 3
    blocks = -(-len(weights) // columns)             # rows of filters
    blocks = min(blocks, max(1, rows // (weights.shape[1] + rgb)))
    weights = np.nan_to_num(np.asarray(weights, float))
    strong = np.quantile(np.abs(weights), .99).clip(1e-12)      # a few giants would leave the others pale
    weights = weights[:columns * blocks, :rows]
    n, channels, k, _ = weights.shape
    largest = np.abs(weights).max((1, 2, 3), keepdims=True).clip(1e-12)
    tiles = list(matplotlib.colormaps["BrBG"](.5 + .5 * weights / strong)[..., :3].swapaxes(0, 1))
    if rgb:
        tiles.insert(0, (.5 + .5 * weights / largest).transpose(0, 2, 3, 1))
    cell, gap = 6, 3                                 # pixels a weight, pixels between tiles
    side = k * cell + gap
    tall = len(tiles) * side + 2 * gap
    sheet, crosses = np.ones((blocks * tall, columns * side, 3)), []
    for row, i in np.ndindex(len(tiles), n):
        y, x = i // columns * tall + row * side, i % columns * side
        sheet[y:y + k * cell, x:x + k * cell] = tiles[row][i].repeat(cell, 0).repeat(cell, 1)
        channel = row - rgb
        if mask is not None and channel >= 0:
            crosses += [(x + (b + .5) * cell - .5, y + (a + .5) * cell - .5)
                        for a, b in np.argwhere(~mask[i, channel])]
    ax.imshow(sheet)
    ax.plot(*np.reshape(crosses, (-1, 2)).T, "x", color=INK, ms=2.2, mew=.6)
    names = ["RGB", "R", "G", "B"] if rgb else range(1, channels + 1)
    places = [i * tall + row * side + k * cell / 2 for i in range(blocks) for row in range(len(tiles))]
    ax.set_yticks(places, [str(name) for name in names] * blocks, fontsize=7, color=GREY)
    ax.set_xticks([])
    ax.set_title(title)
    ax.spines[:].set_visible(False)


def draw_predictions(ax, results, examples, columns=10, rows=(2, 4)):
    """Test images that the sparse net names rightly, then some that it does not, spread over the classes."""
    classes, truth = results["data"]["classes"], np.asarray(examples["truth"])
    right = np.asarray(examples["sparse"]) == truth
    top = 0
    for word, chosen, height in zip(("right", "wrong"), (right, ~right), rows):
        ax.text(.05, top + .12, f"The sparse net is {word}", fontweight="bold", fontsize=10.5)
        ax.text(columns - .05, top + .12, "above: truth; below: answers of the dense and the sparse net, bold if wrong",
                ha="right", fontsize=7.5, color=GREY)
        chosen = np.flatnonzero(chosen)
        nth = [np.sum(truth[chosen[:i]] == t) for i, t in enumerate(truth[chosen])]     # of its class so far
        chosen = chosen[np.lexsort((truth[chosen], nth))][:columns * height]
        for place, i in enumerate(chosen):
            x, y = place % columns, top + .5 + 1.5 * (place // columns)
            ax.imshow(np.moveaxis(examples["images"][i], 0, -1), extent=(x + .06, x + .94, y + .88, y))
            lines = [(y - .05, classes[truth[i]], {"va": "bottom"})]
            for net, below in zip(NETS, (1.07, 1.22)):
                answer = examples[net][i]
                text = classes[answer] if net == "dense" else (
                    f"{short(classes[answer], 10)} {100 * examples['scores_sparse'][i][answer]:.0f} %")
                lines.append((y + below, text, {"va": "baseline", "color": COLOUR[net],
                                                "fontweight": "normal" if answer == truth[i] else "bold"}))
            for at, text, style in lines:
                ax.text(x + .5, at, short(text, 16), ha="center", fontsize=7.5, **style)
        top += .6 + 1.5 * -(-len(chosen) // columns)
    ax.set(xlim=(0, columns), ylim=(top, -.1))
    ax.set_axis_off()
    ax.figure.set_size_inches(11, 1.1 * top)


# Pages

def draw_overview(figure, results, pictures):
    """One page: the sums of the table drawn as text, and four panels."""
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    page = left.add_axes((.04, .07, .95, .87))
    page.set_axis_off()
    page.set_title("Dense and sparse, side by side", fontsize=14)
    rows = [HEAD] + table(results, detail=0)
    for i, row in enumerate(rows):
        bold = "bold" if i == 0 or not row.dense else "normal"
        y = 1 - (i + .5) / len(rows)
        for x, text, side in zip((.015, .45, .58, .61, .82), row, ("left", "right", "right", "left", "left")):
            page.text(x if row.dense else 0, y, text.replace(", at", ",\nat"), ha=side, va="center",
                      fontsize=8.5, fontweight=bold)
    left.text(.04, .03, short(results["command"], 130), fontsize=7.5, color=GREY)
    panels = right.subplots(2, 2)
    draw_curve(panels[0, 0], results, "accuracy")
    draw_accuracy(panels[0, 1], results, "Test accuracy, %", ["test"])
    draw_zeros(panels[1, 0], results, counts=False)
    draw_filters(panels[1, 1], pictures["filters"]["sparse"], pictures["mask"], "Sparse: filters", 8, 8)
    curve_legend(right, fontsize=8)


def draw(results, pictures):
    """(file name, caption, Figure) of every picture, one after the other."""
    classes, layers = len(results["data"]["classes"]), len(results["nets"]["sparse"]["layers"])
    figure = Figure(figsize=(16, 8))
    draw_overview(figure, results, pictures)
    yield "overview.png", "The whole on one page", figure

    figure = Figure(figsize=(11, 4.2))
    for ax, measure in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        draw_curve(ax, results, measure)
    curve_legend(figure)
    yield "learning_curves.png", "Learning curves; behind them the zeros that the schedule asked for", figure

    sets = image_sets(results)
    figure = Figure(figsize=(max(6, 3.2 * len(sets)), 1.6 + .3 * classes))
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for ax, (name, _, path, n) in zip(axes, sets):
        draw_accuracy(ax, results, f"{short(name, 14)}, {n} images", path)
    figure.legend(handles=axes[0].lines[1:3], loc="outside lower center", ncols=2)
    yield "accuracy.png", "Accuracy in percent on every set, class by class", figure

    figure = Figure(figsize=(9, 1.8 + .28 * layers))
    draw_zeros(figure.subplots(), results)
    yield "zeros.png", "Zeros of each layer", figure

    side = 2.6 + .42 * classes
    figure = Figure(figsize=(2 * side, side), layout="compressed")
    for ax, net in zip(figure.subplots(1, 2), NETS):
        draw_confusion(ax, results, net)
    yield "confusion.png", "Confusion on the test set: a row is a true class, a column an answer", figure

    figure = Figure(figsize=(13, 7.2), layout="compressed")
    for ax, net, mask in zip(figure.subplots(1, 2), NETS, (None, pictures["mask"])):
        draw_filters(ax, pictures["filters"][net], mask, net.capitalize(), columns=16, rows=16)
    yield ("filters.png", "Filters of the first masked layer: brown below zero, green above; crosses where "
           "the mask holds a zero", figure)

    figure = Figure()
    draw_predictions(figure.subplots(), results, pictures["examples"])
    yield ("predictions.png", "Test images: the truth above; below, the dense net's answer (blue) and the "
           "sparse net's with its probability (orange); wrong answers bold", figure)


def as_page(results, found, captions):
    """report.md"""
    data = results["data"]
    listed = {part: ", ".join(f"{key} {value}" for key, value in results[part].items())
              for part in ("machine", "settings")}
    parts = ["# Dense and sparse, side by side", f"```\n{results['command']}\n```",
             f"- Data: {data['name']}; {data['train']} images for training, {data['held_out']} held out, "
             f"{data['test']} for testing, {len(data['left_out'])} left out as unreadable; classes "
             f"{', '.join(data['classes'])}\n"
             f"- Machine: {listed['machine']}\n- Settings: {listed['settings']}",
             "## In words", "\n".join(f"- {line}" for line in summary(found) + [f.sentence for f in found]),
             "Noise: two binomial standard errors of the difference, as if the nets had seen different "
             "images; they saw the same, so the true error is, as a rule, smaller. Of each set's classes only those "
             "with the largest loss and the largest gain are named here: one may pass that bound by chance. "
             f"Times within {percent(TIE)} of each other count as equal.",
             "## Table", as_markdown(table(results, detail=2)), "## Pictures"]
    parts += [f"![{caption}]({name})\n\n{caption}." for name, caption in captions.items()]
    if data["left_out"]:
        parts += [f"## Left out: {len(data['left_out'])} images",
                  "\n".join(f"- {line}" for line in data["left_out"])]
    return "\n\n".join(parts) + "\n"


# Files

def plain(value):
    """`value` with NumPy's numbers as Python's, and NaN and infinities as None (JSON has neither)."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(out, results, pictures):
    """Write report.md, report.json and the pictures into folder `out`; return table and summary as text."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    results, captions = plain(results), {}
    text = json.dumps(results, indent=1, allow_nan=False)
    write_atomically(out / "report.json", text.encode())
    with matplotlib.rc_context(STYLE):
        for name, captions[name], figure in draw(results, pictures):
            picture = io.BytesIO()
            figure.savefig(picture, format="png")
            write_atomically(out / name, picture.getbuffer())
    found = findings(results)
    write_atomically(out / "report.md", as_page(results, found, captions).encode())
    return "\n".join([as_text(table(results)), "", *summary(found)])
