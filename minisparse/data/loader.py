"""Batches of images, made ahead of the training in a background thread."""

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral

import numpy as np

from ..kernels import load, memory
from .augment import Augment, check_images

AHEAD = 3  # batches asked for: one for the consumer, one in the making, one to ride out a slow moment
UNCHANGED = Augment(shift=0, flip=False)


class Loader:
    """Normalised float32 batches from a set of images in memory.

    images: (n, C, H, W) uint8. labels: (n,) integers. mean, std: of x / 255, a number or one per channel
    (see `channel_stats`; evaluation uses the training set's). augment: an `Augment` or None.
    drop_last: leave out a last batch that is smaller than batch_size.

    A batch is a function of (seed, epoch, batch number) alone: it is the same bits whatever the timing of the
    threads, and any epoch can be made, from any batch on, without those before it.

    waited: seconds the consumer has waited for batches; worked: seconds of CPU spent making them.
    """

    def __init__(self, images, labels, batch_size, *, mean, std, augment=None, shuffle=True, seed=0,
                 drop_last=False):
        check_images("Loader", images)
        labels = np.asarray(labels)
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(f"Loader: labels must be {len(images)} integers, one per image, "
                             f"found {labels.dtype} {labels.shape}")
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"Loader: batch_size must be a whole number, at least 1, found {batch_size}")
        channels = images.shape[1]
        mean, std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
        for name, value in ("mean", mean), ("std", std):
            if value.shape not in ((), (channels,)) or not np.isfinite(value).all():
                raise ValueError(f"Loader: {name} must be 1 or {channels} finite numbers, found {value}")
        if not (std > 0).all():
            raise ValueError(f"Loader: std must be above 0, found {std}")
        self.images = np.ascontiguousarray(images)
        self.labels = labels.astype(np.int64)
        self.batch_size, self.augment, self.shuffle = batch_size, augment or UNCHANGED, shuffle
        self.seed, self.drop_last = seed, drop_last
        self.waited = self.worked = 0.0
        # (x / 255 - mean) / std as one multiplication and one addition
        self._scale = np.broadcast_to(1 / (255 * std), channels).astype(np.float32)
        self._offset = np.broadcast_to(-mean / std, channels).astype(np.float32)
        self._warp = load("augment").warp
        # [seed], [seed, 0] and [seed, 0, 0] are one seed to NumPy: epochs and batches count from 1 below.
        self._mirrored = np.random.default_rng([seed]).random(len(images)) < 0.5

    def __len__(self):
        """Batches in an epoch."""
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def epoch(self, epoch, start=0):
        """Iterate over the batches of an epoch (0, 1, ...) from number `start` on.

        Yields x float32 (N, C, H, W), batch innermost in memory, and y int64 (N,). Dropping the iterator ends
        its thread; an error in the thread is raised here.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise ValueError(f"Loader: epoch must be >= 0 and start 0 to {len(self)}, found {epoch}, {start}")
        return self._run(epoch, start)

    def _run(self, epoch, start):
        order = np.arange(len(self.images))
        if self.shuffle:
            np.random.default_rng([self.seed, epoch + 1]).shuffle(order)
        numbers = iter(range(start, len(self)))
        worker, pending = ThreadPoolExecutor(1, "minisparse-loader"), deque()
        try:
            while True:
                while len(pending) < AHEAD and (batch := next(numbers, None)) is not None:
                    pending.append(worker.submit(self._make, order, epoch, batch))
                if not pending:
                    return
                began = time.perf_counter()
                x, y, worked = pending.popleft().result()
                self.waited += time.perf_counter() - began
                self.worked += worked
                yield x, y
        finally:
            worker.shutdown(wait=False, cancel_futures=True)

    def _make(self, order, epoch, batch):
        began = time.thread_time()
        index = order[batch * self.batch_size:(batch + 1) * self.batch_size]
        rng = np.random.default_rng([self.seed, epoch + 1, batch + 1])
        _, C, H, W = self.images.shape
        out = memory.empty((C, H, W, len(index)))
        maps = self.augment.maps(rng, self._mirrored[index] ^ (epoch % 2 == 1), H, W)
        self._warp(self.images, index, maps, self._scale, self._offset, out)
        if self.augment.cutout:
            self.augment.cover(rng, out)
        return out.transpose(3, 0, 1, 2), self.labels[index], time.thread_time() - began
