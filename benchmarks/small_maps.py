"""Convolutions to maps of 4x4, by Winograd's filtering and by Keras.

    python benchmarks/small_maps.py

On one thread, forward and backward: processor time of `WinogradConvolution` in training
over that of `Conv2D`, and the relative errors of both results against float64.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import numpy as np
import tensorflow as tf

from keras_vae_variance.backbones.winograd import WinogradConvolution

# Kernel, stride, channels, filters.
SIZES = ((3, 1, 256, 256), (4, 2, 64, 256), (3, 1, 128, 128), (3, 1, 64, 64))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=(16, 100, 256))
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
        for size in SIZES:
            for batch in options.batches:
                row(policy, size, batch, options.repeats)


def row(policy, size, batch, repeats):
    kernel, stride, channels, filters = size
    random = np.random.default_rng(0)
    x = random.normal(size=(batch, 4 * stride, 4 * stride, channels)).astype("float32")
    weights = random.normal(size=(batch, 4, 4, filters)).astype("float32")
    seconds, errors = [], []
    for cls in (WinogradConvolution, keras.layers.Conv2D):
        keras.utils.set_random_seed(0)
        layer = cls(filters, kernel, strides=stride, padding="same", dtype=policy)
        layer.build(x.shape)
        seconds.append(step_time(layer, tf.constant(x), weights, repeats))
        dtype = layer.compute_dtype
        wide = [tf.cast(tf.cast(t, dtype), "float64") for t in (x, layer.kernel.value)]
        true = tf.nn.conv2d(*wide, stride, "SAME")
        error = np.float64(layer(x, training=True)) - true
        errors.append(np.linalg.norm(error) / np.linalg.norm(true))
    print(
        f"{policy:15} kernel {kernel}, stride {stride}, {channels:3} to {filters:3}, "
        f"batch {batch:3}: time {seconds[0] / seconds[1]:.2f}, "
        f"errors {errors[0]:.1e} and {errors[1]:.1e}",
        flush=True,
    )


def step_time(layer, x, weights, repeats):
    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.cast(layer(x, training=True), "float32") * weights)
        return tape.gradient(loss, [x, layer.kernel.value])

    step()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        step()
        times.append(time.process_time() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
