"""Convolutions to maps of 4x4 pixels by fewer products, for training."""

import functools

import keras
import numpy as np
from keras import ops

__all__ = ["WinogradConvolution", "layer_for"]

_SIDE = 4  # of the map that it makes
_MIN_CHANNELS = 64  # with fewer, transforms cost what the products save
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # and infinity; these lose least to rounding


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class WinogradConvolution(keras.layers.Conv2D):
    """Keras's `Conv2D` to a map of 4x4, trained with fewer products.

    Weights and results are those of `Conv2D`, to rounding. In training they come from
    Winograd's minimal filtering `F(m x m, r x r)` (Lavin and Gray, "Fast Algorithms for
    Convolutional Neural Networks", 2016, Eq. 8),

        y = A^T [(G w G^T) * (B^T x B)] A,

    where the products of `*` are matrices of channels by filters, `(m + r - 1)^2` of
    them instead of `m^2 r^2` for each tile of `m x m` pixels. With a stride, blocks of
    `strides x strides` pixels are channels, and kernels `r = kernel_size / strides`.
    Kernels of 3 take 36 products instead of 144 in float32, where `m = 4`, and 64 in 16
    bits, where `m = 2`. Rounding is 3 to 4 times that of `Conv2D` in both
    (`benchmarks/small_maps.py`).

    Otherwise it is `Conv2D`: for a few images the kernel's transform costs more than it
    saves, in batches of 16 for some sizes still.

    Args:
        *args, **kwargs: of `keras.layers.Conv2D`, with `padding="same"`, channels last,
            and kernels and strides of equal sides; neither dilated nor in groups.

    Raises:
        ValueError: in `build`, where the result would not be a map of 4x4, and for
            other convolutions, kernels that are not 2 or 3 times the strides among
            them.
    """

    def build(self, input_shape):
        stride, kernel = self.strides[0], self.kernel_size[0]
        expected = (_SIDE * stride, _SIDE * stride)
        taps, rest = divmod(kernel, stride)
        square = self.strides == (stride, stride) and self.kernel_size == (kernel,) * 2
        plain = {
            "padding": "same",
            "data_format": "channels_last",
            "dilation_rate": (1, 1),
            "groups": 1,
        }
        found = {name: getattr(self, name) for name in plain}
        if not square or rest or taps not in (2, 3) or found != plain:
            raise ValueError(
                "`kernel_size` must be 2 or 3 times `strides`, both of equal sides, "
                f"and the rest as in {plain}. Received: "
                f"kernel_size={self.kernel_size}, strides={self.strides}, {found}"
            )
        if tuple(input_shape[1:3]) != expected:
            raise ValueError(
                f"Maps must have sides of {expected} for a result of 4x4. Received: "
                f"input_shape={input_shape}"
            )
        super().build(input_shape)

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        y = self._convolution(inputs)
        return self.activation(y + self.bias if self.use_bias else y)

    def _convolution(self, x):
        stride, channels = self.strides[0], x.shape[-1]
        taps = self.kernel_size[0] // stride
        tile = 4 if self.compute_dtype == "float32" else 2
        to_pixels, of_kernel, of_pixels = (
            ops.convert_to_tensor(matrix, self.compute_dtype)
            for matrix in _transforms(tile, taps, stride)
        )
        products = of_kernel.shape[0]
        if stride > 1:
            padding = self.kernel_size[0] - stride
            edges = (padding // 2, padding - padding // 2)
            x = ops.pad(x, ((0, 0), edges, edges, (0, 0)))
        # Pixels come first, so that a transform is a product with one matrix.
        blocks = x.shape[1] // stride
        x = ops.reshape(x, (-1, blocks, stride, blocks, stride, channels))
        x = ops.reshape(ops.transpose(x, (1, 3, 0, 2, 4, 5)), (blocks**2, -1))
        kernel = ops.reshape(
            self.kernel, (taps, stride, taps, stride, channels, self.filters)
        )
        kernel = ops.reshape(ops.transpose(kernel, (0, 2, 1, 3, 4, 5)), (taps**2, -1))
        channels *= stride**2
        x = ops.reshape(ops.matmul(of_pixels, x), (products, -1, channels))
        kernel = ops.matmul(of_kernel, kernel)
        kernel = ops.reshape(kernel, (products, channels, self.filters))
        y = ops.reshape(ops.matmul(x, kernel), (to_pixels.shape[1], -1))
        y = ops.reshape(ops.matmul(to_pixels, y), (_SIDE, _SIDE, -1, self.filters))
        return ops.transpose(y, (2, 0, 1, 3))


def layer_for(x, filters, kernel_size, strides, padding="same"):
    """The faster layer for a convolution, of the same weights.

    Args:
        x: what it takes, a symbolic tensor `(batch, rows, columns, channels)`.
        filters: number of channels that it makes.
        kernel_size: side of the kernel.
        strides: factor by which the sides shrink.
        padding: `"same"` or `"valid"`.

    Returns:
        `WinogradConvolution` or `keras.layers.Conv2D`, the class.
    """
    maps = tuple(x.shape[1:3]) == (_SIDE * strides, _SIDE * strides)
    taps, rest = divmod(kernel_size, strides)
    known = not rest and taps in (2, 3) and padding == "same"
    wide = min(x.shape[-1], filters) >= _MIN_CHANNELS
    return WinogradConvolution if maps and known and wide else keras.layers.Conv2D


@functools.cache
def _transforms(tile, taps, stride):
    """Matrices from products to pixels, from taps and from pixels to products.

    Products are ordered by point, then tile; their number, of points alone, is that of
    the rows of the second. By Toom and Cook: polynomials are evaluated at points,
    multiplied there, and interpolated, which is transposed here.
    """
    size = tile + taps - 1
    points, tiles = _POINTS[: size - 1], _SIDE // tile

    def evaluate(degree):
        at_infinity = np.eye(degree)[-1:]
        return np.vstack([np.vander(points, degree, increasing=True), at_infinity])

    inverse = np.linalg.inv(evaluate(size)).T
    scale = np.abs(evaluate(taps)).sum(axis=1, keepdims=True)
    to_pixels = np.zeros((size, tiles, _SIDE))
    of_pixels = np.zeros((size, tiles, _SIDE + taps - 1))
    for i in range(tiles):
        to_pixels[:, i, i * tile : (i + 1) * tile] = evaluate(tile)
        of_pixels[:, i, i * tile : i * tile + size] = scale * inverse

    if stride == 1:  # the zeros of the padding need no products: they are left out
        before = (taps - 1) // 2
        of_pixels = of_pixels[..., before : before + _SIDE]

    def both_axes(a):
        squared = np.einsum("atp,buq->abtupq", a, a)
        return squared.reshape((size * tiles) ** 2, -1)

    of_taps = (evaluate(taps) / scale)[:, None]
    of_taps = np.einsum("atp,buq->abtupq", of_taps, of_taps).reshape(size**2, -1)
    return both_axes(to_pixels).T, of_taps, both_axes(of_pixels)
