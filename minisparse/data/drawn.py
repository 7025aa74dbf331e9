"""Drawn animals: a data set that needs no download.

`animals.py` builds an animal from tubes in space. Here it is turned to the camera, painted over a scene as
one polygon a tube, reduced with an area filter, and given light, blur and noise. A style says how to paint;
the animals are built alike in all styles, so a net that knows animals should know them in a new style, too.
"""

from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin
from typing import Callable

import numpy as np

from .animals import ANIMALS, CURVE, Body, pick

CLASSES = tuple(ANIMALS)
OVERSAMPLE = 4          # drawn this much larger than asked for, then reduced
BATCH = 240             # images finished at once: what a second-level cache holds


# -------------------------------------------------------------------------------------------------- colours

_FUR = {"black": (40, 37, 38), "white": (226, 222, 214), "grey": (128, 126, 124), "brown": (100, 68, 44),
        "chestnut": (138, 80, 46), "tan": (176, 138, 96), "cream": (212, 188, 148), "ginger": (198, 124, 60)}
_FEATHERS = _FUR | {"blue": (58, 98, 168), "red": (186, 52, 44), "yellow": (222, 186, 60),
                    "green": (80, 140, 70)}
_SKIN = {"green": (92, 146, 52), "olive": (112, 116, 58), "moss": (62, 96, 46), "brown": (116, 86, 54),
         "lime": (150, 178, 60), "grey": (120, 118, 104)}
_HIDE = {name: _FUR[name] for name in ("tan", "chestnut", "brown", "grey")}
_COATS = {"bird": _FEATHERS, "cat": _FUR, "deer": _HIDE, "dog": _FUR, "frog": _SKIN, "horse": _FUR}
_DETAILS = {"eye": (22, 18, 18), "iris": (196, 176, 60), "nose": (48, 36, 36), "mouth": (60, 48, 36),
            "hoof": (50, 42, 38), "pale": (228, 218, 200), "horn": (150, 122, 88), "whisker": (235, 232, 226),
            "tongue": (206, 96, 104), "collar": (190, 40, 44), "beak": (226, 160, 48), "leg": (196, 132, 64),
            "branch": (92, 72, 54)}
_SCENES = (((170, 200, 226), (112, 140, 66), (66, 98, 46)),         # meadow: sky, land, plants
           ((148, 160, 140), (92, 84, 56), (56, 72, 42)),           # wood
           ((206, 206, 206), (220, 222, 226), (112, 116, 112)),     # snow
           ((196, 206, 216), (190, 164, 118), (128, 122, 74)),      # sand
           ((120, 158, 180), (74, 112, 132), (82, 112, 66)),        # water
           ((196, 184, 164), (140, 104, 74), (110, 90, 90)),        # indoors
           ((70, 92, 54), (88, 116, 52), (48, 74, 38)),             # hedge
           ((150, 146, 142), (112, 110, 108), (84, 84, 88)))        # street


def _coat(rng, name):
    """Natural colours of one animal: part -> rgb."""
    coats = list(_COATS[name].values())
    coat, other = (rng.normal(pick(rng, coats), 5) + rng.normal(0, 16) for _ in range(2))
    dark, pale = 0.45 * coat, 0.45 * coat + (129, 125, 117)
    colours = {part: np.array(rgb, float) for part, rgb in _DETAILS.items()}
    if name == "bird" and rng.random() < 0.4:
        colours["beak"] = colours["leg"] = colours["hoof"]
    colours |= {"coat": coat, "belly": pale, "face": pick(rng, (coat, pale, other)),
                "ear": pick(rng, (dark, coat, coat)), "mark": pick(rng, (dark, pale)),
                "wing": pick(rng, (dark, other, 0.8 * coat)), "mane": pick(rng, (dark, dark, pale, other))}
    return colours | {"face": coat, "mark": pale} if name == "deer" else colours


def _outdoors(rng):
    """Natural colours of a scene: sky, land, plants."""
    return [rng.normal(rgb, 6) + rng.normal(0, 14) for rgb in pick(rng, _SCENES)]


def _paper(rng):
    paper = rng.normal((240, 236, 226), 6)
    return paper, paper - rng.uniform(0, 16), paper - rng.uniform(20, 90)


def _washed(rng, colours):
    wash = rng.uniform(0.1, 0.5)
    grey = {part: np.full(3, rgb.mean()) for part, rgb in colours.items()}
    pale = {part: 242 + wash * (rgb - 242) for part, rgb in grey.items()}
    return pale | {part: grey[part] for part in ("eye", "nose", "mouth")}


def _night(rng):
    return [rgb * (0.3, 0.35, 0.5) for rgb in _outdoors(rng)]


def _moonlit(rng, colours):
    dim = {part: rgb * (0.62, 0.68, 0.8) + 12 for part, rgb in colours.items()}
    return dim | {"iris": np.array([190, 220, 150])}


def _bright(rng):
    u = rng.uniform
    return [255 * np.array(hsv_to_rgb(u(0, 1), u(0.2, 0.6), u(0.6, 1))) for _ in range(3)]


def _saturated(rng, colours):
    return {part: rgb.mean() + 1.8 * (rgb - rgb.mean()) for part, rgb in colours.items()}


@dataclass(frozen=True)
class Look:
    """How animals and scenes are painted; ranges are (low, high), drawn anew for each image."""
    scene: Callable = _outdoors                        # rng -> colours of sky, land, plants
    animal: Callable = lambda rng, colours: colours    # natural colours -> those of the look
    shade: float = 0.3              # how round the tubes look
    ink: float = 0.0                # width of outlines, in pixels of the final image
    blur: tuple = (0, 0.7)          # share of a 3 x 3 blur
    noise: tuple = (2, 8)           # standard deviation of the sensor, in grey levels
    grain: tuple = (3, 14)          # the same for slow changes over ground and fur
    light: tuple = (0, 0.3)         # fall of the light from the middle to an edge
    cast: float = 0.06              # relative error of the three channels
    exposure: tuple = (0.75, 1.15)


_LOOKS = {
    "field": Look(),
    "sketch": Look(_paper, _washed, shade=0, ink=0.55, blur=(0, 0.3), noise=(0, 5), grain=(0, 6),
                   light=(0, 0.1), cast=0.03),
    "night": Look(_night, _moonlit, noise=(4, 12), light=(0.1, 0.6)),
    "poster": Look(_bright, _saturated, shade=0, blur=(0, 0.2), noise=(0, 2), grain=(0, 0), light=(0, 0),
                   cast=0),
}
STYLES = tuple(_LOOKS)          # the first to train and test on; the others are sources for validation alone


# -------------------------------------------------------------------------------------------------- drawing

def _project(body, yaw, pitch, roll):
    """Centres (tubes, CURVE, 2), y downwards, radii (tubes, CURVE), and depths (tubes,), larger is nearer."""
    curves = np.stack(body.curves)
    cy, sy, cp, sp, cr, sr = cos(yaw), sin(yaw), cos(pitch), sin(pitch), cos(roll), sin(roll)
    camera = (np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, -cp, sp], [0, sp, cp]]
              @ [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    seen = curves[:, :, :3] @ camera.T
    return seen[:, :, :2], curves[:, :, 3], seen[:, :, 2].mean(axis=1) + body.lifts


# Once around a tube: which point of the curve, and at which angle to its direction. The ends are round.
_STEPS = np.array([0, 0, 0, *range(CURVE), CURVE - 1, CURVE - 1, CURVE - 1])
_ANGLES = pi / 6 * np.array([6, 5, 4, *[3] * CURVE, 2, 1, 0])
_STEPS, _ANGLES = np.r_[_STEPS, _STEPS[-2:0:-1]], np.r_[_ANGLES, -_ANGLES[-2:0:-1]]
_ALONG, _ACROSS = np.cos(_ANGLES)[:, None], np.sin(_ANGLES)[:, None]


def _outlines(centres, radii):
    """The polygons (tubes, points, 2) around the tubes."""
    along = np.empty_like(centres)
    along[:, 1:-1] = centres[:, 2:] - centres[:, :-2]
    along[:, 0], along[:, -1] = centres[:, 1] - centres[:, 0], centres[:, -1] - centres[:, -2]
    along[:, :, 0] += 1e-6          # a ball has no direction: any will do
    along *= (radii / np.hypot(along[:, :, 0], along[:, :, 1]))[:, :, None]
    along = along[:, _STEPS]
    return centres[:, _STEPS] + _ALONG * along + _ACROSS * along[:, :, ::-1] * (-1, 1)


def _rgb(colour, gain=1.0):
    r, g, b = (colour * gain).tolist()
    return min(255, max(0, int(r))), min(255, max(0, int(g))), min(255, max(0, int(b)))


def _draw_scene(pen, rng, side, sky, land, plant):
    """Sky, land, and up to six trunks, bushes or stones."""
    u = rng.uniform
    horizon = side * u(0.1, 0.85)
    left, middle, right = horizon + side * rng.normal(0, 0.06, 3)
    pen.rectangle((0, 0, side, side), fill=_rgb(sky))
    pen.polygon((0, left, side / 2, middle, side, right, side, side, 0, side), fill=_rgb(land))
    for _ in range(int(u(0, 7))):
        x, w, y = u(0, side), side * u(0.03, 0.22), horizon + side * u(-0.15, 0.6)
        fill = _rgb(pick(rng, (plant, plant, land, sky)), u(0.6, 1.3))
        if rng.random() < 0.35:
            pen.rectangle((x, y - side * u(0.3, 0.9), x + 0.4 * w, y), fill=fill)
        else:
            pen.ellipse((x - w, y - u(0.3, 1.2) * w, x + w, y + w), fill=fill)


def _draw_occluders(pen, rng, side, plant, ground):
    """Sometimes grass before the feet, sometimes a post or a wire before everything."""
    u = rng.uniform
    if rng.random() < 0.4:
        tall = side * u(0.05, 0.22)
        for x in side * rng.random(int(u(4, 12))):
            pen.line((x, ground + 0.05 * side, x + tall * u(-0.4, 0.4), ground - tall * u(0, 1)),
                     fill=_rgb(plant, u(0.8, 1.4)), width=side // 48)
    if rng.random() < 0.15:
        at, end = side * (rng.random() + np.array([0, rng.normal(0, 0.15)]))
        pen.line((at, 0, end, side) if rng.random() < 0.5 else (0, at, side, end),
                 fill=_rgb(plant, u(0.5, 1.3)), width=int(side * u(0.02, 0.07)))


def _draw_one(rng, name, look, size):
    """One animal in its scene, (size, size, 3) uint8, still without light, blur and noise."""
    from PIL import Image, ImageDraw
    u, side = rng.uniform, size * OVERSAMPLE
    body = Body()
    ANIMALS[name](body, rng)
    colours = look.animal(rng, _coat(rng, name))
    sky, land, plant = look.scene(rng)

    yaw = rng.normal(-0.25, 0.25) if rng.random() < 0.75 else u(-1.5, 0.6)     # at -pi/2 it faces us
    centres, radii, depths = _project(body, yaw, u(0, 0.3), rng.normal(0, 0.05))
    centres[:, :, 0] *= pick(rng, (-1, 1))
    inside = [colour != "branch" for colour in body.colours]        # a branch may leave the picture
    low = (centres - radii[:, :, None])[inside].min(axis=(0, 1))
    high = (centres + radii[:, :, None])[inside].max(axis=(0, 1))
    scale = side * u(0.8, 1.1) / (high - low).max()
    corner = (side - scale * (high - low)) * u(0.2, 0.8, 2) + side * rng.normal(0, 0.02, 2)
    centres, radii = scale * (centres - low) + corner, scale * radii
    ground = scale * (high - low)[1] + corner[1]

    image = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(image)
    _draw_scene(pen, rng, side, sky, land, plant)
    if not body.airborne and rng.random() < 0.8:        # its shadow
        x, w = centres[0, :, 0].mean(), 0.5 * scale
        pen.ellipse((x - w, ground - 0.15 * w, x + w, ground + 0.2 * w), fill=_rgb(land, 0.6))

    layers = [(_outlines(centres, radii), 1 - look.shade)]
    if look.shade:                                      # a smaller and lighter tube towards the sun
        angle = u(-2.6, -0.5)
        lit = centres + 0.25 * radii[:, :, None] * (cos(angle), sin(angle))
        layers.append((_outlines(lit, 0.7 * radii), 1 + 0.4 * look.shade))
    if look.ink:                                        # a wider one behind
        outlines = _outlines(centres, radii + look.ink * OVERSAMPLE)
    gains = 1 + 0.25 * np.clip(depths - depths.mean(), -0.6, 0.2)
    rounded = (radii.max(axis=1) > 0.012 * side) & (np.array(body.colours) != "mark")
    for k in np.argsort(depths, kind="stable"):
        if look.ink:
            pen.polygon(outlines[k].ravel().tolist(), fill=(45, 45, 45))
        for polygons, gain in layers if rounded[k] else layers[:1]:
            pen.polygon(polygons[k].ravel().tolist(), fill=_rgb(colours[body.colours[k]], gain * gains[k]))
    _draw_occluders(pen, rng, side, plant, ground)
    return np.asarray(image.reduce(OVERSAMPLE))


# -------------------------------------------------------------------------------------------------- effects

@lru_cache(maxsize=None)
def _interpolation(n, size):
    """(size, n) matrix of linear interpolation from n knots to `size` pixels."""
    return np.maximum(0, 1 - np.abs(np.linspace(0, n - 1, size)[:, None] - np.arange(n))).astype(np.float32)


def _finish(images, dice, grain, noise, look):
    """Grain, light, blur, exposure, colour cast and noise, over a whole batch (n, 3, size, size) uint8.

    The randomness of each image: dice (n, 9) in [0, 1); grain (n, k, k) and noise (n, 3, size, size) normal.
    """
    def between(limits, k):
        return (limits[0] + (limits[1] - limits[0]) * dice[:, k])[:, None, None, None]

    size = images.shape[-1]
    stretch = _interpolation(grain.shape[-1], size)
    x = images + between(look.grain, 0) * (stretch @ grain @ stretch.T)[:, None]
    ramp, angle = np.linspace(-1, 1, size, dtype=np.float32), between((0, 2 * pi), 1)
    x *= 1 + between(look.light, 2) * (np.cos(angle) * ramp + np.sin(angle) * ramp[:, None])
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), "edge")
    soft = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    soft = soft[..., :-2] + 2 * soft[..., 1:-1] + soft[..., 2:]
    x += between(look.blur, 3) * (soft / 16 - x)
    x *= between(look.exposure, 4) * (1 + look.cast * (2 * dice[:, 5:8, None, None] - 1))
    x += between(look.noise, 8) * noise
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def draw(n_per_class, style="field", seed=0, size=32):
    """Draw `n_per_class` animals of each class: images uint8 (6 n, 3, size, size), labels int64 (6 n,).

    The classes take turns: image k is of class k % 6. It depends on (seed, style, size, k) alone: a larger
    set begins with the smaller one, and another seed gives other images. `style` is one of STYLES, the first
    for training and testing. Raises ValueError for an unknown style, a negative n_per_class or seed, or a
    size below 8.
    """
    if style not in _LOOKS:
        raise ValueError(f"draw: style must be one of {', '.join(STYLES)}, found {style!r}")
    for what, value, least in (("n_per_class", n_per_class, 0), ("seed", seed, 0), ("size", size, 8)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"draw: {what} must be an integer >= {least}, found {value!r}")
    look = _LOOKS[style]
    labels = np.tile(np.arange(len(CLASSES)), n_per_class)
    images = np.empty((len(labels), 3, size, size), np.uint8)
    for start in range(0, len(labels), BATCH):
        batch = images[start:start + BATCH]
        dice = np.empty((len(batch), 9), np.float32)
        grain = np.empty((len(batch), 9, 9), np.float32)
        noise = np.empty(batch.shape, np.float32)
        for k in range(len(batch)):
            i, label = divmod(start + k, len(CLASSES))
            rng = np.random.default_rng((seed, STYLES.index(style), label, i))
            batch[k] = _draw_one(rng, CLASSES[label], look, size).transpose(2, 0, 1)
            rng.random(out=dice[k], dtype=np.float32)
            rng.standard_normal(out=grain[k], dtype=np.float32)
            rng.standard_normal(out=noise[k], dtype=np.float32)
        batch[:] = _finish(batch, dice, grain, noise, look)
    return images, labels
