"""Train one net: the loop, its checkpoints and its progress line."""
import copy
import dataclasses
import datetime
import shutil
import time
import zlib
from dataclasses import dataclass

import numpy as np

import minisparse as ms
from minisparse import data, nn, optim, sparse

from animal_net import animal_net, whiten


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, besides the data and the seed."""

    widths: tuple = (64, 256, 256)
    hidden: int = 256
    epochs: int = 24
    batch: int = 256            # a multiple of 16 keeps the sparse kernels on whole cache lines
    optimizer: str = "nesterov"     # see OPTIMIZERS
    lr: float = 1.46e-3         # the highest learning rate; it rises to it over `warmup`, then falls
    warmup: float = 0.23        # share of all steps
    weight_decay: float = 1.33e-3
    smoothing: float = 0.2      # label smoothing
    l1: float = 1e-3            # see `penalty`
    shift: int = 4              # see data.Augment
    cutout: int = 8
    looks: tuple = (0, -1, 1)   # shifts of the looks at a test image, see Run.looks
    method: str = "gradual"     # see METHODS
    conv: float = 0.6           # zeros of the convolutions, and of the fully connected layers, at the end
    linear: float = 0.75
    overall: float = None       # in place of these two: zeros of all weights, shared out over the layers
    prune: tuple = (0.15, 0.6)  # when sparsity begins and when it is reached, as shares of all steps


def accuracy(scores, labels):
    return float(np.mean(scores.argmax(axis=1) == labels))


def without_zeros(recipe):
    """The same recipe without anything that makes zeros."""
    return dataclasses.replace(recipe, method=None, l1=0.0, conv=0.0, linear=0.0, overall=None)


def targets(model, recipe):
    """{layer: sparsity at the end}. The first layer, which is frozen, stays dense."""
    if recipe.overall is None:
        return {nn.Conv2d: recipe.conv, nn.Linear: recipe.linear, "whiten": None}
    return sparse.erk(model, recipe.overall, dense=["whiten"])


def adamw(model, recipe, batch):
    """The article's choice. It takes recipe.lr as it is."""
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], recipe.lr,
                            weight_decay=recipe.weight_decay)
    return optimizer, 1000


def nesterov(model, recipe, batch):
    """Nesterov's momentum as Jordan sets it (arXiv:2404.00498): batch norm only shifts, at 64 times the rate.

    recipe.lr is the rate for the loss summed over a batch, so a larger batch takes longer steps.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.weight.requires_grad_(False)
    shifts = [norm.bias for norm in norms]
    others = [p for p in model.parameters() if p.requires_grad and p not in set(shifts)]
    lr, decay = recipe.lr * batch, recipe.weight_decay
    optimizer = optim.SGD([{"params": others, "lr": lr, "weight_decay": decay},
                           {"params": shifts, "lr": 64 * lr, "weight_decay": decay / 64}], momentum=0.85, nesterov=True)
    return optimizer, 0.2 / 0.07


# (model, recipe, batch size) -> an optimizer, and how many times less than its first learning rate the last one is
OPTIMIZERS = {"adamw": adamw, "nesterov": nesterov}


# How a net becomes sparse: (model, recipe, steps of the run, steps of an epoch) -> a Pruner. SET and RigL are sparse
# from the first step, under masks drawn at random, so they begin with random filters (see animal_net). A lottery
# ticket takes the dense net's weights after its first epoch, under the masks of those it ended with (draw_ticket).
METHODS = {
    "gradual": lambda model, recipe, steps, epoch_steps:
        sparse.Pruner(model, targets(model, recipe), sparse.Cubic(*gradually(recipe, steps))),
    "global": lambda model, recipe, steps, epoch_steps:
        sparse.Pruner(model, targets(model, recipe), sparse.Cubic(*gradually(recipe, steps)), scope="global"),
    "one-shot": lambda model, recipe, steps, epoch_steps:
        sparse.Pruner(model, targets(model, recipe), sparse.OneShot(steps // 2)),
    "set": lambda model, recipe, steps, epoch_steps:
        sparse.SET(model, targets(model, recipe), sparse.Constant(0, max(1, steps * 3 // 4), every=epoch_steps)),
    "rigl": lambda model, recipe, steps, epoch_steps:
        sparse.RigL(model, targets(model, recipe), sparse.Constant(0, max(1, steps * 3 // 4), every=100)),
    "lottery": lambda model, recipe, steps, epoch_steps:
        sparse.Pruner(model, targets(model, recipe), sparse.OneShot(0)),
}


LOOKAHEAD = 2560        # images between two averages of the weights; the last one reaches back about four times as far
WHITENING = 3           # epochs in which the first layer's biases learn; its weights are frozen from the start
FROM_SCRATCH = ("set", "rigl")      # sparse from the first step, with masks drawn at random


def gradually(recipe, steps):
    """(start, end, every) of a schedule that takes about twenty updates."""
    start, end = (round(share * steps) for share in recipe.prune)
    return start, max(end, start + 1), max(1, min(100, (end - start) // 20))


class RunError(ValueError):
    """A run that cannot begin or go on: one or two lines that say why and what to do."""


class Run:
    """One net in training: model, optimizer, schedules and pruner, with one state that a checkpoint holds.

    Runs of one seed see the same batches and, but for SET, RigL and lottery tickets, begin with the same weights.
    """

    def __init__(self, name, train, held_out, stats, recipe, seed, path):
        ms.manual_seed(seed)
        model = animal_net(len(train.classes), recipe.widths, recipe.hidden,
                           identities=recipe.method not in FROM_SCRATCH)
        whiten(model, train.images, *stats)
        self.name, self.model, self.recipe, self.path, self.held_out = name, model, recipe, path, held_out
        self.stats = dict(zip(("mean", "std"), stats))
        self.loader = data.Loader(train.images, train.labels, min(recipe.batch, len(train)), seed=seed, drop_last=True,
                                  augment=data.Augment(shift=recipe.shift, cutout=recipe.cutout),
                                  **self.stats)
        steps = recipe.epochs * len(self.loader)
        optimizer, fall = OPTIMIZERS[recipe.optimizer](model, recipe, self.loader.batch_size)
        self.scheduler = optim.lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps + 1,
            pct_start=recipe.warmup, anneal_strategy="linear", cycle_momentum=False, div_factor=5,
            final_div_factor=fall)
        self.optimizer = optim.Lookahead(optimizer, k=max(1, LOOKAHEAD // self.loader.batch_size))
        try:
            self.pruner = METHODS[recipe.method](model, recipe, steps, len(self.loader)) if recipe.method else None
        except ValueError as error:
            raise RunError(f"{error}.\nAsk for fewer zeros.") from None
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
        self.steps = steps
        images = zlib.crc32(held_out.images, zlib.crc32(train.labels, zlib.crc32(train.images)))
        self.settings = dataclasses.asdict(recipe) | {
            "seed": seed, "classes": train.classes, "training images": len(train), "images (CRC-32)": images}
        self.epoch, self.history, self.losses = 0, [], []      # losses: [step, mean loss since the one before]
        self.early = None           # the model's state after the first epoch, where lottery tickets rewind to

    def penalty(self):
        """lambda / B sum |w|: the article's penalty, with lambda on the scale of the loss summed over a batch of B.

        The loss is a mean over the batch, so the penalty is divided as well. Undivided, the article's 0.001 would
        outweigh the classes: a million weights of 0.02 would cost 20, and the classes cost less than 2.
        """
        return sparse.l1(self.model) * (self.recipe.l1 / self.loader.batch_size)

    def train(self, progress):
        """Train what is left to train, an epoch at a time, each followed by a checkpoint."""
        while self.epoch < self.recipe.epochs:
            self.model.train()
            self.model.whiten.bias.requires_grad_(self.epoch < WHITENING)
            waited, worked, began = self.loader.waited, self.loader.worked, time.perf_counter()
            correct = total = steps = 0
            running = recent = 0.0
            for x, y in self.loader.epoch(self.epoch):
                scores = self.model(ms.Tensor(x))
                loss = self.loss(scores, ms.Tensor(y))
                value = loss.item()     # without the penalty: comparable between the nets
                if not np.isfinite(value):
                    raise RunError(f"{self.name}: the loss is {value} in epoch {self.epoch + 1}.\n"
                                   "Lower the learning rate (lr of the preset).")
                if self.recipe.l1:
                    loss = loss + self.penalty()
                self.model.zero_grad()
                loss.backward()
                self.optimizer.alpha = 1 - 0.95 ** 5 * (self.scheduler.last_epoch / self.steps) ** 3
                self.optimizer.step()
                self.scheduler.step()
                if self.pruner:
                    self.pruner.step()
                if self.scheduler.last_epoch == self.steps:
                    self.optimizer.average()
                steps += 1
                recent += value
                if steps % 10 == 0:
                    self.losses.append([self.epoch * len(self.loader) + steps, recent / 10])
                    recent = 0.0
                total += len(y)
                correct += int(np.sum(scores.data.argmax(axis=1) == y))
                running += value * len(y)
                progress.show(self, total, running / total, correct / total, time.perf_counter() - began)
            seconds = time.perf_counter() - began
            rows = {row.name: row.sparsity for row in sparse.summary(self.model)[-3:]}
            held_out = accuracy(self.looks(self.held_out.images).mean(axis=0), self.held_out.labels)
            self.epoch += 1
            self.early = self.early or copy.deepcopy(self.model.state_dict())
            self.history.append({
                "epoch": self.epoch, "step": self.epoch * len(self.loader), "loss": running / total,
                "accuracy": correct / total, "held_out": held_out, "lr": self.scheduler.get_last_lr()[0],
                "sparsity": rows["all"], "conv": rows["conv"], "linear": rows["linear"],
                "seconds": seconds, "images_per_second": total / seconds,
                "waited": self.loader.waited - waited, "worked": self.loader.worked - worked})
            self.save()
            progress.line(self)

    def draw_ticket(self, twin):
        """Before training: the dense twin's weights after its first epoch, under masks made of those it ended with."""
        self.model.load_state_dict(twin.model.state_dict())
        self.pruner = METHODS["lottery"](self.model, self.recipe, self.steps, len(self.loader))
        sparse.rewind(self.model, twin.early)

    def look(self, images):
        """Scores (n, classes) of uint8 images (n, 3, S, S), in evaluation mode."""
        self.model.eval()
        loader = data.Loader(images, np.zeros(len(images), np.int64), batch_size=500, shuffle=False, **self.stats)
        with ms.no_grad():
            return np.concatenate([self.model(ms.Tensor(x)).numpy() for x, _ in loader.epoch(0)])

    def looks(self, images, shifts=(0,)):
        """Scores (looks, n, classes) of the images as they are and mirrored, for each shift.

        Shifted down and to the right by so many pixels, borders reflected. The mean of the scores is more accurate than
        one look; Jordan (arXiv:2404.00498) takes six, with shifts of -1, 0 and 1.
        """
        scores = []
        for shift in shifts:
            border, start = abs(shift), abs(shift) - shift
            view = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)), mode="reflect")
            view = view[:, :, start:start + images.shape[2], start:start + images.shape[3]]
            scores += [self.look(view), self.look(view[..., ::-1])]
        return np.stack(scores)

    def evaluate(self, images):
        """The mean of the scores of all looks that the recipe asks for, (n, classes)."""
        return self.looks(images, self.recipe.looks).mean(axis=0)

    def schedule(self, points=101):
        """[step, sparsity of convolutions, of fully connected layers] over the run, as planned; [] where dense."""
        if not self.pruner:
            return []
        layers = {kind: [(layer.weight.numel(), self.pruner.targets.get(name))
                         for name, layer in sparse.sparsifiable(self.model).items() if isinstance(layer, kind)]
                  for kind in (nn.Conv2d, nn.Linear)}

        def planned(step, kind):
            zeros = sum(n * self.pruner.schedule(step, final) for n, final in layers[kind] if final is not None)
            return zeros / sum(n for n, _ in layers[kind])
        return [[step, planned(step, nn.Conv2d), planned(step, nn.Linear)]
                for step in (round(i * self.steps / (points - 1)) for i in range(points))]

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(), "pruner": self.pruner and self.pruner.state_dict(),
                "epoch": self.epoch, "history": self.history, "losses": self.losses, "early": self.early,
                "settings": self.settings}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.pruner:
            self.pruner.load_state_dict(state["pruner"])
        self.epoch, self.history, self.losses = state["epoch"], state["history"], state["losses"]
        self.early = state["early"]

    def save(self):
        ms.save(self.state_dict(), self.path)

    def resume(self):
        """Go on from the checkpoint, where there is one; RunError where it is damaged or of another run."""
        if not self.path.exists():
            return
        try:
            state = ms.load(self.path)
            other = {name: state["settings"].get(name) for name, value in self.settings.items()
                     if state["settings"].get(name) != value}
            if not other:
                self.load_state_dict(state)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            why = " ".join(str(error).removeprefix(f"{self.path}: ").split())
            raise RunError(f"{self.path}: damaged, or not a checkpoint of this net ({why}).\n"
                           "Remove it to begin anew.") from None
        for name, value in other.items():
            raise RunError(f"{self.path}: made with {name} {value}, this run has {self.settings[name]}.\n"
                           "Go on with the same settings and data, or remove it to begin anew.")


class Progress:
    """The progress line: redrawn in place on a terminal, a plain line now and then in a log."""

    def __init__(self, stream, runs, every=15.0):
        self.stream, self.terminal, self.runs = stream, stream.isatty(), runs
        self.every = 0.2 if self.terminal else every        # seconds between two lines
        self.latest = time.perf_counter()

    def show(self, run, images, loss, accuracy, seconds):
        """In the middle of an epoch, after so many images of it."""
        now, batch = time.perf_counter(), run.loader.batch_size
        if images <= batch:
            self.first = seconds        # the first batch may wait for compilation, so it does not count for the rate
        if images <= batch or now - self.latest < self.every:
            return
        self.latest = now
        rate = (images - batch) / (seconds - self.first)
        left = sum((r.recipe.epochs - r.epoch) * len(r.loader) * batch for r in self.runs) - images
        sparsity = sparse.summary(run.model)[-1].sparsity
        text = (f"{run.name} epoch {run.epoch + 1}/{run.recipe.epochs} {images / len(run.loader.images):4.0%}  "
                f"{datetime.timedelta(seconds=round(left / rate))} left  "
                f"loss {loss:.3f}  accuracy {accuracy:.1%}  zeros {sparsity:.1%}  {rate:.0f} images/s")
        if self.terminal:       # a line that wraps could not be redrawn in place
            text = f"\r{text[:shutil.get_terminal_size().columns - 1]}\033[K"
        self.stream.write(text if self.terminal else text + "\n")
        self.stream.flush()

    def line(self, run):
        """At the end of an epoch."""
        row = run.history[-1]
        text = (f"{run.name} epoch {row['epoch']}/{run.recipe.epochs}  loss {row['loss']:.3f}  "
                f"accuracy {row['accuracy']:.1%}  held out {row['held_out']:.1%}  zeros {row['sparsity']:.1%}  "
                f"{row['seconds']:.1f} s  {row['images_per_second']:.0f} images/s")
        self.stream.write(f"\r{text}\033[K\n" if self.terminal else text + "\n")
        self.stream.flush()
