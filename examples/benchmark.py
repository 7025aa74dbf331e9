"""Speed beside the peers, in one process and in turn, as ratios of medians.

    python examples/benchmark.py train [--batch 64] [--threads 1]           one training step of the animals net
    python examples/benchmark.py inference [--batch 64 1] [--threads 1 2]   the engine, dense and at several sparsities

PyTorch and ONNX Runtime join in where they are installed (pip install -e '.[peers]'). Times vary from machine to
machine and from hour to hour; the ratios, measured in turn, much less.
"""
import argparse
import logging
import platform
import statistics
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np

import minisparse as ms
from minisparse import deploy, nn, optim, sparse

from animal_net import animal_net

CLASSES = 6
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


def train(batch, threads, rounds):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, 32, 32), np.float32)
    labels = rng.integers(0, CLASSES, batch)
    steps = {"minisparse dense": minisparse_step(images, labels),
             "minisparse conv 60 FC 75": minisparse_step(images, labels, {nn.Conv2d: 0.6, nn.Linear: 0.75,
                                                                          "whiten": None})}
    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    try:
        import torch
        torch.set_num_threads(threads)
        versions.append(f"PyTorch {torch.__version__}")
        steps["PyTorch"] = torch_step(images, labels, channels_last=False)
        steps["PyTorch channels last"] = torch_step(images, labels, channels_last=True)
    except ImportError:
        print("PyTorch is not installed: no peer to compare with")
    medians = in_turn(steps, rounds)
    peers = [seconds for name, seconds in medians.items() if name.startswith("PyTorch")]
    print(f"one training step of the animals net, batch {batch}, {threads} thread(s); {', '.join(versions)}")
    for name, seconds in medians.items():
        ratio = f"  {seconds / min(peers):.2f} of the faster PyTorch" if peers else ""
        print(f"  {name:26} {1000 * seconds:8.1f} ms  {seconds / medians['minisparse dense']:.2f} of own dense{ratio}")


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


def inference(batch, threads, rounds):
    images = np.random.default_rng(0).standard_normal((batch, 3, 32, 32), np.float32)
    dense = trained()
    runs = {"minisparse dense": deploy.compile(dense, (3, 32, 32))}
    for name, (conv, linear) in SPARSITIES.items():
        for pattern in "unstructured", "block 4x1":
            model = trained(conv, linear, pattern != "unstructured")
            runs[f"minisparse {name}, {pattern}"] = deploy.compile(model, (3, 32, 32))
    runs = {name: lambda engine=engine: engine(images) for name, engine in runs.items()}
    peers, versions = {}, [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    with tempfile.TemporaryDirectory() as folder:
        for add, more in (torch_peers, ()), (onnx_peers, (Path(folder),)):
            try:
                add(dense, images, threads, peers, versions, *more)
            except ImportError as error:
                print(f"left out: {error}")
        scores = runs["minisparse dense"]()
        for name, run in peers.items():
            if "int8" not in name:
                np.testing.assert_allclose(run(), scores, rtol=0, atol=1e-3, err_msg=name)
        medians = in_turn(runs | peers, rounds)
    fastest = min((s for name, s in medians.items() if name in peers and "int8" not in name), default=None)
    print(f"inference of the animals net, batch {batch}, {threads} thread(s); {', '.join(versions)}")
    print(f"  {'':42} {'ms':>8}  {'times own dense':>15}" + ("  times the fastest dense peer" if fastest else ""))
    for name, seconds in medians.items():
        ratio = f"  {fastest / seconds:>28.2f}" if fastest else ""
        print(f"  {name:42} {1000 * seconds:8.2f}  {medians['minisparse dense'] / seconds:>15.2f}{ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "inference"])
    parser.add_argument("--batch", type=int, nargs="+", help="train: 64; inference: 64 1")
    parser.add_argument("--threads", type=int, nargs="+", help="train: 1; inference: 1 2")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    measure, batches, counts = (train, [64], [1]) if args.what == "train" else (inference, [64, 1], [1, 2])
    for threads in args.threads or counts:
        for batch in args.batch or batches:
            ms.set_num_threads(threads)
            # one image takes so little time that more rounds cost nothing
            measure(batch, threads, args.rounds if batch > 8 else 10 * args.rounds)


if __name__ == "__main__":
    sys.exit(main())
