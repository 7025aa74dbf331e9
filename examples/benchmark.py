"""Speed beside the peers, in one process and in turn, as ratios of medians.

    python examples/benchmark.py train [--batch 64] [--threads 1]       one training step of the animals net

PyTorch joins in where it is installed (pip install -e '.[peers]'). Times vary from machine to machine and from hour to
hour; the ratios, measured in turn, much less.
"""
import argparse
import platform
import statistics
import sys
import time

import numpy as np

import minisparse as ms
from minisparse import nn, optim, sparse

from animal_net import animal_net

CLASSES = 6


def minisparse_step(images, labels, targets=None):
    """A function that takes one training step: forward, backward, SGD with momentum, masks."""
    ms.manual_seed(0)
    model = animal_net(CLASSES)
    model.whiten.weight.requires_grad_(False)
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.85, nesterov=True)
    pruner = targets and sparse.Pruner(model, targets, sparse.OneShot())
    # (C, H, W, N) memory, as the loader hands it over
    x = ms.Tensor(np.ascontiguousarray(images.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2))
    y = ms.Tensor(labels)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def step():
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
        if pruner:
            pruner.step()
    return step


def torch_step(images, labels, channels_last):
    """The same step in PyTorch."""
    import torch
    layers = []
    for layer in animal_net(CLASSES).children():
        kind = getattr(torch.nn, type(layer).__name__)
        if kind is torch.nn.Conv2d:
            layers.append(kind(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding,
                               bias=layer.bias is not None))
        elif kind is torch.nn.Linear:
            layers.append(kind(layer.in_features, layer.out_features, bias=layer.bias is not None))
        elif kind in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
            layers.append(kind(layer.num_features))
        elif kind is torch.nn.MaxPool2d:
            layers.append(kind(layer.kernel_size))
        else:
            layers.append(kind())
    order = torch.channels_last if channels_last else torch.contiguous_format
    model = torch.nn.Sequential(*layers).to(memory_format=order)
    layers[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.85,
                                nesterov=True)
    x, y = torch.from_numpy(images).contiguous(memory_format=order), torch.from_numpy(labels)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def step():
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return step


def in_turn(functions, rounds):
    """{name: median seconds}: each function once a round, after one round that is not counted."""
    times = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if i:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def train(args):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((args.batch, 3, 32, 32), np.float32)
    labels = rng.integers(0, CLASSES, args.batch)
    steps = {"minisparse dense": minisparse_step(images, labels),
             "minisparse conv 60 FC 75": minisparse_step(images, labels, {nn.Conv2d: 0.6, nn.Linear: 0.75,
                                                                          "whiten": None})}
    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    try:
        import torch
        torch.set_num_threads(args.threads)
        versions.append(f"PyTorch {torch.__version__}")
        steps["PyTorch"] = torch_step(images, labels, channels_last=False)
        steps["PyTorch channels last"] = torch_step(images, labels, channels_last=True)
    except ImportError:
        print("PyTorch is not installed: no peer to compare with")
    medians = in_turn(steps, args.rounds)
    peers = [seconds for name, seconds in medians.items() if name.startswith("PyTorch")]
    print(f"one training step of the animals net, batch {args.batch}, {args.threads} thread(s); {', '.join(versions)}")
    for name, seconds in medians.items():
        ratio = f"  {seconds / min(peers):.2f} of the faster PyTorch" if peers else ""
        print(f"  {name:26} {1000 * seconds:8.1f} ms  {seconds / medians['minisparse dense']:.2f} of own dense{ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    ms.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    sys.exit(main())
