"""The animals net: a small convolutional network for 32 x 32 photographs, in three sizes of the same shape.

It follows the network of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498): a frozen
convolution that whitens 2 x 2 patches, three groups of two 3 x 3 convolutions, each group halving the image, filters
that begin as identities, batch norm and GELU throughout. Ours ends in two fully connected layers, since they are what
sparsity thins out best.
"""
from collections import OrderedDict

import numpy as np

import minisparse as ms
from minisparse import nn

OUTPUT_SCALE = 1 / 9    # of the last weights: small first scores keep the early steps from overshooting


def animal_net(classes, widths=(64, 256, 256), hidden=256, identities=True):
    """images (N, 3, 32, 32), normalised, to scores (N, classes).

    identities: begin with filters that hand on their input. They learn faster, but a mask drawn at random cuts nearly
    all of their few weights, so a net that is sparse from the first step begins with random ones.
    """
    layers = OrderedDict(whiten=nn.Conv2d(3, 24, 2), act0=nn.GELU())
    before = 24
    for i, width in enumerate(widths, start=1):
        layers[f"conv{i}a"] = nn.Conv2d(before, width, 3, padding="same", bias=False)
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers[f"norm{i}a"] = nn.BatchNorm2d(width)
        layers[f"act{i}a"] = nn.GELU()
        layers[f"conv{i}b"] = nn.Conv2d(width, width, 3, padding="same", bias=False)
        layers[f"norm{i}b"] = nn.BatchNorm2d(width)
        layers[f"act{i}b"] = nn.GELU()
        if identities:
            nn.init.dirac_(layers[f"conv{i}a"].weight[:before])
            nn.init.dirac_(layers[f"conv{i}b"].weight)
        before = width
    layers["pool4"] = nn.MaxPool2d(3)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(before, hidden, bias=False)
    layers["norm4"] = nn.BatchNorm1d(hidden)
    layers["act4"] = nn.GELU()
    layers["fc2"] = nn.Linear(hidden, classes)
    with ms.no_grad():
        layers["fc2"].weight.mul_(OUTPUT_SCALE)
    return nn.Sequential(layers)


def whiten(model, images, mean, std, count=5000, eps=5e-4):
    """Set the first layer to filters that decorrelate the 2 x 2 patches of `images` (uint8), and freeze them.

    The rows are the eigenvectors of the patches' covariance, each divided by the square root of its eigenvalue (+ eps),
    and their negatives; GELU then keeps what either sign lets through.
    """
    images = images[::-(-len(images) // count)]     # from all over the set: folders come class by class
    x = (images / 255 - np.reshape(mean, (1, -1, 1, 1))) / np.reshape(std, (1, -1, 1, 1))
    patches = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(2, 3))
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    filters = (vectors / np.sqrt(values + eps)).T[::-1].reshape(-1, 3, 2, 2)
    layer = model.whiten
    with ms.no_grad():
        layer.weight.copy_(ms.tensor(np.concatenate([filters, -filters]).astype(np.float32)))
    layer.weight.requires_grad_(False)
