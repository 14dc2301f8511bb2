"""Preparing images and reading them from folders, against Pillow."""

import numpy as np
import PIL.Image
import pytest

from keras_vae_variance import datasets

# --------------------------------------------------------------------------------------
# Cropping and resizing


def smooth(n, height, width, channels):
    """Images that vary over some pixels, as photographs do, over all 256 levels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 9, 7, channels), dtype="uint8")
    size = (width, height)
    return np.stack([np.array(PIL.Image.fromarray(i).resize(size)) for i in coarse])


def test_resize_crops_the_centre():
    x = np.arange(2 * 6 * 5 * 3, dtype="uint8").reshape(2, 6, 5, 3)
    np.testing.assert_array_equal(datasets.resize(x, crop=2), x[:, 2:4, 1:3])
    np.testing.assert_array_equal(datasets.resize(x, crop=(4, 5)), x[:, 1:5])
    np.testing.assert_array_equal(datasets.resize(x, size=(6, 5)), x)
    np.testing.assert_array_equal(datasets.resize(x), x)


@pytest.mark.parametrize(
    "shape, size, crop",
    [((218, 178), 64, 140), ((218, 178), 128, None), ((32, 32), 28, None)],
)
def test_resize_is_the_image_librarys(shape, size, crop):
    """Pillow's bilinear filter on floats; on uint8 it rounds after each direction."""
    x = smooth(3, *shape, 3)
    ours = datasets.resize(x, size, crop)
    assert ours.dtype == np.uint8
    if crop:
        top, left = (shape[0] - crop) // 2, (shape[1] - crop) // 2
        x = x[:, top : top + crop, left : left + crop]
    for i, channel in np.ndindex(3, 3):
        image = PIL.Image.fromarray(x[i, :, :, channel].astype("float32"))
        theirs = np.array(image.resize((size, size), PIL.Image.BILINEAR))
        # Rounded, up to float32's resolution at 255.
        assert np.abs(ours[i, :, :, channel] - theirs).max() < 0.5 + 1e-3


def test_resize_keeps_the_extremes():
    """No level wraps around, and nothing fades."""
    for level in (0, 255):
        x = np.full((1, 33, 41, 3), level, "uint8")
        for size in (7, 64):
            assert (datasets.resize(x, size) == level).all()


def test_resize_takes_more_images_than_one_batch():
    x = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1), dtype="uint8")
    halves = [datasets.resize(part, 3) for part in (x[:150], x[150:])]
    np.testing.assert_array_equal(datasets.resize(x, 3), np.concatenate(halves))


@pytest.mark.parametrize(
    "x, arguments, error, message",
    [
        (np.zeros((4, 4, 1), "uint8"), {}, ValueError, r"x of shape \(4, 4, 1\)"),
        (np.zeros((1, 4, 4, 1)), {}, TypeError, "Received: x of dtype float64"),
        (np.zeros((1, 4, 4, 1), "uint8"), {"size": 0}, ValueError, "size=0"),
        (np.zeros((1, 4, 4, 1), "uint8"), {"size": (2, 2, 2)}, ValueError, "pair"),
        (np.zeros((1, 4, 4, 1), "uint8"), {"crop": 2.5}, ValueError, "crop=2.5"),
        (np.zeros((1, 4, 4, 1), "uint8"), {"crop": (4, 5)}, ValueError, "4 by 4"),
    ],
)
def test_resize_rejects_what_cannot_be(x, arguments, error, message):
    with pytest.raises(error, match=message):
        datasets.resize(x, **arguments)


# --------------------------------------------------------------------------------------
# Folders


def save(path, image):
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(image).save(path)


@pytest.fixture
def folder(tmp_path):
    """Four 8x6 colour images in the order of their paths, and what is no image."""
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), dtype="uint8")
    for i, name in ((0, "10.png"), (3, "c.bmp"), (1, "9.PNG"), (2, "a/1.png")):
        save(tmp_path / name, images[i])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._9.png").write_text("no image either")
    save(tmp_path / ".cache" / "1.png", images[0])
    return tmp_path, images


def test_from_folder_reads_in_the_order_of_the_paths(folder):
    path, images = folder
    for form in (path, str(path)):
        x = datasets.from_folder(form)
        assert x.dtype == np.uint8
        np.testing.assert_array_equal(x, images)


def test_from_folder_streams_the_same(folder):
    path, images = folder
    stream = datasets.from_folder(path, size=4, crop=(8, 4), stream=True)
    assert stream.element_spec.shape == (4, 4, 3) and int(stream.cardinality()) == 4
    expected = datasets.resize(images, 4, crop=(8, 4))
    np.testing.assert_array_equal(list(stream.as_numpy_iterator()), expected)
    np.testing.assert_array_equal(
        datasets.from_folder(path, size=4, crop=(8, 4)), expected
    )


def test_from_folder_makes_images_alike(folder):
    path, images = folder
    save(path / "grey.png", images[0, :5, :5, 0])
    x = datasets.from_folder(path, size=4, channels=3)
    assert x.shape == (5, 4, 4, 3)
    grey = datasets.resize(images[:1, :5, :5, :1], 4)[0]
    np.testing.assert_array_equal(x[4], np.repeat(grey, 3, axis=-1))
    assert datasets.from_folder(path, size=4, channels=1).shape == (5, 4, 4, 1)
    with_opacity = datasets.from_folder(path, size=4, channels=4)
    np.testing.assert_array_equal(with_opacity[..., :3], x)
    assert (with_opacity[..., 3] == 255).all()


def test_from_folder_keeps_the_channels_of_the_files(tmp_path):
    """Grey has 1, colours 3, opacity a fourth; palettes give their colours."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 4), dtype="uint8")
    colours = PIL.Image.fromarray(pixels[..., :3])
    kinds = {
        "grey": (PIL.Image.fromarray(pixels[..., 0]), pixels[..., :1]),
        "opacity": (PIL.Image.fromarray(pixels), pixels),
        "black": (
            PIL.Image.fromarray(pixels[..., 0] > 99),
            255 * (pixels[..., :1] > 99),
        ),
        "palette": (colours.quantize(256), pixels[..., :3]),
    }
    for name, (image, expected) in kinds.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png")
        np.testing.assert_array_equal(
            datasets.from_folder(tmp_path / name)[0], expected
        )


def test_from_folder_reads_lossy_images(folder):
    path, _ = folder
    image = smooth(1, 40, 40, 3)[0]
    save(path / "photos" / "1.jpg", image)
    with PIL.Image.open(path / "photos" / "1.jpg") as read:
        np.testing.assert_array_equal(datasets.from_folder(path / "photos")[0], read)


def test_from_folder_turns_photos_upright(tmp_path):
    """A camera on its side says so in the file, and every viewer turns the picture."""
    picture = PIL.Image.fromarray(np.arange(24, dtype="uint8").reshape(4, 6) * 10)
    exif = picture.getexif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees, clockwise
    picture.save(tmp_path / "photo.png", exif=exif)
    upright = np.rot90(np.asarray(picture), -1)[None, ..., None]
    np.testing.assert_array_equal(datasets.from_folder(tmp_path), upright)


def test_from_folder_rejects_more_than_8_bits(tmp_path):
    """Pillow would clip them to white."""
    deep = np.arange(48, dtype="uint16").reshape(8, 6) * 1000
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits.*Received: .*deep.png"):
        datasets.from_folder(tmp_path)


def test_from_folder_names_the_image_that_differs(folder):
    path, images = folder
    save(path / "b.png", images[0, :7])
    with pytest.raises(ValueError, match=r"`size`.*b.png of shape \(7, 6, 3\)"):
        datasets.from_folder(path)
    with pytest.raises(ValueError, match="must fit.*7 by 6. .*crop=.*b.png"):
        datasets.from_folder(path, crop=(8, 6))


def test_from_folder_names_the_image_that_is_broken(folder):
    import tensorflow as tf

    path, _ = folder
    whole = (path / "c.bmp").read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        (path / "broken.bmp").write_bytes(content)
        with pytest.raises(ValueError, match="Received: .*broken.bmp"):
            datasets.from_folder(path)
    stream = datasets.from_folder(path, stream=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Received: .*broken.bmp"):
        list(stream)


def test_from_folder_rejects_what_cannot_be(folder):
    path, _ = folder
    with pytest.raises(FileNotFoundError, match="Received: path=.*nowhere"):
        datasets.from_folder(path / "nowhere")
    (path / "empty").mkdir()
    with pytest.raises(ValueError, match="Received: path=.*empty"):
        datasets.from_folder(path / "empty")
    for channels in (2, [3]):
        with pytest.raises(ValueError, match="Received: channels="):
            datasets.from_folder(path, channels=channels)
    with pytest.raises(ValueError, match="Received: crop=0"):
        datasets.from_folder(path, crop=0)
