"""Drawn animals: a data set that needs no download.

An animal is a list of tapered tubes in space (x forward, y up, z towards its near side): trunk, legs, ears, antlers
and eyes are all tubes. One function per animal places them; `_project` turns them to the camera and gives one
polygon a tube; a `Look` paints the polygons over a scene. Anatomy knows nothing of looks, so the same animals in
another look are a set from another source.
"""

import colorsys
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin, sqrt

import numpy as np

CLASSES = ("bird", "cat", "deer", "dog", "frog", "horse")
OVERSAMPLE = 4          # drawn this much larger, then reduced with an area filter
CURVE = 8               # points along a tube


# ---------------------------------------------------------------------------------------------- tubes and frames

class Body:
    """Collects the tubes of one animal: control points, radii, the name of a colour, and a lift that draws it later."""

    def __init__(self):
        self.curves, self.colours, self.lifts = [], [], []

    def tube(self, points, radii, colour, lift=0.0):
        """A smooth tube through `points` [(x, y, z), ...]; `radii` is one number or one for each point."""
        control = np.empty((len(points), 4))
        control[:, :3] = points
        control[:, 3] = radii
        self.curves.append(_spline(len(points)) @ control)
        self.colours.append(colour)
        self.lifts.append(lift)

    def pair(self, points, radii, colour, lift=0.0):
        """The same tube on both sides of the animal."""
        self.tube(points, radii, colour, lift)
        self.tube([(x, y, -z) for x, y, z in points], radii, colour, lift)


class Head:
    """A frame of its own: lengths in skull radii, nodding (up is positive) and turned towards the near side."""

    def __init__(self, body, origin, skull, nod, turn):
        self.body, self.origin, self.skull = body, np.asarray(origin), skull
        cn, sn, ct, st = cos(nod), sin(nod), cos(turn), sin(turn)
        self.axes = skull * np.array([[cn * ct, sn, cn * st], [-sn * ct, cn, -sn * st], [-st, 0.0, ct]])

    def tube(self, points, radii, colour, lift=0.0):
        self.body.tube(self.origin + np.array(points) @ self.axes, np.array(radii) * self.skull, colour, lift)

    pair = Body.pair


@lru_cache(maxsize=None)
def _spline(n):
    """(CURVE, n) matrix from n control points to points on the Catmull-Rom curve through them."""
    if n == 1:
        return np.ones((CURVE, 1))
    t = np.linspace(0, n - 1, CURVE)
    i = np.minimum(t.astype(int), n - 2)
    u = (t - i)[:, None]
    knots, slopes = np.eye(n), np.gradient(np.eye(n), axis=0)
    return ((1 + 2 * u) * (1 - u) ** 2 * knots[i] + u * (1 - u) ** 2 * slopes[i]
            + u * u * (3 - 2 * u) * knots[i + 1] + u * u * (u - 1) * slopes[i + 1])


# ------------------------------------------------------------------------------------------------- four-legged ones

def _quadruped(body, rng, pose, *, leg, length, chest, waist, bone, neck, throat, rise, nod, skull, muzzle, snout,
               feet="coat"):
    """Trunk, legs, neck and head shared by the four-legged. Returns the Head, and the points of withers and rump."""
    hip, shoulder = np.array([-length / 2, leg + 0.6 * waist, 0]), np.array([length / 2, leg + 0.5 * chest, 0])
    if pose == "sit":
        hip, shoulder = np.array([-0.25 * length, waist, 0]), np.array([0.2 * length, leg + 0.6 * chest, 0])
    elif pose == "lie":
        hip[1], shoulder[1] = waist, 1.05 * chest
    elif pose == "run":
        hip[1] += rng.uniform(0, 0.2) * leg
        shoulder[1] += rng.uniform(0, 0.3) * leg
    body.tube([hip, (hip + shoulder) / 2 + [0, 0.1 * waist, 0], shoulder], [waist * 1.05, waist, chest], "coat")

    stride = {"stand": 0.12, "graze": 0.2, "walk": 0.45, "run": 0.9}.get(pose, 0)
    spread = rng.choice((-1, 1)) if pose == "run" else 0     # a gallop stretches or gathers all four legs
    for fore, (x, y, _) in ((True, shoulder), (False, hip)):
        for side in (-1, 1):
            z = side * 0.55 * (chest if fore else waist)
            step = stride * (rng.uniform(-1, 1) if not spread else spread * (1 if fore else -1) * rng.uniform(0.5, 1))
            lift = leg * stride * 0.6 * max(0.0, rng.uniform(-1, 1))
            foot = (x + step * leg, lift + bone, z)
            if pose == "lie":
                foot = (x + 0.7 * leg, bone, z * 1.3)
                points = [(x, y * 0.7, z), (x + 0.1 * leg, bone * 1.2, z * 1.3), foot]
                radii = [chest * 0.5 if fore else waist * 0.8, 1.4 * bone, bone]
            elif pose == "sit" and not fore:
                foot = (x + 0.75 * leg, bone, z * 1.5)
                points = [(x, y, z * 1.1), (x + 0.3 * leg, y * 0.75, z * 1.4), (x + 0.1 * leg, bone, z * 1.5), foot]
                radii = [waist * 0.7, waist * 0.55, bone * 1.2, bone]
            elif fore:
                points = [(x, y, z), (x + (0.55 * step + 0.05) * leg, lift + 0.5 * y, z), foot]
                radii = [2.6 * bone, 1.25 * bone, 0.9 * bone]
            else:
                points = [(x, y, z), (x + (0.3 * step + 0.1) * leg, lift + 0.6 * y, z),
                          (x + (0.8 * step - 0.16) * leg, lift + 0.33 * y, z), foot]
                radii = [3.2 * bone, 2.0 * bone, bone, 0.9 * bone]
            body.tube(points, radii, "coat")
            body.tube([foot, (foot[0] + 1.3 * bone, foot[1] - 0.2 * bone, z)], 1.05 * bone, feet)

    base = shoulder + [0.35 * chest, 0.25 * chest, 0]
    if pose == "graze":
        rise = -np.arccos(np.clip((neck ** 2 + 0.2) / 1.2, 0.2, 0.9)) if base[1] > neck else -0.7
        rise, nod = max(rise, -1.25), rng.uniform(-1.3, -0.8)
    poll = base + [neck * cos(rise), neck * sin(rise), 0]
    body.tube([shoulder + [0.1 * chest, 0.15 * chest, 0], (base + poll) / 2, poll],
              [0.8 * chest, 1.15 * throat, throat], "coat")
    head = Head(body, poll, skull, nod, rng.uniform(-0.5, 1.0))
    head.tube([(0, 0, 0)], 1.0, "coat")
    head.tube([(0.3, -0.1, 0), (muzzle, -0.3, 0)], [0.8, snout], "face")
    head.tube([(muzzle + 0.7 * snout, -0.3 + 0.3 * snout, 0)], 0.45 * snout, "nose")
    return head, shoulder + [0, 0.8 * chest, 0], hip + [-0.8 * waist, 0.4 * waist, 0]


def _markings(body, rng, points, kind):
    """Stripes, spots or patches on the trunk, whose first tube must be the body's first."""
    hip, shoulder = body.curves[0][0], body.curves[0][-1]
    for t in np.linspace(0.0, 1.0, points) + rng.uniform(-0.06, 0.06, points):
        x, y, _, r = hip + t * (shoulder - hip)
        if kind == "stripes":
            body.tube([(x, y + 0.95 * r, 0), (x + 0.1 * r, y + 0.3 * r, 0.9 * r), (x, y - 0.4 * r, 0.8 * r)],
                      [0.1 * r, 0.16 * r, 0.05 * r], "mark")
        elif kind == "spots":
            body.tube([(x, y + rng.uniform(-0.3, 0.7) * r, 0.8 * r)], 0.15 * r, "mark")
        else:
            body.tube([(x, y + rng.uniform(-0.3, 0.4) * r, 0.3 * r)], rng.uniform(0.4, 0.65) * r, "mark")


def _cat(body, rng):
    pose = _pick(rng, ("stand", "walk", "sit", "sit", "lie", "run"))
    skull = rng.uniform(0.17, 0.21)
    head, _, rump = _quadruped(
        body, rng, pose, leg=rng.uniform(0.26, 0.36), length=rng.uniform(0.5, 0.66), chest=rng.uniform(0.14, 0.18),
        waist=rng.uniform(0.13, 0.17), bone=rng.uniform(0.036, 0.046), neck=0.15, throat=0.11,
        rise=rng.uniform(0.5, 1.0), nod=rng.uniform(-0.3, 0.1), skull=skull, muzzle=0.75, snout=0.38)
    ear = rng.uniform(1.45, 1.75)
    head.pair([(-0.1, 0.55, 0.6), (-0.15, ear, 0.75)], [0.5, 0.05], "coat")
    head.pair([(0.1, 0.65, 0.6), (0.02, ear - 0.2, 0.72)], [0.26, 0.04], "ear")
    head.pair([(0.75, 0.15, 0.5)], 0.24, "iris")
    head.pair([(0.92, 0.15, 0.53)], 0.12, "eye")
    for y in (-0.5, -0.15):
        head.pair([(0.8, -0.25, 0.3), (0.9, y, 1.5)], 0.045, "whisker")
    x, y, _ = rump
    s = rng.uniform(0.8, 1.2)
    curl = _pick(rng, ([(-0.2, 0.05), (-0.3, 0.3), (-0.2, 0.6)], [(-0.25, -0.15), (-0.5, -0.05), (-0.7, 0.15)],
                       [(-0.1, 0.25), (-0.15, 0.5), (-0.35, 0.6)]))
    tail = [(x + s * dx, max(y + s * dy, 0.05), 0.08) for dx, dy in curl]
    if pose in ("sit", "lie"):
        tail = [(x - 0.15, 0.06, 0.1), (x + 0.05, 0.05, 0.4), (x + 0.45, 0.05, 0.42)]
    body.tube([(x + 0.1, y, 0), *tail], [0.055, 0.05, 0.045, 0.04], "coat")
    if rng.random() < 0.5:
        _markings(body, rng, 5, "stripes")


def _dog(body, rng):
    pose = _pick(rng, ("stand", "stand", "walk", "run", "sit", "lie", "graze"))
    head, _, rump = _quadruped(
        body, rng, pose, leg=rng.uniform(0.22, 0.5), length=rng.uniform(0.5, 0.75), chest=rng.uniform(0.16, 0.23),
        waist=rng.uniform(0.12, 0.17), bone=rng.uniform(0.042, 0.062), neck=rng.uniform(0.18, 0.3),
        throat=rng.uniform(0.1, 0.13), rise=rng.uniform(0.5, 1.1), nod=rng.uniform(-0.4, 0.1),
        skull=rng.uniform(0.14, 0.18), muzzle=rng.uniform(1.2, 1.9), snout=rng.uniform(0.38, 0.55))
    if rng.random() < 0.65:       # floppy ears
        drop = rng.uniform(-1.1, -0.4)
        head.pair([(-0.1, 0.7, 0.75), (-0.1, 0.2, 1.1), (0, drop, 1.1)], [0.2, 0.36, 0.3], "ear")
    else:
        head.pair([(-0.3, 0.6, 0.5), (-0.4, 1.6, 0.6)], [0.4, 0.08], "ear")
    head.pair([(0.75, 0.3, 0.5)], 0.17, "eye")
    if rng.random() < 0.25:       # tongue
        head.tube([(1.1, -0.6, 0), (1.2, -1.0, 0)], 0.2, "tongue")
    x, y, _ = rump
    up, s = _pick(rng, (([(-0.15, 0.2), (-0.15, 0.42)], [(-0.12, 0.2), (0.05, 0.3)], [(-0.2, -0.05), (-0.35, 0.05)]))
                  ), rng.uniform(0.7, 1.1)
    body.tube([(x + 0.1, y, 0), *[(x + s * dx, max(y + s * dy, 0.06), 0.03) for dx, dy in up]],
              [0.06, rng.uniform(0.045, 0.08), 0.035], "coat")
    if rng.random() < 0.3:
        _markings(body, rng, 3, "patches")
    if rng.random() < 0.25:       # a collar
        x, y, z = head.origin
        body.tube([(x - 0.03, y - 0.16, -0.06), (x - 0.03, y - 0.17, 0.06)], 0.06, "collar", lift=0.05)


def _deer(body, rng):
    pose = _pick(rng, ("stand", "stand", "walk", "run", "graze", "lie"))
    head, _, rump = _quadruped(
        body, rng, pose, leg=rng.uniform(0.5, 0.64), length=rng.uniform(0.55, 0.72), chest=rng.uniform(0.17, 0.21),
        waist=rng.uniform(0.14, 0.18), bone=rng.uniform(0.027, 0.035), neck=rng.uniform(0.38, 0.5),
        throat=rng.uniform(0.07, 0.09), rise=rng.uniform(0.8, 1.25), nod=rng.uniform(-0.6, -0.2),
        skull=rng.uniform(0.095, 0.11), muzzle=rng.uniform(1.6, 2.1), snout=0.5, feet="hoof")
    head.pair([(-0.3, 0.5, 0.6), (-0.5, 1.1, 1.5), (-0.5, 1.4, 2.2)], [0.2, 0.42, 0.08], "coat")
    head.pair([(0.5, 0.35, 0.75)], 0.24, "eye")
    if rng.random() < 0.6:
        tall, wide = rng.uniform(2.5, 4.2), rng.uniform(1.2, 2.4)
        head.pair([(-0.2, 0.9, 0.3), (-1.0, 0.6 * tall, wide), (0.0, tall, 0.9 * wide)], [0.2, 0.17, 0.1], "horn")
        head.pair([(-0.5, 0.35 * tall, 0.6 * wide), (0.8, 0.6 * tall, 0.7 * wide)], [0.15, 0.09], "horn")
        head.pair([(-0.9, 0.6 * tall, wide), (-1.4, 0.95 * tall, 1.1 * wide)], [0.14, 0.09], "horn")
    x, y, _ = rump
    body.tube([(x + 0.06, y - 0.06, 0)], 0.09, "pale", lift=0.01)
    body.tube([(x + 0.02, y, 0), (x - 0.05, y - rng.uniform(-0.1, 0.1), 0)], [0.05, 0.03], "pale", lift=0.02)
    hip, shoulder = body.curves[0][0], body.curves[0][-1]
    body.tube([hip[:3] - [0, 0.6 * hip[3], 0], shoulder[:3] - [0, 0.65 * shoulder[3], 0]], 0.06, "pale")
    if rng.random() < 0.35:
        _markings(body, rng, 9, "spots")


def _horse(body, rng):
    pose = _pick(rng, ("stand", "stand", "walk", "run", "graze", "graze"))
    head, withers, rump = _quadruped(
        body, rng, pose, leg=rng.uniform(0.5, 0.62), length=rng.uniform(0.65, 0.82), chest=rng.uniform(0.23, 0.27),
        waist=rng.uniform(0.2, 0.25), bone=rng.uniform(0.042, 0.055), neck=rng.uniform(0.48, 0.6),
        throat=rng.uniform(0.1, 0.13), rise=rng.uniform(0.6, 1.1), nod=rng.uniform(-0.95, -0.5),
        skull=rng.uniform(0.12, 0.135), muzzle=rng.uniform(2.3, 2.8), snout=0.55, feet="hoof")
    head.pair([(-0.3, 0.7, 0.4), (-0.2, 1.5, 0.5)], [0.25, 0.05], "coat")
    head.pair([(0.6, 0.35, 0.75)], 0.18, "eye")
    if rng.random() < 0.4:        # a blaze down the face
        head.tube([(0.7, 0.65, 0), (2.0, 0.3, 0)], [0.2, 0.15], "pale", lift=0.02)
    head.tube([(0.0, 1.0, 0), (0.5, 0.9, 0.2)], [0.3, 0.12], "mane")
    poll, back = head.origin, np.array([-0.07, 0.06, 0.02])
    hang = rng.uniform(0.07, 0.11)
    body.tube([poll + back, (poll + withers) / 2 + 1.2 * back, withers + [0.02, -0.02, 0.02]],
              [0.8 * hang, hang, 0.5 * hang], "mane")
    x, y, _ = rump
    flow = 0.35 if pose == "run" else rng.uniform(0.05, 0.15)
    fall = rng.uniform(0.35, 0.55)
    body.tube([(x + 0.06, y, 0), (x - flow, y - (0.15 if pose != "run" else 0), 0.03), (x - 1.3 * flow, y - fall, 0.03)],
              [0.05, 0.085, 0.03], "mane")
    if rng.random() < 0.2:
        _markings(body, rng, 3, "patches")


# ----------------------------------------------------------------------------------------------------- the others

def _bird(body, rng):
    pose = _pick(rng, ("perch", "perch", "stand", "fly", "fly", "swim"))
    wader = pose == "stand" and rng.random() < 0.5
    tilt = rng.uniform(-0.1, 0.15) if pose in ("fly", "swim") else rng.uniform(0.1, 0.9)
    girth = rng.uniform(0.19, 0.27)
    legs = 0 if pose == "swim" else rng.uniform(0.45, 0.6) if wader else rng.uniform(0.12, 0.22)
    y = legs + girth * (0.8 + 0.6 * sin(max(tilt, 0)))
    along = np.array([cos(tilt), sin(tilt), 0])
    middle = np.array([0, y, 0])
    body.tube([middle - 0.28 * along, middle, middle + 0.2 * along], [0.4 * girth, girth, 0.8 * girth], "coat")
    body.tube([middle + [0.03, -0.25 * girth, 0], middle + 0.2 * along - [0, 0.1 * girth, 0]],
              [0.7 * girth, 0.6 * girth], "belly")
    spread = rng.uniform(0.06, 0.13)
    body.tube([middle - 0.25 * along, middle - rng.uniform(0.5, 0.75) * along], [0.4 * girth, spread], "wing")

    neck = rng.uniform(0.35, 0.55) if wader or (pose == "swim" and rng.random() < 0.5) else rng.uniform(0.05, 0.16)
    chest = middle + 0.22 * along
    poll = chest + [0.1 + (neck if pose == "fly" else 0.3 * neck), (0.2 if pose == "fly" else 0.95) * neck + 0.1, 0]
    skull = rng.uniform(0.1, 0.12) if neck > 0.3 else rng.uniform(0.13, 0.17)
    body.tube([chest, (chest + poll) / 2 + [0.04, 0, 0], poll], [0.6 * girth, 0.6 * skull if neck > 0.3 else skull, 0.75 * skull],
              "coat")
    head = Head(body, poll, skull, rng.uniform(-0.3, 0.15), rng.uniform(-0.4, 0.7))
    head.tube([(0, 0, 0)], 1.0, "face")
    beak = rng.uniform(2.2, 3.4) if neck > 0.3 else rng.uniform(1.6, 2.3)
    head.tube([(0.7, -0.1, 0), (beak, -0.3, 0)], [0.42, 0.08 if pose != "swim" else 0.3], "beak")
    head.pair([(0.45, 0.25, 0.75)], 0.22, "eye")
    if rng.random() < 0.2:        # a crest
        head.tube([(0.1, 0.8, 0), (-0.7, 1.7, 0)], [0.35, 0.08], "wing")

    if pose == "fly":
        beat, sweep, span = rng.uniform(-0.5, 1.2), rng.uniform(-0.35, 0.1), rng.uniform(0.75, 1.05)
        tip = middle + [sweep, span * sin(beat), span * cos(beat)]
        elbow = middle + [0.08, 0.5 * span * sin(beat + 0.25), 0.5 * span * cos(beat + 0.25)]
        body.pair([middle + [0.05, 0.3 * girth, 0.5 * girth], elbow, tip], [0.16, 0.17, 0.03], "wing")
    else:
        body.pair([middle + 0.1 * along + [0, 0, 0.75 * girth], middle - 0.15 * along + [0, 0, 0.7 * girth],
                   middle - 0.45 * along + [0, 0, 0.25 * girth]], [0.55 * girth, 0.5 * girth, 0.05], "wing")
    if pose in ("perch", "stand"):
        for side in (-0.08, 0.08):
            step = rng.uniform(-0.08, 0.1)
            body.tube([(0, y - 0.6 * girth, side), (0.03 + step / 2, legs / 2, side), (step, 0, side)], 0.02, "leg")
            body.tube([(step - 0.06, 0, side), (step + 0.1, 0, side)], 0.018, "leg")
    if pose == "perch" and rng.random() < 0.7:
        body.tube([(-1.0, rng.uniform(-0.2, 0.1), 0), (0, -0.05, 0), (1.0, rng.uniform(-0.2, 0.1), 0)],
                  rng.uniform(0.03, 0.06), "branch", lift=-0.1)
    return pose


def _frog(body, rng):
    pose = _pick(rng, ("sit", "sit", "sit", "leap"))
    tilt = rng.uniform(0.2, 0.6)
    girth = rng.uniform(0.2, 0.27)
    rump, chest = np.array([-0.28, 0.2, 0]), np.array([0.05, 0.2 + 0.33 * sin(tilt), 0])
    if pose == "leap":
        rump, chest = rump + [0, 0.15, 0], chest + [0.05, 0.35, 0]
    body.tube([rump, (rump + chest) / 2 + [0, 0.04, 0], chest], [0.75 * girth, girth, girth], "coat")
    body.tube([chest + [0.02, -0.1, -0.08], chest + [0.02, -0.1, 0.08]], 0.8 * girth, "belly")
    snout = chest + [0.22, 0.08, 0]
    head = Head(body, snout, 0.2, rng.uniform(-0.1, 0.35), rng.uniform(-0.3, 0.4))
    head.tube([(0, 0, -0.5), (0.45, -0.05, 0), (0, 0, 0.5)], [0.85, 0.75, 0.85], "coat")
    head.tube([(0.1, -0.35, -0.5), (0.55, -0.35, 0), (0.1, -0.35, 0.5)], [0.6, 0.5, 0.6], "belly", lift=-0.001)
    head.tube([(0.25, -0.25, -1.15), (1.15, -0.2, 0), (0.25, -0.25, 1.15)], 0.06, "mouth", lift=0.05)
    bulge = rng.uniform(0.4, 0.52)
    head.pair([(-0.05, 0.75, 0.75)], bulge, "coat")
    head.pair([(0.08, 0.85, 0.9)], 0.75 * bulge, "iris")
    head.pair([(0.2, 0.87, 1.05)], 0.4 * bulge, "eye")
    for side in (-1, 1):
        hx, hy, hz = rump[0], rump[1], side * 0.16
        if pose == "sit":
            knee = (hx + rng.uniform(0.22, 0.32), hy + rng.uniform(0.02, 0.18), side * rng.uniform(0.36, 0.46))
            ankle, toe = (hx - 0.02, 0.06, side * 0.4), (hx + 0.35, 0.03, side * 0.5)
            hand = (chest[0] + rng.uniform(0.05, 0.2), 0.03, side * 0.27)
        else:
            knee = (hx - 0.2, hy - rng.uniform(0.0, 0.15), side * 0.3)
            ankle, toe = (hx - 0.45, hy - rng.uniform(0.1, 0.3), side * 0.25), (hx - 0.7, hy - 0.35, side * 0.3)
            hand = (chest[0] + rng.uniform(0.2, 0.4), chest[1] - rng.uniform(0.2, 0.4), side * 0.3)
        body.tube([(hx, hy, hz), knee], [0.13, 0.1], "coat")
        body.tube([knee, ankle], [0.085, 0.05], "coat")
        body.tube([ankle, toe], [0.045, 0.04], "coat")
        body.tube([toe, (toe[0] + 0.1, toe[1], toe[2] + side * 0.06)], [0.04, 0.07], "coat")
        elbow = (chest[0] - 0.02, (chest[1] + hand[1]) / 2, side * 0.3)
        body.tube([chest + [0, -0.05, side * 0.17], elbow, hand], [0.08, 0.055, 0.04], "coat")
        body.tube([hand, (hand[0] + 0.09, hand[1], hand[2] + side * 0.05)], [0.035, 0.06], "coat")
    if rng.random() < 0.5:
        _markings(body, rng, 4, "spots")


# --------------------------------------------------------------------------------------------------------- colours

_FUR = {"black": (40, 37, 38), "white": (226, 222, 214), "grey": (128, 126, 124), "brown": (100, 68, 44),
        "chestnut": (138, 80, 46), "tan": (176, 138, 96), "cream": (212, 188, 148), "ginger": (198, 124, 60)}
_SKIN = {"green": (92, 146, 52), "olive": (112, 116, 58), "moss": (62, 96, 46), "brown": (116, 86, 54),
         "lime": (150, 178, 60), "red": (182, 62, 44), "grey": (120, 118, 104), "blue": (60, 100, 160)}
_FEATHER = _FUR | {"blue": (58, 98, 168), "red": (186, 52, 44), "yellow": (222, 186, 60), "green": (80, 140, 70)}
_COATS = {"bird": _FEATHER, "frog": _SKIN, "deer": {k: _FUR[k] for k in ("tan", "chestnut", "brown", "grey")}}
_DETAILS = {"eye": (22, 18, 18), "iris": (196, 176, 60), "nose": (48, 36, 36), "hoof": (50, 42, 38), "pale": (228, 218, 200),
            "horn": (150, 122, 88), "whisker": (235, 232, 226), "tongue": (206, 96, 104), "collar": (190, 40, 44),
            "beak": (226, 160, 48), "leg": (196, 132, 64), "branch": (92, 72, 54), "mouth": (60, 48, 36)}


def _natural(rng, name):
    """The colours of one animal: part -> rgb."""
    coats = list(_COATS.get(name, _FUR).values())
    coat, other = (np.array(_pick(rng, coats), float) + rng.normal(0, 12, 3) for _ in range(2))
    dark, pale = 0.45 * coat, 0.45 * coat + 0.55 * np.array([235, 228, 212])
    colours = {k: np.array(v, float) for k, v in _DETAILS.items()}
    colours |= {"coat": coat, "face": _pick(rng, (coat, pale, dark)), "ear": _pick(rng, (dark, coat, other)),
                "mark": _pick(rng, (dark, pale)), "belly": pale, "wing": _pick(rng, (dark, other, 0.8 * coat)),
                "mane": _pick(rng, (dark, dark, pale, other))}
    if name in ("cat", "dog"):
        colours["face"] = _pick(rng, (coat, pale, other))
        colours["ear"] = _pick(rng, (dark, coat, coat))
    if name == "deer":
        colours["mark"], colours["face"] = pale, _pick(rng, (coat, 0.8 * coat))
    if name == "bird" and rng.random() < 0.4:
        colours["beak"] = colours["leg"] = np.array([70, 62, 58.0])
    return colours


def _pick(rng, options):
    return options[int(rng.random() * len(options))]


# ----------------------------------------------------------------------------------------------------------- looks

@dataclass(frozen=True)
class Look:
    """How an animal and its scene are painted. Ranges are (low, high), drawn anew for every image."""
    paint: object                    # (rng, colours) -> colours of the animal
    scene: object                    # rng -> rgb of sky, land and plants
    shade: float = 0.3               # how round the tubes look
    ink: float = 0.0                 # width of outlines, in pixels of the final image
    blur: tuple = (0.0, 0.7)         # share of a 3 x 3 blur
    noise: tuple = (2.0, 12.0)       # standard deviation of the sensor, grey levels
    grain: tuple = (4.0, 22.0)       # the same for the slow texture of ground and fur
    light: tuple = (0.0, 0.45)       # fall of light across the image
    cast: float = 0.1                # relative strength of the three channels
    exposure: tuple = (0.65, 1.25)


_SCENES = [((170, 200, 226), (112, 140, 66), (66, 98, 46)), ((148, 160, 140), (92, 84, 56), (56, 72, 42)),
           ((206, 206, 206), (220, 222, 226), (112, 116, 112)), ((196, 206, 216), (190, 164, 118), (128, 122, 74)),
           ((120, 158, 180), (74, 112, 132), (82, 112, 66)), ((196, 184, 164), (140, 104, 74), (110, 90, 90)),
           ((70, 92, 54), (88, 116, 52), (48, 74, 38)), ((150, 146, 142), (112, 110, 108), (84, 84, 88))]


def _outdoors(rng):
    return [np.array(c) + rng.normal(0, 16, 3) for c in _pick(rng, _SCENES)]


def _paper(rng):
    paper = np.array([240, 236, 226]) + rng.normal(0, 6, 3)
    return paper, paper - rng.uniform(0, 16), paper - rng.uniform(20, 90)


def _inked(rng, colours):
    wash = rng.uniform(0.1, 0.5)
    grey = {k: np.full(3, c.mean()) for k, c in colours.items()}
    return {k: c if k in ("eye", "nose", "mouth") else 242 * (1 - wash) + wash * c for k, c in grey.items()} | {
        "ink": np.full(3, rng.uniform(20, 70))}


def _moonlit(rng):
    return [np.array(c) * np.array([0.22, 0.27, 0.42]) for c in _outdoors(rng)]


def _dimmed(rng, colours):
    glow = np.array([190, 220, 150.0])
    return {k: glow if k in ("eye", "iris") else c * np.array([0.42, 0.5, 0.68]) + 12 for k, c in colours.items()}


def _hue(rng, low, high):
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.35, 0.9), rng.uniform(low, high)))


def _flat_scene(rng):
    return [_hue(rng, 0.7, 1.0) for _ in range(3)]


def _flat(rng, colours):
    inks = [_hue(rng, 0.15, 0.95) for _ in range(3)]
    return {k: c if k in ("eye", "nose", "iris") else inks[i % 3 if k not in ("coat", "face") else 0]
            for i, (k, c) in enumerate(colours.items())}


_LOOKS = {
    "field": Look(lambda rng, colours: colours, _outdoors),
    "sketch": Look(_inked, _paper, shade=0.0, ink=0.55, blur=(0, 0.3), noise=(0, 5), grain=(0, 6), light=(0, 0.1),
                   cast=0.03, exposure=(0.9, 1.05)),
    "night": Look(_dimmed, _moonlit, shade=0.45, blur=(0.2, 0.8), noise=(8, 18), grain=(2, 12), light=(0.3, 0.8)),
    "poster": Look(_flat, _flat_scene, shade=0.0, blur=(0, 0.2), noise=(0, 2), grain=(0, 0), light=(0, 0), cast=0.0,
                   exposure=(0.9, 1.1)),
}
STYLES = tuple(_LOOKS)          # the first for training and testing, the others as sources never trained on

_ANIMALS = {"bird": _bird, "cat": _cat, "deer": _deer, "dog": _dog, "frog": _frog, "horse": _horse}


# ---------------------------------------------------------------------------------------------------------- drawing

_STEPS = np.array([0, 0, 0, *range(CURVE), CURVE - 1, CURVE - 1, CURVE - 1])
_TURN = np.concatenate([[pi, 5 * pi / 6, 2 * pi / 3], np.full(CURVE, pi / 2), [pi / 3, pi / 6, 0]])
_STEPS = np.concatenate([_STEPS, _STEPS[-2:0:-1]])
_TURN = np.concatenate([_TURN, -_TURN[-2:0:-1]])
_ROUND = np.stack([np.cos(_TURN), np.sin(_TURN)])       # along and across the tube, round at both ends


def _project(body, yaw, pitch, roll):
    """Centres (tubes, CURVE, 2), y downwards, radii (tubes, CURVE), and depth (tubes,), larger is nearer."""
    curves = np.stack(body.curves)
    cy, sy, cp, sp, cr, sr = cos(yaw), sin(yaw), cos(pitch), sin(pitch), cos(roll), sin(roll)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tip = np.array([[1, 0, 0], [0, -cp, sp], [0, sp, cp]])
    lean = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    seen = curves[:, :, :3] @ (lean @ tip @ turn).T
    return seen[:, :, :2], curves[:, :, 3], seen[:, :, 2].mean(axis=1) + body.lifts


def _outlines(centres, radii):
    """The polygon (tubes, points, 2) around each tube."""
    along = np.empty_like(centres)
    along[:, 1:-1] = centres[:, 2:] - centres[:, :-2]
    along[:, 0], along[:, -1] = centres[:, 1] - centres[:, 0], centres[:, -1] - centres[:, -2]
    along[:, :, 0] += 1e-6          # a sphere has no direction: any will do
    along *= (radii / np.hypot(along[:, :, 0], along[:, :, 1]))[:, :, None]
    along = along[:, _STEPS]
    across = along[:, :, ::-1] * [-1, 1]
    return centres[:, _STEPS] + along * _ROUND[0, :, None] + across * _ROUND[1, :, None]


def _rgb(colour, gain=1.0):
    r, g, b = colour
    return (min(255, max(0, int(r * gain))), min(255, max(0, int(g * gain))), min(255, max(0, int(b * gain))))


def _draw_scene(pen, rng, side, colours):
    """Sky, land and a few plants or stones; returns the height of the horizon."""
    sky, land, plant = colours
    horizon = side * rng.uniform(0.1, 0.85)
    pen.rectangle((0, 0, side, side), fill=_rgb(sky))
    bend = horizon + side * rng.normal(0, 0.06, 3)
    pen.polygon([0, bend[0], side / 2, bend[1], side, bend[2], side, side, 0, side], fill=_rgb(land))
    for _ in range(int(rng.integers(0, 7))):
        x, w = side * rng.random(), side * rng.uniform(0.03, 0.22)
        fill = _rgb(_pick(rng, (plant, plant, land, sky)), rng.uniform(0.6, 1.3))
        if rng.random() < 0.35:
            pen.rectangle((x, horizon - side * rng.uniform(0.1, 0.9), x + 0.4 * w, horizon + 0.3 * w), fill=fill)
        else:
            y = horizon + side * rng.uniform(-0.15, 0.6)
            pen.ellipse((x - w, y - rng.uniform(0.3, 1.2) * w, x + w, y + 0.6 * w), fill=fill)


def _draw_occluders(pen, rng, side, plant, ground):
    """Sometimes grass before the feet, sometimes a post or a branch before everything."""
    if rng.random() < 0.4:
        tall = side * rng.uniform(0.05, 0.22)
        for x in side * rng.random(int(rng.integers(4, 12))):
            pen.line((x, ground + side * 0.05, x + tall * rng.uniform(-0.4, 0.4), ground - tall * rng.random()),
                     fill=_rgb(plant, rng.uniform(0.8, 1.4)), width=side // 48)
    if rng.random() < 0.25:
        x, y, w = side * rng.random(), side * rng.random(), int(side * rng.uniform(0.02, 0.07))
        slope = side * rng.normal(0, 0.15)
        ends = (x, 0, x + slope, side) if rng.random() < 0.5 else (0, y, side, y + slope)
        pen.line(ends, fill=_rgb(plant, rng.uniform(0.5, 1.3)), width=w)


def _draw_one(rng, name, look, size):
    """One animal in its scene: (size, size, 3) uint8, before light, blur and noise."""
    from PIL import Image, ImageDraw
    side = size * OVERSAMPLE
    body = Body()
    _ANIMALS[name](body, rng)
    colours = look.paint(rng, _natural(rng, name))
    sky, land, plant = look.scene(rng)

    yaw = rng.normal(-0.3, 0.3) if rng.random() < 0.65 else rng.uniform(-1.6, 0.9)
    centres, radii, depth = _project(body, yaw, rng.uniform(0.0, 0.4), rng.normal(0, 0.06))
    if rng.random() < 0.5:
        centres[:, :, 0] *= -1
    frame = [k for k, c in enumerate(body.colours) if c != "branch"]       # a branch may leave the picture
    low = (centres[frame] - radii[frame, :, None]).min(axis=(0, 1))
    high = (centres[frame] + radii[frame, :, None]).max(axis=(0, 1))
    scale = side * rng.uniform(0.6, 1.1) / (high - low).max()
    room = side - scale * (high - low)
    centres = (centres - low) * scale + room * rng.uniform(0.2, 0.8, 2) + side * rng.normal(0, 0.03, 2)
    radii = radii * scale

    image = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(image)
    _draw_scene(pen, rng, side, (sky, land, plant))
    feet = centres[frame, :, 1].max()
    middle, reach = centres[0, :, 0].mean(), 0.3 * scale
    if rng.random() < 0.7:
        pen.ellipse((middle - 1.6 * reach, feet - 0.25 * reach, middle + 1.6 * reach, feet + 0.3 * reach), fill=_rgb(land, 0.6))

    layers = [(_outlines(centres, radii), 1 - look.shade, "")]
    if look.shade:
        angle = rng.uniform(-2.6, -0.5)         # the light comes from above, left or right
        lit = centres + 0.25 * radii[:, :, None] * [cos(angle), sin(angle)]
        layers.append((_outlines(lit, 0.7 * radii), 1 + 0.4 * look.shade, ""))
    if look.ink:
        layers.insert(0, (_outlines(centres, radii + look.ink * OVERSAMPLE), 1, "ink"))
    gains = 1 + 0.25 * np.clip(depth - depth.mean(), -0.6, 0.2)
    big = radii.max(axis=1) > 0.012 * side
    for k in np.argsort(depth, kind="stable"):
        for number, (outlines, gain, ink) in enumerate(layers):
            if number == 0 or big[k] or look.ink:
                pen.polygon(outlines[k].ravel().tolist(), fill=_rgb(colours[ink or body.colours[k]], gain * gains[k]))
    _draw_occluders(pen, rng, side, plant, feet)
    return np.asarray(image.reduce(OVERSAMPLE))


# ---------------------------------------------------------------------------------------------------------- effects

def _finish(images, looks, sensors, textures, look):
    """Light, texture, blur, exposure, colour cast and noise over a whole batch (n, 3, size, size) at once."""
    def between(limits, k):
        return (limits[0] + (limits[1] - limits[0]) * looks[:, k])[:, None, None, None]

    size = images.shape[-1]
    x = images.astype(np.float32)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    angle = between((0, 2 * pi), 0)
    slope = np.cos(angle) * ramp + np.sin(angle) * ramp[:, None]
    stretch = _interpolate(textures.shape[-1], size)
    x += between(look.grain, 2) * (stretch @ textures @ stretch.T)[:, None]
    x *= 1 + between(look.light, 1) * slope
    soft = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), "edge")
    soft = 0.25 * (soft[:, :, :-2] + soft[:, :, 2:]) + 0.5 * x
    soft = np.pad(soft, ((0, 0), (0, 0), (0, 0), (1, 1)), "edge")
    soft = 0.25 * (soft[..., :-2] + soft[..., 2:]) + 0.5 * soft[..., 1:-1]
    x += between(look.blur, 3) * (soft - x)
    x *= between(look.exposure, 4) * (1 + look.cast * (2 * looks[:, 5:8, None, None] - 1))
    x += between(look.noise, 8) * sensors
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


@lru_cache(maxsize=None)
def _interpolate(n, size):
    """(size, n) matrix of linear interpolation from n knots to `size` pixels."""
    t = np.linspace(0, n - 1, size)[:, None]
    return np.maximum(0, 1 - np.abs(t - np.arange(n))).astype(np.float32)


def draw(n_per_class, style="field", seed=0, size=32):
    """Draw `n_per_class` animals of each class: images uint8 (6 n, 3, size, size), labels int64 (6 n,).

    Classes take turns (label of image k: k % 6). Image k depends on (seed, style, size, k) alone, so a larger set begins
    with the smaller one, and sets with different seeds share no image. Raises ValueError for an unknown style, a
    negative number or seed, or a size below 8.
    """
    if style not in _LOOKS:
        raise ValueError(f"draw: unknown style {style!r}, choose one of {', '.join(STYLES)}")
    for what, value, least in (("n_per_class", n_per_class, 0), ("seed", seed, 0), ("size", size, 8)):
        if int(value) != value or value < least:
            raise ValueError(f"draw: {what} must be an integer of at least {least}, found {value!r}")
    look, number = _LOOKS[style], STYLES.index(style)
    labels = np.tile(np.arange(len(CLASSES)), n_per_class)
    images = np.empty((len(labels), 3, size, size), np.uint8)
    for start in range(0, len(labels), 240):          # a batch that stays in the cache
        part = images[start:start + 240]
        looks = np.empty((len(part), 9), np.float32)
        sensors = np.empty(part.shape, np.float32)
        textures = np.empty((len(part), 9, 9), np.float32)
        for k in range(len(part)):
            i, c = divmod(start + k, len(CLASSES))
            rng = np.random.default_rng((seed, number, c, i))
            part[k] = _draw_one(rng, CLASSES[c], look, size).transpose(2, 0, 1)
            rng.random(out=looks[k], dtype=np.float32)
            rng.standard_normal(out=sensors[k], dtype=np.float32)
            rng.standard_normal(out=textures[k], dtype=np.float32)
        part[:] = _finish(part, looks, sensors, textures, look)
    return images, labels
