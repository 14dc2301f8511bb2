"""What `VAE.fit` costs beside a bare Keras training loop of the same network.

    python benchmarks/fit_overhead.py

The P0 MNIST network with a global variance at batch 256, on random uint8 images. The
bare loop is what a user would write by hand: a `keras.Model` with a `train_step` of
encoder, reparameterisation, decoder, Gaussian nll and KL, without checks, logs of the
terms or a gate. Both use `fit` on the same `tf.data`. The two alternate in windows
within one process; printed are medians of the processor time an image, of the wall time
an image, and of their ratios, pair by pair.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import keras_vae_variance as kvv

BATCH = 256


class Bare(keras.Model):
    """The same model by hand."""

    def __init__(self, encoder, decoder, latent_dim):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.mean = keras.layers.Dense(latent_dim)
        self.log_variance = keras.layers.Dense(latent_dim)
        self.parameter = self.add_weight(shape=(), initializer="zeros")
        self.seed_generator = keras.random.SeedGenerator(0)
        self.tracker = keras.metrics.Mean(name="loss")

    def train_step(self, x):
        x = ops.cast(x, "float32") / 255.0
        with tf.GradientTape() as tape:
            features = self.encoder(x, training=True)
            mean, log_variance = self.mean(features), self.log_variance(features)
            noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
            z = mean + ops.exp(0.5 * log_variance) * noise
            error = ops.square(x - self.decoder(z, training=True)["mean"])
            v = ops.exp(self.parameter)
            nll = 0.5 * ops.sum(
                error / v + ops.log(v) + np.log(2 * np.pi), axis=(1, 2, 3)
            )
            kl = 0.5 * ops.sum(
                ops.exp(log_variance) + ops.square(mean) - 1 - log_variance, axis=1
            )
            loss = ops.mean(nll + kl)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


def networks():
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Learned())
    return *kvv.backbones.depth_to_space((28, 28, 1), 16, likelihood), likelihood


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40, help="in a window")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (BATCH * 8, 28, 28, 1)).astype("uint8")
    data = tf.data.Dataset.from_tensor_slices(x).batch(BATCH).cache().repeat()
    data = data.prefetch(2)

    encoder, decoder, likelihood = networks()
    ours = kvv.VAE(encoder, decoder, kvv.posteriors.DiagonalGaussian(16), likelihood)
    ours.compile(keras.optimizers.Adam(5e-4))
    encoder, decoder, _ = networks()
    bare = Bare(encoder, decoder, 16)
    bare.mean.build((None, 64))
    bare.log_variance.build((None, 64))
    bare.built = True
    # The VAE's default on a CPU; Keras's "auto" would take XLA, which is slower there.
    bare.compile(keras.optimizers.Adam(5e-4), jit_compile=ours.jit_compile)

    def window(model):
        wall, cpu = time.perf_counter(), time.process_time()
        model.fit(data, steps_per_epoch=options.steps, verbose=0)
        images = options.steps * BATCH
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return 1e3 * cpu / images, 1e3 * wall / images

    for model in (ours, bare):
        window(model)  # tracing
    pairs = []
    for i in range(options.windows):
        # Each goes first as often as the other.
        order = (ours, bare) if i % 2 else (bare, ours)
        results = {model: window(model) for model in order}
        pairs.append((results[ours], results[bare]))
    pairs = np.array(pairs)  # (windows, model, cpu and wall)
    ratios = pairs[:, 0] / pairs[:, 1]
    for k, name in enumerate(("CPU ms an image", "wall ms an image")):
        print(
            f"{name:>17}: VAE {np.median(pairs[:, 0, k]):.3f}, "
            f"bare {np.median(pairs[:, 1, k]):.3f}, ratio {np.median(ratios[:, k]):.3f}"
            f" ({ratios[:, k].min():.3f} to {ratios[:, k].max():.3f})"
        )


if __name__ == "__main__":
    main()
