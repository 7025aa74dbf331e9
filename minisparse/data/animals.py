"""The anatomy of the drawn animals: how a bird, a cat, a deer, a dog, a frog and a horse are put together.

An animal is a list of tapered tubes in space: trunk, legs, ears, antlers and eyes are all tubes. x points
forward, y up, z to the animal's near side; the ground is y = 0 and a trunk is about 1 long. Nothing here
knows how it will be painted: a tube only names its colour ("coat", "horn", "eye").
"""

from functools import lru_cache
from math import cos, sin

import numpy as np

CURVE = 8       # points along a tube


class Body:
    """The tubes of one animal: curves (CURVE, 4) of x, y, z and radius, and the names of their colours.

    A lift adds to a tube's nearness, so that it is drawn later than its place in space alone would have it.
    An airborne animal throws no shadow at its feet.
    """

    def __init__(self):
        self.curves, self.colours, self.lifts = [], [], []
        self.airborne = False

    def tube(self, points, radii, colour, lift=0.0):
        """A smooth tube through `points` [(x, y, z), ...]; `radii` is one number, or one for each point."""
        control = np.empty((len(points), 4))
        control[:, :3] = points
        control[:, 3] = radii
        self.curves.append(_spline(len(points)) @ control)
        self.colours.append(colour)
        self.lifts.append(lift)

    def pair(self, points, radii, colour):
        """The same tube on both sides."""
        for side in (1, -1):
            self.tube([(x, y, side * z) for x, y, z in points], radii, colour)


class Head:
    """A frame within a body, in radii of the skull; nod lifts the face, turn shows it to the near side."""

    def __init__(self, body, centre, skull, nod, turn):
        self.body, self.centre, self.skull = body, centre, skull
        cn, sn, ct, st = cos(nod), sin(nod), cos(turn), sin(turn)
        self.axes = skull * np.array([[cn * ct, sn, cn * st], [-sn * ct, cn, -sn * st], [-st, 0.0, ct]])

    def tube(self, points, radii, colour, lift=0.0):
        self.body.tube(self.centre + np.array(points) @ self.axes, np.array(radii) * self.skull, colour, lift)

    pair = Body.pair


@lru_cache(maxsize=None)
def _spline(n):
    """(CURVE, n) matrix from n control points to points of the Catmull-Rom curve through them."""
    if n == 1:
        return np.ones((CURVE, 1))
    t = np.linspace(0, n - 1, CURVE)
    i = np.minimum(t.astype(int), n - 2)
    u = (t - i)[:, None]
    knots, slopes = np.eye(n), np.gradient(np.eye(n), axis=0)
    return ((1 + 2 * u) * (1 - u) ** 2 * knots[i] + u * (1 - u) ** 2 * slopes[i]
            + u * u * (3 - 2 * u) * knots[i + 1] + u * u * (u - 1) * slopes[i + 1])


def pick(rng, options):
    """One of `options`; much faster than rng.choice."""
    return options[int(rng.random() * len(options))]


# ------------------------------------------------------------------------------------------ the four-legged

def _quadruped(body, rng, pose, *, leg, length, chest, waist, bone, neck, throat, rise, nod, skull, muzzle,
               snout, feet="coat"):
    """Trunk, legs, neck and head. Returns the Head, and where mane and tail begin: withers and rump."""
    u = rng.uniform
    hip = np.array([-length / 2, leg + 0.6 * waist, 0])
    shoulder = np.array([length / 2, leg + 0.5 * chest, 0])
    if pose == "sit":
        hip[:2], shoulder[:2] = (-0.25 * length, waist), (0.2 * length, leg + 0.6 * chest)
    elif pose == "lie":
        hip[1], shoulder[1] = waist, 1.05 * chest
    elif pose == "run":
        hip[1] += u(0, 0.2) * leg
        shoulder[1] += u(0, 0.3) * leg
    middle = (hip + shoulder) / 2 + [0, 0.1 * waist, 0]
    body.tube([hip, middle, shoulder], [1.05 * waist, waist, chest], "coat")

    stride = {"stand": 0.12, "graze": 0.2, "walk": 0.45, "run": 0.9}.get(pose, 0) * leg
    gallop = pick(rng, (-1, 1))      # all four legs stretched out, or gathered
    for end, fore, thick in ((shoulder, True, chest), (hip, False, waist)):
        for side in (-1, 1):
            x, y, z = end[0], end[1], 0.55 * side * thick
            step = stride * (u(0.5, 1) * gallop * (1 if fore else -1) if pose == "run" else u(-1, 1))
            lift = stride * 0.6 * max(0, u(-1, 1))
            foot = (x + step, lift + bone, z)
            if pose == "lie":
                z *= 1.3
                foot = (x + 0.7 * leg, bone, z)
                points = [(x, 0.7 * y, z), (x + 0.1 * leg, 1.2 * bone, z)]
                radii = [(0.5 if fore else 0.8) * thick, 1.4 * bone]
            elif pose == "sit" and not fore:
                z *= 1.4
                foot = (x + 0.75 * leg, bone, z)
                points = [(x, y, 0.8 * z), (x + 0.3 * leg, 0.75 * y, z), (x + 0.1 * leg, bone, z)]
                radii = [0.7 * waist, 0.55 * waist, 1.2 * bone]
            elif fore:
                points = [(x, y, z), (x + 0.55 * step + 0.05 * leg, lift + 0.5 * y, z)]
                radii = [2.6 * bone, 1.25 * bone]
            else:
                points = [(x, y, z), (x + 0.3 * step + 0.1 * leg, lift + 0.6 * y, z),
                          (x + 0.8 * step - 0.16 * leg, lift + 0.33 * y, z)]
                radii = [3.2 * bone, 2 * bone, bone]
            body.tube([*points, foot], [*radii, 0.9 * bone], "coat")
            body.tube([foot, (foot[0] + 1.3 * bone, foot[1] - 0.2 * bone, z)], 1.05 * bone, feet)

    base = shoulder + [0.35 * chest, 0.25 * chest, 0]
    if pose == "graze":
        rise, nod = u(-1.2, -0.7), u(-1.3, -0.8)
    poll = base + [neck * cos(rise), neck * sin(rise), 0]
    body.tube([shoulder + [0.1 * chest, 0.15 * chest, 0], (base + poll) / 2, poll],
              [0.8 * chest, 1.15 * throat, throat], "coat")
    head = Head(body, poll, skull, nod, u(-0.5, 1))
    head.tube([(0, 0, 0)], 1, "coat")
    head.tube([(0.3, -0.1, 0), (muzzle, -0.3, 0)], [0.8, snout], "face")
    head.tube([(muzzle + 0.7 * snout, 0.3 * snout - 0.3, 0)], 0.45 * snout, "nose")
    return head, shoulder + [0, 0.8 * chest, 0], hip + [-0.8 * waist, 0.4 * waist, 0]


def _markings(body, rng, kind, number):
    """Stripes, spots or patches along the trunk, which is the body's first tube."""
    u = rng.uniform
    for x, y, _, r in np.linspace(body.curves[0][0], body.curves[0][-1], number):
        x += u(-0.05, 0.05)
        if kind == "stripes":
            body.tube([(x, y + 0.95 * r, 0), (x + 0.1 * r, y + 0.3 * r, 0.9 * r), (x, y - 0.4 * r, 0.8 * r)],
                      [0.1 * r, 0.16 * r, 0.05 * r], "mark")
        elif kind == "spots":
            body.tube([(x, y + u(-0.3, 0.7) * r, 0.8 * r)], 0.15 * r, "mark")
        else:
            body.tube([(x, y + u(-0.3, 0.4) * r, 0.3 * r)], u(0.4, 0.65) * r, "mark")


def _cat(body, rng):
    u = rng.uniform
    pose = pick(rng, ("stand", "walk", "sit", "sit", "lie", "run"))
    head, _, (x, y, _) = _quadruped(
        body, rng, pose, leg=u(0.26, 0.36), length=u(0.5, 0.66), chest=u(0.14, 0.18), waist=u(0.13, 0.17),
        bone=u(0.036, 0.046), neck=0.15, throat=0.11, rise=u(0.5, 1), nod=u(-0.3, 0.1), skull=u(0.2, 0.25),
        muzzle=0.75, snout=0.38)
    ear = u(1.45, 1.75)
    head.pair([(-0.1, 0.55, 0.6), (-0.15, ear, 0.75)], [0.5, 0.05], "coat")
    head.pair([(0.1, 0.65, 0.6), (0.02, ear - 0.2, 0.72)], [0.26, 0.04], "ear")
    head.pair([(0.75, 0.15, 0.5)], 0.24, "iris")
    head.pair([(0.92, 0.15, 0.53)], 0.12, "eye")
    for droop in (-0.5, -0.15):
        head.pair([(0.8, -0.25, 0.3), (0.9, droop, 1.5)], 0.045, "whisker")
    tail = pick(rng, ([(-0.2, 0.05), (-0.3, 0.3), (-0.2, 0.6)], [(-0.25, -0.1), (-0.5, -0.05), (-0.7, 0.15)],
                      [(-0.1, 0.25), (-0.15, 0.5), (-0.35, 0.6)]))
    resting = pose in ("sit", "lie")
    if resting:                        # the tail lies around the near side
        tail = [(-0.15, 0.06 - y), (0.05, 0.05 - y), (0.45, 0.05 - y)]
    body.tube([(x + 0.1, y, 0), *[(x + dx, y + dy, 0.4 * resting) for dx, dy in tail]],
              [0.055, 0.05, 0.045, 0.04], "coat")
    if rng.random() < 0.5:
        _markings(body, rng, "stripes", 5)


def _dog(body, rng):
    u = rng.uniform
    pose = pick(rng, ("stand", "stand", "walk", "run", "sit", "lie", "graze"))
    head, _, (x, y, _) = _quadruped(
        body, rng, pose, leg=u(0.22, 0.5), length=u(0.5, 0.75), chest=u(0.16, 0.23), waist=u(0.12, 0.17),
        bone=u(0.042, 0.062), neck=u(0.18, 0.3), throat=u(0.1, 0.13), rise=u(0.5, 1.1), nod=u(-0.4, 0.1),
        skull=u(0.17, 0.21), muzzle=u(1.3, 1.9), snout=u(0.38, 0.55))
    if rng.random() < 0.65:
        head.pair([(-0.1, 0.7, 0.75), (-0.1, 0.2, 1.1), (0, u(-1.1, -0.4), 1.1)], [0.2, 0.36, 0.3], "ear")
    else:
        head.pair([(-0.3, 0.6, 0.5), (-0.4, 1.6, 0.6)], [0.4, 0.08], "ear")
    head.pair([(0.75, 0.3, 0.5)], 0.17, "eye")
    if rng.random() < 0.25:
        head.tube([(1.1, -0.6, 0), (1.2, -1, 0)], 0.2, "tongue")
    tail = pick(rng, ([(-0.15, 0.2), (-0.15, 0.42)], [(-0.12, 0.2), (0.05, 0.3)],
                      [(-0.2, -0.05), (-0.35, 0.05)]))
    body.tube([(x + 0.1, y, 0), *[(x + dx, y + dy, 0.03) for dx, dy in tail]],
              [0.06, u(0.045, 0.08), 0.035], "coat")
    if rng.random() < 0.3:
        _markings(body, rng, "patches", 3)
    if rng.random() < 0.25:
        body.tube([head.centre - [0.03, 0.18, 0.06], head.centre - [0.03, 0.19, -0.06]], 0.06, "collar", 0.05)


def _deer(body, rng):
    u = rng.uniform
    pose = pick(rng, ("stand", "stand", "walk", "run", "graze", "lie"))
    head, _, (x, y, _) = _quadruped(
        body, rng, pose, leg=u(0.5, 0.64), length=u(0.55, 0.72), chest=u(0.17, 0.21), waist=u(0.14, 0.18),
        bone=u(0.027, 0.035), neck=u(0.38, 0.5), throat=u(0.07, 0.09), rise=u(0.8, 1.25), nod=u(-0.6, -0.2),
        skull=u(0.095, 0.11), muzzle=u(1.6, 2.1), snout=0.5, feet="hoof")
    head.pair([(-0.3, 0.5, 0.6), (-0.5, 1.1, 1.5), (-0.5, 1.4, 2.2)], [0.2, 0.42, 0.08], "coat")
    head.pair([(0.5, 0.35, 0.75)], 0.24, "eye")
    if rng.random() < 0.6:
        tall, wide = u(2.5, 4.2), u(1.2, 2.4)
        head.pair([(-0.2, 0.9, 0.3), (-1, 0.6 * tall, wide), (0, tall, 0.9 * wide)], [0.2, 0.17, 0.1], "horn")
        head.pair([(-0.5, 0.35 * tall, 0.6 * wide), (0.8, 0.6 * tall, 0.7 * wide)], [0.15, 0.09], "horn")
        head.pair([(-0.9, 0.6 * tall, wide), (-1.4, 0.95 * tall, 1.1 * wide)], [0.14, 0.09], "horn")
    body.tube([(x + 0.06, y - 0.06, 0)], 0.09, "pale", lift=0.01)
    body.tube([(x + 0.02, y, 0), (x - 0.05, y - u(-0.1, 0.1), 0)], [0.05, 0.03], "pale", lift=0.02)
    hip, *_, shoulder = body.curves[0]
    body.tube([hip[:3] - [0, 0.6 * hip[3], 0], shoulder[:3] - [0, 0.65 * shoulder[3], 0]], 0.06, "pale")
    if rng.random() < 0.35:
        _markings(body, rng, "spots", 9)


def _horse(body, rng):
    u = rng.uniform
    pose = pick(rng, ("stand", "stand", "walk", "run", "graze", "graze"))
    head, withers, (x, y, _) = _quadruped(
        body, rng, pose, leg=u(0.5, 0.62), length=u(0.65, 0.82), chest=u(0.23, 0.27), waist=u(0.2, 0.25),
        bone=u(0.042, 0.055), neck=u(0.48, 0.6), throat=u(0.1, 0.13), rise=u(0.6, 1.1), nod=u(-0.95, -0.5),
        skull=u(0.12, 0.135), muzzle=u(2.3, 2.8), snout=0.55, feet="hoof")
    head.pair([(-0.3, 0.7, 0.4), (-0.2, 1.5, 0.5)], [0.25, 0.05], "coat")
    head.pair([(0.6, 0.35, 0.75)], 0.18, "eye")
    if rng.random() < 0.4:
        head.tube([(0.7, 0.65, 0), (2, 0.3, 0)], [0.2, 0.15], "pale", lift=0.02)
    head.tube([(0, 1, 0), (0.5, 0.9, 0.2)], [0.3, 0.12], "mane")
    poll, back, mane = head.centre, np.array([-0.07, 0.06, 0.02]), u(0.07, 0.11)
    body.tube([poll + back, (poll + withers) / 2 + 1.2 * back, withers],
              [0.8 * mane, mane, 0.5 * mane], "mane")
    flow, drop = (0.35, 0) if pose == "run" else (u(0.05, 0.15), 0.15)
    body.tube([(x + 0.06, y, 0), (x - flow, y - drop, 0.03), (x - 1.3 * flow, y - u(0.35, 0.55), 0.03)],
              [0.05, 0.085, 0.03], "mane")
    if rng.random() < 0.2:
        _markings(body, rng, "patches", 3)


# ----------------------------------------------------------------------------------------------- the others

def _bird(body, rng):
    u = rng.uniform
    pose = pick(rng, ("perch", "perch", "stand", "wade", "fly", "fly", "swim"))
    body.airborne = pose == "fly"
    tilt = u(-0.1, 0.15) if pose in ("fly", "swim") else u(0.1, 0.9)
    legs = {"swim": 0, "wade": u(0.45, 0.6)}.get(pose, u(0.12, 0.22))
    girth, tail = u(0.19, 0.27), u(0.5, 0.75)
    along = np.array([cos(tilt), sin(tilt), 0])
    middle = np.array([0, legs + girth * (0.8 + 0.6 * max(along[1], 0)), 0])
    chest = middle + 0.22 * along
    body.tube([middle - 0.28 * along, middle, chest], [0.4 * girth, girth, 0.8 * girth], "coat")
    body.tube([middle + [0.03, -0.25 * girth, 0], chest - [0, 0.1 * girth, 0]],
              [0.7 * girth, 0.6 * girth], "belly")
    body.tube([middle - 0.25 * along, middle - tail * along], [0.4 * girth, u(0.06, 0.13)], "wing")

    slim = pose == "wade" or (pose == "swim" and rng.random() < 0.5)
    neck, skull = (u(0.35, 0.55), u(0.1, 0.12)) if slim else (u(0.05, 0.16), u(0.13, 0.17))
    ahead, above = (1, 0.2) if pose == "fly" else (0.3, 0.95)
    poll = chest + [0.1 + ahead * neck, 0.1 + above * neck, 0]
    body.tube([chest, (chest + poll) / 2 + [0.04, 0, 0], poll],
              [0.6 * girth, (0.6 if slim else 1) * skull, 0.75 * skull], "coat")
    head = Head(body, poll, skull, u(-0.3, 0.15), u(-0.4, 0.7))
    head.tube([(0, 0, 0)], 1, "face")
    head.tube([(0.7, -0.1, 0), (u(2.2, 3.4) if slim else u(1.6, 2.3), -0.3, 0)],
              [0.42, 0.3 if pose == "swim" else 0.08], "beak")
    head.pair([(0.45, 0.25, 0.75)], 0.22, "eye")
    if rng.random() < 0.2:
        head.tube([(0.1, 0.8, 0), (-0.7, 1.7, 0)], [0.35, 0.08], "wing")      # a crest

    beat, bank, sweep, span = u(-0.3, 0.8), rng.normal(0, 0.35), u(-0.35, 0.1), u(0.75, 1.05)
    for side in (-1, 1):
        if pose == "fly":
            rise = beat + side * bank
            elbow, tip = (np.array([0, sin(a), side * cos(a)]) * span for a in (rise + 0.25, rise))
            body.tube([middle + [0.05, 0.3 * girth, side * 0.5 * girth], middle + 0.5 * elbow + [0.08, 0, 0],
                       middle + tip + [sweep, 0, 0]], [0.16, 0.17, 0.03], "wing")
            continue
        out = np.array([0, 0, side * girth])
        body.tube([middle + 0.1 * along + 0.75 * out, middle - 0.15 * along + 0.7 * out,
                   middle - 0.45 * along + 0.25 * out], [0.55 * girth, 0.5 * girth, 0.05], "wing")
        if pose != "swim":
            step, z = u(-0.08, 0.1), 0.08 * side
            hip = (0, middle[1] - 0.6 * girth, z)
            body.tube([hip, (0.03 + step / 2, legs / 2, z), (step, 0, z)], 0.02, "leg")
            body.tube([(step - 0.06, 0, z), (step + 0.1, 0, z)], 0.018, "leg")
    if pose == "perch":
        body.tube([(-1, u(-0.2, 0.1), 0), (0, -0.05, 0), (1, u(-0.2, 0.1), 0)], u(0.03, 0.06), "branch", -0.1)


def _frog(body, rng):
    u = rng.uniform
    body.airborne = rng.random() < 0.25
    girth = u(0.2, 0.27)
    rump, chest = np.array([-0.28, 0.2, 0]), np.array([0.05, 0.2 + 0.33 * sin(u(0.2, 0.6)), 0])
    if body.airborne:
        rump, chest = rump + [0, 0.15, 0], chest + [0.05, 0.35, 0]
    body.tube([rump, (rump + chest) / 2 + [0, 0.04, 0], chest], [0.75 * girth, girth, girth], "coat")
    body.tube([chest + [0.02, -0.1, -0.08], chest + [0.02, -0.1, 0.08]], 0.8 * girth, "belly")
    head = Head(body, chest + [0.22, 0.08, 0], 0.2, u(-0.1, 0.35), u(-0.3, 0.4))
    head.tube([(0, 0, -0.5), (0, 0, 0.5)], 0.85, "coat")
    head.tube([(0, 0, 0), (0.5, -0.05, 0)], [0.85, 0.7], "coat")
    head.tube([(0.1, -0.4, 0), (0.55, -0.35, 0)], [0.7, 0.5], "belly", lift=-0.001)
    head.pair([(0.05, -0.25, 1.2), (0.7, -0.2, 0.75), (1.1, -0.18, 0)], 0.06, "mouth")
    bulge = u(0.4, 0.52)
    head.pair([(-0.05, 0.75, 0.75)], bulge, "coat")
    head.pair([(0.08, 0.85, 0.9)], 0.75 * bulge, "iris")
    head.pair([(0.2, 0.87, 1.05)], 0.4 * bulge, "eye")
    for side in (-1, 1):
        (x, y, _), (front, top, _) = rump, chest
        if body.airborne:
            joints = ((x - 0.2, y - u(0, 0.15), 0.3), (x - 0.45, y - u(0.1, 0.3), 0.25),
                      (x - 0.7, y - 0.35, 0.3), (front + u(0.2, 0.4), top - u(0.2, 0.4), 0.3))
        else:
            joints = ((x + u(0.22, 0.32), y + u(0.02, 0.18), u(0.36, 0.46)), (x - 0.02, 0.06, 0.4),
                      (x + 0.35, 0.03, 0.5), (front + u(0.05, 0.2), 0.03, 0.27))
        knee, ankle, toe, hand = np.array(joints) * [1, 1, side]
        body.tube([(x, y, 0.16 * side), knee], [0.13, 0.1], "coat")
        body.tube([knee, ankle], [0.085, 0.05], "coat")
        body.tube([ankle, toe, toe + [0.1, 0, 0.06 * side]], [0.045, 0.04, 0.07], "coat")
        elbow = (front - 0.02, (top + hand[1]) / 2, 0.3 * side)
        body.tube([(front, top - 0.05, 0.17 * side), elbow, hand, hand + [0.09, 0, 0.05 * side]],
                  [0.08, 0.055, 0.035, 0.06], "coat")
    if rng.random() < 0.5:
        _markings(body, rng, "spots", 4)


ANIMALS = {"bird": _bird, "cat": _cat, "deer": _deer, "dog": _dog, "frog": _frog, "horse": _horse}
