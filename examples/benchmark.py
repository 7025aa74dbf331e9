"""Speed beside the peers, in one process and in turn, as ratios of medians.

    python examples/benchmark.py train [--batch 64] [--threads 1]           one training step of the animals net
    python examples/benchmark.py inference [--batch 64 1] [--threads 1 2]   the engine, dense and at several sparsities
    python examples/benchmark.py zeros [--batch 64 1] [--plot cost.png]     the engine from 0 to 99 % zeros, and from
                                                                            which share on each layer gains by them
    python examples/benchmark.py vector                                     a sparse matrix times a vector

PyTorch and ONNX Runtime join in where they are installed (pip install -e '.[peers]'). Times vary from machine to
machine and from hour to hour; the ratios, measured in turn, much less.
"""
import argparse
import logging
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import numpy as np

import minisparse as ms
from minisparse import deploy, nn, optim, sparse
from minisparse.deploy import plan
from minisparse.kernels import inference as engine_kernels
from minisparse.kernels import load

from animal_net import animal_net
from train_animals import at_least

CLASSES = 6
ZEROS = 0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99
TRAINING = {"conv 60 FC 75": (0.6, 0.75), "conv 90 FC 90": (0.9, 0.9)}
PATTERNS = "unstructured", "block 4x1"
SPARSITIES = {"conv 55 FC 75": (0.55, 0.75), "conv 75 FC 75": (0.75, 0.75), "conv 90 FC 90": (0.9, 0.9)}


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
    step.model = model
    return step


def torch_net(model):
    """The animals net in PyTorch, with the weights of `model`."""
    import torch
    layers = OrderedDict()
    for name, layer in model.named_children():
        kind = getattr(torch.nn, type(layer).__name__)
        if kind is torch.nn.Conv2d:
            layers[name] = kind(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding,
                                bias=layer.bias is not None)
        elif kind is torch.nn.Linear:
            layers[name] = kind(layer.in_features, layer.out_features, bias=layer.bias is not None)
        elif kind in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
            layers[name] = kind(layer.num_features)
        elif kind is torch.nn.MaxPool2d:
            layers[name] = kind(layer.kernel_size)
        else:
            layers[name] = kind()
    net = torch.nn.Sequential(layers)
    net.load_state_dict({name: torch.from_numpy(tensor.data.copy()) for name, tensor in model.state_dict().items()})
    return net


def torch_step(images, labels, channels_last):
    """The same step in PyTorch."""
    import torch
    order = torch.channels_last if channels_last else torch.contiguous_format
    model = torch_net(animal_net(CLASSES)).to(memory_format=order)
    model.whiten.weight.requires_grad_(False)
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
    """{name: median seconds}: each function once a round, right after a run that is not counted.

    That one brings its data into the caches, and leaves others' threads the time to go to sleep.
    """
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            function()
            began = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def random_batch(batch):
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, 3, 32, 32), np.float32), rng.integers(0, CLASSES, batch)


def index_seconds(model):
    """How long each layer takes to prepare for a new mask: the longest, of the better of two tries."""
    def again(key, plan):
        began = time.perf_counter()
        type(plan)(plan.mask, *key)
        return time.perf_counter() - began
    plans = [item for layer in sparse.sparsifiable(model).values() for item in layer.weight.plans.items()]
    return max(min(again(*item) for _ in range(2)) for item in plans)


def resident(name):
    """Bytes in memory of this process: "VmRSS" now, "VmHWM" at most (Linux)."""
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return 1024 * int(line.split()[1])


def growth(make, batch, threads, *options):
    """Bytes that training with `batch` images takes at its peak, in a process of its own, above what steps of two
    images leave: libraries and compiled kernels."""
    ms.set_num_threads(threads)
    if make is torch_step:
        import torch
        torch.set_num_threads(threads)
    make(*random_batch(2), *options)()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")       # the peak is counted from here on
    step = make(*random_batch(batch), *options)
    for _ in range(3):
        step()
    return resident("VmHWM") - before


def train(batch, threads, rounds):
    settings = {"minisparse dense": (minisparse_step, None)}
    for name, (conv, linear) in TRAINING.items():
        settings[f"minisparse {name}"] = minisparse_step, {nn.Conv2d: conv, nn.Linear: linear, "whiten": None}
    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    try:
        import torch
        torch.set_num_threads(threads)
        versions.append(f"PyTorch {torch.__version__}")
        settings |= {"PyTorch": (torch_step, False), "PyTorch channels last": (torch_step, True)}
    except ImportError:
        print("PyTorch is not installed: no peer to compare with")
    steps = {name: make(*random_batch(batch), options) for name, (make, options) in settings.items()}
    medians = in_turn(steps, rounds)
    memory = {}
    for name, (make, options) in settings.items():
        with multiprocessing.get_context("spawn").Pool(1) as process:
            memory[name] = process.apply(growth, (make, batch, threads, options))
    peers = [name for name in medians if name.startswith("PyTorch")]
    print(f"one training step of the animals net, batch {batch}, {threads} thread(s); {', '.join(versions)}")
    for name, seconds in medians.items():
        ratio = f"  {seconds / min(medians[p] for p in peers):.2f} of the faster PyTorch" if peers else ""
        more = f"  {memory[name] / min(memory[p] for p in peers):.2f} of its memory" if peers else ""
        print(f"  {name:26} {1000 * seconds:8.1f} ms  {seconds / medians['minisparse dense']:.2f} of own dense{ratio}"
              f"  {memory[name] / 1e6:5.0f} MB{more}")
    print(f"  a new mask takes at most "
          f"{1000 * max(index_seconds(steps[f'minisparse {name}'].model) for name in TRAINING):.1f} ms a layer")


# --- inference --------------------------------------------------------------------------------------------
def trained(conv=0.0, linear=0.0, block=False):
    """An animals net in evaluation with masks by magnitude, all layers but the first; block: the pattern 4x1."""
    ms.manual_seed(0)
    model = animal_net(CLASSES, identities=False)
    for name, layer in model.named_children():
        sparsity = {nn.Conv2d: conv, nn.Linear: linear}.get(type(layer), 0)
        if sparsity and name != "whiten":
            scores = abs(layer.weight.data)
            blocks = block and len(scores) % 4 == 0     # not the last layer, one output for each class
            layer.weight.set_mask((sparse.block_mask if blocks else sparse.topk_mask)(scores, sparsity))
    return model.eval()


def torch_peers(model, images, threads, found, versions):
    """PyTorch's eager mode in both layouts, and compiled where that works (it takes a C++ compiler)."""
    import torch
    torch.set_num_threads(threads)
    versions.append(f"PyTorch {torch.__version__}")

    def peer(net, order):
        net, x = net.eval().to(memory_format=order), torch.from_numpy(images).contiguous(memory_format=order)

        def run():
            with torch.inference_mode():
                return net(x).numpy()
        return run
    found["PyTorch"] = peer(torch_net(model), torch.contiguous_format)
    found["PyTorch channels last"] = peer(torch_net(model), torch.channels_last)
    try:
        torch._dynamo.reset()
        compiled = peer(torch.compile(torch_net(model).eval()), torch.channels_last)
        compiled()
        found["PyTorch compiled"] = compiled
    except Exception as error:      # whatever is missing
        print(f"PyTorch compiled: left out ({str(error).strip().splitlines()[0][:100]})")


def onnx_peers(model, images, threads, found, versions, folder):
    """ONNX Runtime in float32, and with 8-bit weights and activations, calibrated on the images."""
    import onnxruntime
    from onnxruntime import quantization
    versions.append(f"ONNX Runtime {onnxruntime.__version__}")
    deploy.to_onnx(model, folder / "float.onnx", (3, 32, 32))

    class Images(quantization.CalibrationDataReader):
        batches = iter([{"images": images}] * 2)

        def get_next(self):
            return next(self.batches, None)
    logging.disable(logging.WARNING)        # its advice on preparing models
    quantization.quantize_static(folder / "float.onnx", folder / "int8.onnx", Images(), per_channel=True)
    logging.disable(logging.NOTSET)
    for name, file in ("ONNX Runtime", "float.onnx"), ("ONNX Runtime int8", "int8.onnx"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        found[name] = lambda session=session: session.run(None, {"images": images})[0]


def with_peers(dense, runs, images, threads, rounds):
    """(medians of runs and of all peers that are installed, the names of the dense ones in float32, versions).

    runs: {name: function}, of which the first is the net `dense`, whose scores the peers must have.
    """
    peers, versions = {}, [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    with tempfile.TemporaryDirectory() as folder:
        for add, more in (torch_peers, ()), (onnx_peers, (Path(folder),)):
            try:
                add(dense, images, threads, peers, versions, *more)
            except ImportError as error:
                print(f"left out: {error}")
        scores = next(iter(runs.values()))()
        for name, run in peers.items():
            if "int8" not in name:
                np.testing.assert_allclose(run(), scores, rtol=0, atol=1e-3, err_msg=name)
        medians = in_turn(runs | peers, rounds)
    return medians, [name for name in peers if "int8" not in name], ", ".join(versions)


def inference(batch, threads, rounds):
    images, dense = random_batch(batch)[0], trained()
    runs = {"minisparse dense": deploy.compile(dense, (3, 32, 32))}
    for name, (conv, linear) in SPARSITIES.items():
        for pattern in PATTERNS:
            model = trained(conv, linear, pattern == "block 4x1")
            runs[f"minisparse {name}, {pattern}"] = deploy.compile(model, (3, 32, 32))
    runs = {name: lambda engine=engine: engine(images) for name, engine in runs.items()}
    medians, peers, versions = with_peers(dense, runs, images, threads, rounds)
    fastest = min((medians[name] for name in peers), default=None)
    print(f"inference of the animals net, batch {batch}, {threads} thread(s); {versions}")
    print(f"  {'':42} {'ms':>8}  {'times own dense':>15}" + ("  times the fastest dense peer" if fastest else ""))
    for name, seconds in medians.items():
        ratio = f"  {fastest / seconds:>28.2f}" if fastest else ""
        print(f"  {name:42} {1000 * seconds:8.2f}  {medians['minisparse dense'] / seconds:>15.2f}{ratio}")


# --- cost against zeros -----------------------------------------------------------------------------------
def zeros(batch, threads, rounds, file):
    """The whole net with the same share of zeros in all layers, a table and a plot; then the layers one by one."""
    images, dense = random_batch(batch)[0], trained()
    runs = {}
    for share in ZEROS:
        for pattern in PATTERNS:
            engine = deploy.compile(trained(share, share, pattern == "block 4x1"), (3, 32, 32))
            runs[share, pattern] = lambda engine=engine: engine(images)
    medians, peers, versions = with_peers(dense, runs, images, threads, rounds)
    print(f"milliseconds of the animals net by its zeros, batch {batch}, {threads} thread(s); {versions}")
    print(f"  {'zeros':>6}  {'unstructured':>12}  {'block 4x1':>12}")
    for share in ZEROS:
        print(f"  {share:>6.0%}" + "".join(f"  {1000 * medians[share, pattern]:>12.2f}"
                                          for pattern in PATTERNS))
    for name in peers:
        print(f"  {name}: {1000 * medians[name]:.2f}")
    print(f"  {'layer':>18}  {'input':>14}  {'dense ms':>8}  sparse kernels pay from ... zeros on")
    for layer, shape in layers(dense):
        own, found = break_even(layer, shape, batch, rounds)
        text = ", ".join(f"{name} {share:.0%}" if share < 1 else f"{name} never" for name, share in found.items())
        print(f"  {'x'.join(map(str, layer.weight.shape)):>18}  {'x'.join(map(str, shape)):>14}  "
              f"{1000 * own:>8.3f}  {text}")
    if file:
        plot(medians, peers, batch, threads, file)


def plot(medians, peers, batch, threads, file):
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="zeros in every layer, %", ylabel="milliseconds",
                              title=f"Inference of the animals net, batch {batch}, {threads} thread(s)")
    for pattern in PATTERNS:
        axes.plot([100 * share for share in ZEROS], [1000 * medians[share, pattern] for share in ZEROS], marker="o",
                  label=f"minisparse, {pattern}")
    for i, name in enumerate(peers):
        axes.axhline(1000 * medians[name], color=f"C{i + 2}", linestyle="--", label=f"{name}, dense")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, dpi=150)


def layers(model):
    """[(layer, shape of its input)] of the convolutions and linear layers, each pair once."""
    engine, found = deploy.compile(model, (3, 32, 32)), {}
    modules = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    steps = [(step, i) for i, step in enumerate(engine.steps) if "weight" in step.arrays]
    for module, (step, i) in zip(modules, steps):
        found[module.weight.shape, (engine.shapes[i - 1] if i else engine.input_shape)] = module
    return [(module, shape) for (_, shape), module in found.items()]


def break_even(layer, shape, batch, rounds):
    """(seconds of the dense kernel, {sparse kernel: from which share of zeros on it is faster, 1 for never})."""
    images = np.random.default_rng(0).standard_normal((batch, *shape), np.float32)

    def run(name, share, pattern):
        layer.weight.set_mask(pattern(abs(layer.weight.data), share))
        def choose(*of):        # not the cheapest, as the engine would
            return next(kernel for kernel in engine_kernels.choices(*of) if kernel.name == name)
        with mock.patch.object(plan, "cheapest", choose):
            engine = deploy.compile(nn.Sequential(layer), shape)
            engine.warmup(batch)
        layer.weight.set_mask(None)
        return lambda: engine(images)
    weights = layer.weight.data.copy()
    kernels = {"csr": sparse.topk_mask} if batch == 1 and weights.ndim == 2 else {"direct": sparse.topk_mask}
    if "csr" not in kernels and len(weights) % 4 == 0:
        kernels["block 4x1"] = sparse.block_mask
    runs = {"dense": run("dense", 0, sparse.topk_mask)}
    for name, pattern in kernels.items():
        for share in ZEROS:
            layer.weight.data[...] = weights        # the masks before set some to 0
            runs[name, share] = run(name, share, pattern)
    layer.weight.data[...] = weights
    medians = in_turn(runs, rounds)
    return medians["dense"], {name: first_faster([medians[name, share] for share in ZEROS], medians["dense"])
                              for name in kernels}


def first_faster(seconds, limit):
    """The share of zeros, between those of ZEROS, from which on `seconds` stay below the limit; 1 if they do not."""
    slower = [i for i, s in enumerate(seconds) if s > limit]
    if not slower:
        return 0.0
    i = slower[-1]
    if i == len(ZEROS) - 1:
        return 1.0
    part = (seconds[i] - limit) / (seconds[i] - seconds[i + 1])
    return ZEROS[i] + part * (ZEROS[i + 1] - ZEROS[i])


def vector(rounds):
    """The fully connected layer on one image: the engine's CSR product beside SciPy's, and NumPy's with the zeros."""
    rng, kernel = np.random.default_rng(0), load("csr").multiply_vector
    try:
        from scipy.sparse import csr_array
    except ImportError:
        csr_array = None
        print("SciPy is not installed: no peer to compare with")
    print(f"microseconds of a matrix times a vector, 1 thread; NumPy {np.__version__}")
    print(f"  {'matrix':>10}  {'zeros':>6}  {'minisparse':>10}  {'SciPy':>8}  {'NumPy dense':>11}")
    for size in 256, 1024:
        for share in 0.5, 0.6, 0.75, 0.85, 0.9, 0.95, 0.99:
            dense, x = rng.standard_normal((size, size), np.float32), rng.standard_normal(size, np.float32)
            dense *= sparse.topk_mask(abs(dense), share)
            row, column = np.nonzero(dense)
            matrix = (np.searchsorted(row, np.arange(size + 1)).astype(np.uint64), column.astype(np.uint32),
                      dense[row, column], x, np.empty(size, np.float32))
            runs = {"ours": lambda: kernel(*matrix), "dense": lambda: dense @ x}
            if csr_array is not None:
                other = csr_array(dense)
                runs["SciPy"] = lambda: other @ x
                kernel(*matrix)
                np.testing.assert_allclose(matrix[-1], other @ x, rtol=1e-3, atol=1e-3)
            medians = in_turn(runs, rounds)
            print(f"  {size:>4} x {size:<4} {share:>6.0%}" + "".join(
                f"  {1e6 * medians.get(name, float('nan')):>{width}.1f}"
                for name, width in (("ours", 10), ("SciPy", 8), ("dense", 11))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "inference", "zeros", "vector"])
    parser.add_argument("--batch", type=at_least(1), nargs="+", help="train: 64; inference, zeros: 64 1")
    parser.add_argument("--threads", type=at_least(1), nargs="+", help="inference: 1 2; else 1")
    parser.add_argument("--rounds", type=at_least(1), default=10)
    parser.add_argument("--plot", metavar="FILE", help="zeros: draw the cost (of the last batch and threads)")
    args = parser.parse_args()
    if args.plot and (args.what != "zeros" or not os.path.isdir(os.path.dirname(args.plot) or ".")):
        parser.error(f"--plot goes with zeros, and needs a folder that is there, got {args.plot}")
    for threads in args.threads or ([1, 2] if args.what == "inference" else [1]):
        ms.set_num_threads(threads)
        if args.what == "vector":
            vector(20 * args.rounds)
            continue
        for batch in args.batch or ([64] if args.what == "train" else [64, 1]):
            # one image takes so little time that more rounds cost nothing
            rounds = args.rounds if batch > 8 or args.what == "train" else 10 * args.rounds
            if args.what == "zeros":
                zeros(batch, threads, rounds, args.plot)
            else:
                (train if args.what == "train" else inference)(batch, threads, rounds)


if __name__ == "__main__":
    sys.exit(main())
