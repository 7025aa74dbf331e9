"""Image folders and zips, CIFAR-10, MNIST: right pixels from good files, one or two lines about bad ones."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minisparse.data import cifar, decode, mnist
from minisparse.data.cifar import read_cifar10
from minisparse.data.errors import DataError
from minisparse.data.images import read_images, read_validation
from minisparse.data.mnist import read_mnist


def picture(seed=0, width=32, height=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels, format="PNG", **options):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, format, **options)
    return file.getvalue()


def two_classes(count=5):
    return {f"{name}/{i}.png": png(picture(i + 100 * (name == "dog")))
            for name in ("cat", "dog") for i in range(count)}


def write_folder(path, files):
    for name, data in files.items():
        if name.endswith("/"):
            (path / name).mkdir(parents=True)
            continue
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def both(tmp_path, files):
    """The same files as a folder and as a zip."""
    return write_folder(tmp_path / "a", files), write_zip(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED)


def in_parts(files, parts=("train", "test")):
    return {f"{part}/{name}": data for part in parts for name, data in files.items()}


def read_one(tmp_path, data, name="dog/x.png", size=32):
    """The one image, as (size, size, 3)."""
    found = read_validation(write_folder(tmp_path, {name: data}), ("dog",), size)
    assert found.images.shape == (1, 3, size, size) and found.images.dtype == np.uint8
    return found.images[0].transpose(1, 2, 0)


def complaint(call, *args, **options):
    """The message of the DataError that the call must raise: short, and no traceback of something else."""
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    text = str(caught.value)
    assert 1 <= len(text.splitlines()) <= 2 and all(line.strip() for line in text.splitlines())
    return text


# -- pixels --------------------------------------------------------------------------------------------------

def test_rgb_of_the_right_size_is_untouched(tmp_path):
    np.testing.assert_array_equal(read_one(tmp_path, png(picture())), picture())


@pytest.mark.parametrize("format, options", [
    ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TGA", {}), ("PPM", {}), ("PCX", {}),
    ("WEBP", {"lossless": True}), ("SGI", {}), ("JPEG2000", {"irreversible": False})])
def test_lossless_formats_whatever_the_extension(tmp_path, format, options):
    pixels = read_one(tmp_path, png(picture(), format, **options), name="dog/wrong.JPG")
    np.testing.assert_array_equal(pixels, picture())


def test_lossy_formats(tmp_path):
    smooth = np.uint8(np.add.outer(np.arange(32), np.arange(32))[..., None] * [4, 2, 1])
    for format in ("JPEG", "GIF", "ICO"):
        data = png(smooth, format, **({"sizes": [(32, 32)]} if format == "ICO" else {}))
        assert np.abs(read_one(tmp_path, data).astype(int) - smooth).mean() < 6


def test_grey_palette_and_bilevel(tmp_path):
    grey = picture()[..., 0]
    np.testing.assert_array_equal(read_one(tmp_path, png(grey)), grey[..., None].repeat(3, 2))
    palette = Image.fromarray(picture()).quantize(16)
    np.testing.assert_array_equal(read_one(tmp_path, png(palette)), np.array(palette.getpalette(),
                                  np.uint8).reshape(-1, 3)[np.asarray(palette)])
    bilevel = np.uint8(grey > 127) * 255
    np.testing.assert_array_equal(read_one(tmp_path, png(Image.fromarray(bilevel).convert("1"))),
                                  bilevel[..., None].repeat(3, 2))


def test_transparency_shows_white(tmp_path):
    alpha = picture(1)[..., :1].astype(int)
    expected = (picture() * alpha + 255 * (255 - alpha)) / 255
    rgba = png(np.concatenate([picture(), alpha.astype(np.uint8)], 2))
    assert np.abs(read_one(tmp_path, rgba) - expected).max() <= 1
    grey = np.concatenate([picture()[..., :1], alpha.astype(np.uint8)], 2)
    assert np.abs(read_one(tmp_path, png(grey)) - expected[..., :1]).max() <= 1
    palette = Image.fromarray(np.uint8(np.arange(1024).reshape(32, 32) % 2))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    pixels = read_one(tmp_path, png(palette, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[0, 1].tolist() == [200, 0, 0]


def test_colour_hidden_under_transparency_does_not_bleed_into_a_reduced_image(tmp_path):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, ::2] = [255, 0, 0, 255]         # every other column red, the rest clear (and black below)
    assert np.abs(read_one(tmp_path, png(rgba)).astype(int) - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_not_clipped(tmp_path, format):
    deep = np.random.default_rng(0).integers(0, 65536, (32, 32), dtype=np.uint16)
    deep[0, :4] = [0, 1000, 32768, 65535]
    pixels = read_one(tmp_path, png(deep, format))
    np.testing.assert_array_equal(pixels, np.round(deep / 257).astype(np.uint8)[..., None].repeat(3, 2))


def test_big_endian_16_bits_and_float(tmp_path):
    deep = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64    # a TIFF by hand: pillow saves none
    entries = [(256, 32), (257, 32), (258, 16), (259, 1), (262, 1), (273, 200), (277, 1), (278, 32),
               (279, 2048)]
    body = struct.pack(">2sHIH", b"MM", 42, 8, len(entries))
    body += b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    pixels = read_one(tmp_path, body.ljust(200, b"\0") + deep.astype(">u2").tobytes(), "dog/x.png")
    np.testing.assert_array_equal(pixels[..., 1], np.round(deep / 257))
    unit = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    np.testing.assert_array_equal(read_one(tmp_path, png(unit, "TIFF"))[..., 0], np.floor(unit * 255 + 0.5))
    scaled = png(unit * 255, "TIFF")
    np.testing.assert_array_equal(read_one(tmp_path, scaled)[..., 0], np.floor(unit * 255 + 0.5))
    assert "expected 0 to 255" in complaint(read_one, tmp_path, png(unit * 4000 - 9, "TIFF"))


def test_cmyk_and_ycbcr(tmp_path):
    cmyk = Image.fromarray(picture()).convert("CMYK")
    np.testing.assert_array_equal(read_one(tmp_path, png(cmyk, "TIFF")), picture())
    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))            # ink for red
    assert np.abs(read_one(tmp_path, png(flat, "JPEG")).astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "P"])
def test_every_exif_orientation(tmp_path, mode):
    """What is stored, against what the standard says lies at each pixel of the picture that is shown."""
    value = np.random.default_rng(0).permutation(32 * 32).reshape(32, 32)
    if mode == "I;16":
        shown = np.round(value * 64 / 257).astype(np.uint8)
        make = lambda v: Image.fromarray(np.uint16(v * 64))
    elif mode == "P":
        shown, make = np.uint8(value % 256), lambda v: Image.fromarray(np.uint8(v % 256)).convert("P")
    else:
        shown, make = np.uint8(value % 256), lambda v: Image.fromarray(np.uint8(v % 256)).convert(mode)
    stored = {1: value, 2: value[:, ::-1], 3: value[::-1, ::-1], 4: value[::-1], 5: value.T,
              6: np.rot90(value), 7: value[::-1, ::-1].T, 8: np.rot90(value, -1)}
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = png(make(np.ascontiguousarray(pixels)), exif=exif)
        np.testing.assert_array_equal(read_one(tmp_path, data)[..., 0], shown)


def test_large_images_are_cropped_to_the_central_square_and_averaged(tmp_path):
    pixels = picture(0, 128 + 40, 128)
    mean = pixels[:, 20:-20].reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(read_one(tmp_path, png(pixels)) - mean).max() <= 1
    tall = pixels.transpose(1, 0, 2)
    assert np.abs(read_one(tmp_path, png(tall)) - mean.transpose(1, 0, 2)).max() <= 1


@pytest.mark.parametrize("side, size", [(33, 32), (48, 32), (77, 32), (63, 8)])
def test_the_mean_is_over_equal_areas_whatever_the_ratio(tmp_path, side, size):
    pixels = picture(0, side, side)
    exact = pixels.repeat(size, 0).repeat(size, 1).reshape(size, side, size, side, 3).mean((1, 3))
    assert np.abs(read_one(tmp_path, png(pixels), size=size) - exact).max() <= 0.51


def test_the_mean_of_a_very_large_image_leaves_out_a_margin_of_less_than_a_block(tmp_path):
    pixels = picture(0, 262, 262)               # to 8: blocks of 4, the central 260
    blocks = pixels[1:-1, 1:-1].reshape(65, 4, 65, 4, 3).mean((1, 3))
    exact = blocks.repeat(8, 0).repeat(8, 1).reshape(8, 65, 8, 65, 3).mean((1, 3))
    assert np.abs(read_one(tmp_path, png(pixels), size=8) - exact).max() <= 1.01


def test_a_large_jpeg_is_averaged_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    small = picture(3, 32, 32)
    large = png(np.rot90(small.repeat(24, 0).repeat(24, 1)), "JPEG", quality=98, subsampling=0, exif=exif)
    assert np.abs(read_one(tmp_path, large).astype(int) - small).mean() < 2


def test_small_images_grow_smoothly_and_other_sizes_work(tmp_path):
    ramp = np.uint8(np.arange(8)[None, :, None] * 30 + np.zeros((8, 1, 3)))
    grown = read_one(tmp_path, png(ramp)).astype(int)
    assert (np.diff(grown[16, 4:-4, 0]) >= 0).all() and len(set(grown[16, :, 0])) > 20
    np.testing.assert_array_equal(read_one(tmp_path, png(picture(0, 20, 20)), size=20), picture(0, 20, 20))


def test_only_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = png(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_one(tmp_path, data)[5, 5].tolist() == [255, 0, 0]


# -- folders and zips ----------------------------------------------------------------------------------------

def test_split_is_stratified_seeded_and_the_same_from_folder_and_zip(tmp_path):
    files = two_classes(10)
    folder, archive = write_folder(tmp_path / "set", files), write_zip(tmp_path / "set.zip", files)
    train, test = read_images(folder, seed=3)
    assert train.classes == ("cat", "dog")
    assert train.images.flags.c_contiguous and train.labels.dtype == np.int64
    assert np.bincount(train.labels).tolist() == [8, 8] and np.bincount(test.labels).tolist() == [2, 2]
    assert sorted(train.names + test.names) == sorted(files)
    for part in (train, test):
        assert len(part) == len(part.names) == len(part.images) and part.left_out == []
        for image, label, name in zip(part.images, part.labels, part.names):
            assert name.startswith(part.classes[label] + "/")
            np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(Image.open(folder / name)))
    again = read_images(archive, seed=3)
    assert (again[0].names, again[1].names) == (train.names, test.names)
    np.testing.assert_array_equal(again[0].images, train.images)
    assert read_images(folder, seed=4)[1].names != test.names
    assert np.bincount(read_images(folder, test_share=0.5)[1].labels).tolist() == [5, 5]


@pytest.mark.parametrize("prefix", ["", "photos/"])
def test_train_and_test_folders_a_wrapping_folder_and_clutter(tmp_path, prefix):
    files = {f"{prefix}{name}": data for name, data in in_parts(two_classes(2)).items()}
    clutter = {"__MACOSX/._x": b"", ".DS_Store": b"", f"{prefix}train/.hidden/x.png": b"",
               f"{prefix}train/._cat": b"", f"{prefix}train/cat/notes.txt": b"hello", "preview.png": b"no",
               f"{prefix}README.md": b"", f"{prefix}test/cat/._0.png": b"", f"{prefix}test/labels.csv": b""}
    for path in both(tmp_path, files | clutter):
        train, test = read_images(path)
        assert sorted(train.names + test.names) == sorted(files)
        assert all("train/" in name for name in train.names) and all("test/" in name for name in test.names)
        everything = read_validation(path, ("bird", "cat", "dog"))
        assert np.bincount(everything.labels).tolist() == [0, 4, 4]
        assert everything.classes == ("bird", "cat", "dog")


def test_folders_below_a_class_and_links(tmp_path):
    write_folder(tmp_path / "there", {"deep/1.png": png(picture(1)), "2.png": png(picture(2))})
    write_folder(tmp_path / "set", {"cat/1.png": png(picture()), "cat/2.png": png(picture())})
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "round").symlink_to(tmp_path / "set")
    train, test = read_images(tmp_path / "set")
    assert sorted(train.names + test.names) == ["cat/1.png", "cat/2.png", "dog/2.png", "dog/deep/1.png"]


def test_subset(tmp_path):
    found = read_validation(write_folder(tmp_path, two_classes()), ("cat", "dog"))
    part = found.subset(np.array([7, 0]))
    assert part.names == ["dog/2.png", "cat/0.png"] and part.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(part.images[0].transpose(1, 2, 0), picture(102))


# -- bad folders and zips ------------------------------------------------------------------------------------

def test_bad_places(tmp_path):
    assert "no such file or folder" in complaint(read_images, tmp_path / "missing")
    (tmp_path / "no.zip").write_bytes(b"PK\3\4 and nothing more")
    assert "no.zip" in complaint(read_images, tmp_path / "no.zip")
    whole = write_zip(tmp_path / "a.zip", two_classes()).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[:len(whole) // 2])
    assert "half.zip" in complaint(read_images, tmp_path / "half.zip")
    (tmp_path / "empty").mkdir()
    assert "no class folders" in complaint(read_images, tmp_path / "empty")
    write_folder(tmp_path / "loose", {"1.png": png(picture())})
    assert "no class folders" in complaint(read_images, tmp_path / "loose")
    assert "no class folders" in complaint(read_images, write_zip(tmp_path / "none.zip", {}))


@pytest.mark.parametrize("extra", [{"bird/": b""}, {"bird/notes.txt": b"no image"}, {"bird/.1.png": b""}])
def test_an_empty_class_folder(tmp_path, extra):
    for path in both(tmp_path, two_classes() | extra):
        for skip_bad in (False, True):
            assert "bird has no images" in complaint(read_images, path, skip_bad=skip_bad)


def test_bad_sets(tmp_path):
    one = {name: data for name, data in two_classes().items() if name.startswith("dog")}
    assert "only one class folder, dog" in complaint(read_images, write_folder(tmp_path / "one", one))
    single = one | {"cat/0.png": png(picture())}
    assert "class cat has a single image" in complaint(read_images, write_folder(tmp_path / "single", single))
    parts = in_parts(two_classes(1)) | {"test/horse/1.png": png(picture())}
    write_folder(tmp_path / "differ", parts)
    assert "train/ has no class folder horse" in complaint(read_images, tmp_path / "differ")
    parts = in_parts(two_classes(1), ["test"]) | {"train/": b""}
    assert "no class folders in train/" in complaint(read_images, write_folder(tmp_path / "void", parts))
    parts = in_parts(two_classes(1), ["train", "val"])
    assert "its folders are train, val" in complaint(read_images, write_folder(tmp_path / "val", parts))


def test_validation_names_the_class_that_training_does_not_know(tmp_path):
    text = complaint(read_validation, write_folder(tmp_path, two_classes()), ("cat", "horse"))
    assert "does not know the class dog" in text and "cat, horse" in text
    assert set(read_validation(tmp_path, ("bird", "cat", "dog")).labels) == {1, 2}


BAD_FILES = {"empty": b"", "text": b"these are words", "truncated": png(picture(0, 200, 200))[:20_000],
             "jpeg": png(picture(0, 200, 200), "JPEG")[:3000], "gif": png(picture(), "GIF")[:300],
             "checksum": png(picture()).replace(b"IDAT", b"IDAT\xff", 1),
             "bomb": png(Image.new("1", (9000, 9000))), "huge": png(Image.new("1", (20_000, 10_000)))}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_images(tmp_path, kind, capfd):
    files = two_classes() | {"dog/bad.png": BAD_FILES[kind]}
    for path in both(tmp_path, files):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "dog/bad.png: no image that can be read" in complaint(read_images, path)
            train, test = read_images(path, skip_bad=True)
        assert len(train) + len(test) == 10 and not test.left_out
        assert len(train.left_out) == 1 and train.left_out[0].startswith("dog/bad.png: ")
        assert len(read_validation(path, ("cat", "dog"), skip_bad=True).left_out) == 1
    assert capfd.readouterr() == ("", "")


def test_a_class_that_ends_empty_is_an_error_even_when_bad_files_are_left_out(tmp_path):
    files = two_classes() | {"bird/1.png": b"", "bird/2.png": b""}
    write_folder(tmp_path, files)
    assert "no image of the class bird" in complaint(read_images, tmp_path, skip_bad=True)


def test_no_ghostscript(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n%%EOF\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    assert "unknown format" in complaint(read_one, tmp_path, eps)


def test_metadata_that_makes_pillow_warn_or_fail_stays_silent(tmp_path, capfd):
    good = png(picture(), "TIFF", tiffinfo={315: "a name"})
    damaged = good.replace(b"a name", b"\xff\xff\xff\xff\xff\xff")
    exif = png(picture(), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\x01\0\0\0\x06")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_one(tmp_path, damaged, "dog/x.tif")
        np.testing.assert_array_equal(read_one(tmp_path / "2", exif).shape, (32, 32, 3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [
    "../dog/x.png", "/dog/x.png", "dog/../../x.png", "dog\\x.png", "C:/dog/x.png", "dog//x.png",
    "dog/\x1b[2J.png", "dog/a\nb.png", "../notes.txt"])
def test_odd_names_in_a_zip(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_zip(tmp_path / "a.zip", two_classes() | {name: png(picture())})
    text = complaint(read_images, path)
    assert (name if name.isprintable() else ascii(name)) in text
    train, test = read_images(path, skip_bad=True)
    assert len(train) + len(test) == 10 and len(train.left_out) == 1
    assert os.listdir(tmp_path) == ["a.zip"]        # nothing is unpacked


def test_two_entries_of_one_name(tmp_path):
    path = write_zip(tmp_path / "a.zip", two_classes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("dog/0.png", png(picture(7)))
    assert "dog/0.png: the name of two files" in complaint(read_images, path)


def flip(path, name, offset, value):
    """Change bytes in the central directory entry of `name`."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    data[entry + offset:entry + offset + len(value)] = value
    path.write_bytes(data)


def test_encrypted_and_unknown_compression(tmp_path):
    path = write_zip(tmp_path / "a.zip", two_classes())
    flip(path, "dog/3.png", 8, b"\1\0")
    assert "dog/3.png" in (text := complaint(read_images, path)) and "encrypted" in text
    assert len(read_images(path, skip_bad=True)[0].left_out) == 1
    path = write_zip(tmp_path / "b.zip", two_classes())
    flip(path, "dog/3.png", 10, b"\x61\0")
    assert "dog/3.png" in complaint(read_images, path)


def test_decompression_bombs_in_a_zip(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 1 << 20)
    files = two_classes() | {"dog/x.png": png(picture()) + bytes(1 << 22)}
    path = write_zip(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 17 and "dog/x.png" in complaint(read_images, path)
    flip(path, "dog/x.png", 24, struct.pack("<I", 5000))        # and one that lies about its size
    assert "dog/x.png" in complaint(read_images, path)
    assert len(read_images(path, skip_bad=True)[0].left_out) == 1


def test_a_pipe_in_a_folder_does_not_hang(tmp_path):
    write_folder(tmp_path, two_classes())
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (tmp_path / "dog" / "zz.png").symlink_to("nowhere")
    assert "dog/pipe.png" in complaint(read_images, tmp_path)
    assert len(read_images(tmp_path, skip_bad=True)[0].left_out) == 2


# -- CIFAR-10 ------------------------------------------------------------------------------------------------

@pytest.fixture
def cifar_files(monkeypatch):
    """The six files with 20 records each, two of each class, and the archive of them."""
    monkeypatch.setattr(cifar, "RECORDS", 20)
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (6, 20, 3073), dtype=np.uint8)
    records[:, :, 0] = rng.permuted(np.tile(np.arange(20) % 10, (6, 1)), axis=1)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, block in zip(cifar.FILES, records):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = block.nbytes
            archive.addfile(info, io.BytesIO(block.tobytes()))
    monkeypatch.setattr(cifar, "SHA256", hashlib.sha256(file.getvalue()).hexdigest())
    return records, file.getvalue()


def write_cifar(folder, records):
    return write_folder(folder, {name: block.tobytes() for name, block in zip(cifar.FILES, records)})


def test_cifar10_all_ten_classes(tmp_path, cifar_files):
    records, archive = cifar_files
    write_cifar(tmp_path / "bare", records)
    write_cifar(tmp_path / "above" / "cifar-10-batches-bin", records)
    write_folder(tmp_path / "packed", {"cifar-10-binary.tar.gz": archive})
    for folder in ("bare", "above", "packed"):
        train, test = read_cifar10(tmp_path / folder, classes=None)
        assert train.classes == cifar.CLASSES
        assert train.images.flags.c_contiguous and train.labels.dtype == np.int64
        flat = records[:5].reshape(100, 3073)
        np.testing.assert_array_equal(train.labels, flat[:, 0])
        np.testing.assert_array_equal(train.images.reshape(100, -1), flat[:, 1:])
        np.testing.assert_array_equal(test.images.reshape(20, -1), records[5, :, 1:])
        assert len(train) == len(train.names) == 100
    assert os.listdir(tmp_path / "packed") == ["cifar-10-binary.tar.gz"]


def test_cifar10_animals_and_other_sizes(tmp_path, cifar_files):
    write_cifar(tmp_path, cifar_files[0])
    train, test = read_cifar10(tmp_path)
    assert train.classes == ("bird", "cat", "deer", "dog", "frog", "horse")
    assert np.bincount(train.labels).tolist() == [10] * 6 and np.bincount(test.labels).tolist() == [2] * 6
    names = np.array(cifar.CLASSES)[cifar_files[0][:5].reshape(100, 3073)[:, 0]]
    assert [train.classes[i] for i in train.labels] == [name for name in names if name in train.classes]
    half = read_cifar10(tmp_path, size=16)[1].images
    assert np.abs(half - test.images.reshape(12, 3, 16, 2, 16, 2).mean((3, 5))).max() <= 1
    assert "no class cow" in complaint(read_cifar10, tmp_path, classes=("cow", "cat"))


def test_bad_cifar10(tmp_path, cifar_files):
    records, archive = cifar_files
    assert "--download" in complaint(read_cifar10, tmp_path / "missing")
    write_cifar(tmp_path, records)
    last = tmp_path / "test_batch.bin"
    last.write_bytes(last.read_bytes()[:-5])
    assert "test_batch.bin" in complaint(read_cifar10, tmp_path)
    last.write_bytes(b"\x0a" + records[5].tobytes()[1:])
    assert "a label is 10" in complaint(read_cifar10, tmp_path)
    last.unlink()
    assert "test_batch.bin" in complaint(read_cifar10, tmp_path)
    write_folder(tmp_path / "packed", {"cifar-10-binary.tar.gz": archive[:-9]})
    assert "sha256" in complaint(read_cifar10, tmp_path / "packed")
    assert "sha256" in complaint(read_cifar10, tmp_path / "packed", download=True)


def test_cifar10_download(tmp_path, cifar_files, monkeypatch):
    source = write_folder(tmp_path / "server", {"cifar-10-binary.tar.gz": cifar_files[1], "bad": b"other"})
    monkeypatch.setattr(cifar, "URL", (source / "cifar-10-binary.tar.gz").as_uri())
    train, _ = read_cifar10(tmp_path / "new" / "folder", download=True)
    assert len(train) == 60 and os.listdir(tmp_path / "new" / "folder") == ["cifar-10-binary.tar.gz"]
    monkeypatch.setattr(cifar, "URL", (source / "bad").as_uri())
    assert "sha256" in complaint(read_cifar10, tmp_path / "other", download=True)
    monkeypatch.setattr(cifar, "URL", (source / "absent").as_uri())
    assert "cannot download" in complaint(read_cifar10, tmp_path / "other", download=True)
    assert os.listdir(tmp_path / "other") == []


# -- MNIST ---------------------------------------------------------------------------------------------------

def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def mnist_files(count=30):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.uint8(np.arange(count) % 10),
              rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.uint8(np.arange(7))]
    return arrays, {name: idx(array) for name, array in zip(mnist.SHA256, arrays)}


def test_mnist_plain_and_gzipped(tmp_path):
    arrays, files = mnist_files()
    write_folder(tmp_path / "a", {name: gzip.compress(data) for name, data in files.items()})
    write_folder(tmp_path / "b", {name.removesuffix(".gz"): data for name, data in files.items()})
    for folder in ("a", "b"):
        train, test = read_mnist(tmp_path / folder)
        assert train.images.shape == (30, 1, 28, 28) and train.classes == tuple("0123456789")
        np.testing.assert_array_equal(train.images[:, 0], arrays[0])
        np.testing.assert_array_equal(train.labels, arrays[1])
        np.testing.assert_array_equal(test.images[:, 0], arrays[2])
        assert train.labels.dtype == np.int64 and train.images.flags.writeable and len(test.names) == 7


def test_bad_mnist(tmp_path):
    (images, labels, *_), files = mnist_files()
    first, second = list(files)[:2]
    assert first in complaint(read_mnist, tmp_path / "missing")
    packed = gzip.compress(idx(images))
    bad = {first: [b"", idx(images)[:11], idx(images)[:-1], idx(images) + b"x", idx(labels),
                   idx(images[:, :27]), packed[:-20], packed[:200] + bytes(99), idx(images[:0]),
                   struct.pack(">4I", 0x803, 2**32 - 1, 28, 28)],
           second: [b"", idx(labels)[:4], idx(labels)[:-1], idx(labels[:-1]), idx(labels + 1), idx(images),
                    b"\x1f\x8b"]}
    for name, versions in bad.items():
        for data in versions:
            write_folder(tmp_path, files | {name: data})
            assert name in complaint(read_mnist, tmp_path)


def test_mnist_download(tmp_path, monkeypatch):
    _, files = mnist_files()
    source = write_folder(tmp_path / "server", files)
    monkeypatch.setattr(mnist, "URL", source.as_uri() + "/")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(mnist, "SHA256", digests)
    assert len(read_mnist(tmp_path / "new", download=True)[0]) == 30
    assert sorted(os.listdir(tmp_path / "new")) == sorted(files)


# -- the real sets, where they are at hand -------------------------------------------------------------------

def test_real_sets():
    shared = Path(__file__).parents[2] / "shared" / "data"
    if not shared.exists():
        pytest.skip(f"needs {shared}")
    animals = ("bird", "cat", "deer", "dog", "frog", "horse")
    for name, counts in [("tinyimagenet", [500, 500, 0, 500, 500]), ("pacs-photo", [0, 0, 0, 188, 0, 199])]:
        found = read_validation(shared / f"{name}-animals.zip", animals)
        assert np.bincount(found.labels).tolist() == counts
    train, test = read_mnist(shared / "mnist")
    assert (len(train), len(test)) == (60_000, 10_000)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 8.5}, {"test_share": 1.0}, {"test_share": float("nan")}])
def test_sizes_and_shares_that_make_no_sense(tmp_path, options):
    with pytest.raises(ValueError, match="size must be a whole number"):
        read_images(tmp_path, **options)
