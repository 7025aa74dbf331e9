"""Name the animal in any picture, with a model that train_animals.py has written.

    python examples/classify.py runs/animals/sparse.safetensors photo.jpg ...

A picture is cropped and reduced as those of the training were. Exit status 2 if a picture could not be read.
"""
import argparse
import sys
import warnings

import numpy as np

from minisparse import deploy
from minisparse.data.decode import MAX_BYTES, decode, reason

SHOWN = 3       # of the classes, the likeliest first
MOST = 1e6      # of a channel's mean and standard deviation: those of numbers from 0 to 1 are far below


def load(path):
    """(engine, names of the classes, mean, std) of a model file; ValueError where it is none of animals."""
    engine = deploy.load(path)
    classes, mean, std = (engine.info.get(key) for key in ("classes", "mean", "std"))
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path}: the model does not say which classes it tells apart")
    for values, least in (mean, -MOST), (std, 1 / MOST):
        if not (isinstance(values, list) and len(values) == 3
                and all(isinstance(v, (int, float)) and least < v < MOST for v in values)):
            raise ValueError(f"{path}: the model does not say how its pictures are normalised")
    shape = engine.input_shape
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise ValueError(f"{path}: the model is not one for square colour pictures, its inputs are {shape}")
    scores = engine(np.zeros((1, *shape), np.float32)).shape
    if scores != (1, len(classes)):
        raise ValueError(f"{path}: the model gives {scores[1:]} scores for {len(classes)} classes")
    return engine, classes, *(np.reshape(values, (3, 1, 1)).astype(np.float32) for values in (mean, std))


def read(path, size):
    """A picture as uint8 (3, size, size). OSError, or ValueError where it is no picture."""
    with open(path, "rb") as file:
        octets = file.read(MAX_BYTES + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # pillow's doubts about metadata
        try:
            return decode(octets, size).transpose(2, 0, 1)
        except Exception as error:          # decoders raise whatever a damaged file makes them trip over
            raise ValueError(f"{path}: {reason(error)}") from None


def probabilities(engine, image, mean, std):
    """image: uint8 (3, S, S), looked at as it is and mirrored -> (classes,), which sum to 1."""
    scores = engine((np.stack([image, image[..., ::-1]]) / np.float32(255) - mean) / std).mean(axis=0, dtype=float)
    likely = np.exp(scores - scores.max())
    return likely / likely.sum()


def main(argv=None):
    parser = argparse.ArgumentParser(description="Name the animal in any picture.")
    parser.add_argument("model", help="a .safetensors file that train_animals.py has written")
    parser.add_argument("pictures", nargs="+", metavar="picture")
    args = parser.parse_args(argv)
    status = 0
    if hasattr(sys.stdout, "reconfigure"):      # a file's name may have what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        engine, classes, mean, std = load(args.model)
    except (OSError, ValueError) as error:
        return complain(error)
    for path in args.pictures:
        try:
            share = probabilities(engine, read(path, engine.input_shape[1]), mean, std)
        except (OSError, ValueError) as error:
            status = complain(error)
        else:
            best = np.argsort(-share, kind="stable")[:SHOWN]
            print(f"{path}: " + ", ".join(f"{classes[i]} {share[i]:.1%}" for i in best), flush=True)
    return status


def complain(error):
    """One line on stderr."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    print(f"classify: {text.splitlines()[0]}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
