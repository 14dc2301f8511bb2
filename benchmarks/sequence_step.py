"""Time and memory of a training step of SVG-LP's networks at 64x64.

    python benchmarks/sequence_step.py --frames dcgan --batch-size 4 --length 10

Prints parameters, seconds of a step (best of the repetitions, and processor seconds),
the processor time beside that of a product of two 2048x2048 matrices, which takes its
turn after each step, and the peak of the process's memory. One configuration a process:
a peak never falls.
"""

import argparse
import os
import resource
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_vae_variance as kvv


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", default="dcgan", choices=("dcgan", "vgg"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
    networks = kvv.backbones.svg((64, 64, 1), 10, likelihood, frames=options.frames)
    vae = kvv.SequenceVAE(
        *networks,
        kvv.posteriors.DiagonalGaussian(10),
        likelihood,
        n_past=5,
        n_future=options.length - 5,
        seed=0,
    )
    vae.compile(keras.optimizers.Adam(2e-3))
    x = kvv.datasets.moving_digits(
        options.batch_size, options.length, images=np.ones((1, 28, 28)), seed=0
    )
    matrix = keras.random.normal((2048, 2048), seed=0)
    steps, products, before = [], [], memory()
    for _ in range(options.repetitions + 1):
        steps.append(
            timed(vae.fit, x, batch_size=options.batch_size, epochs=1, verbose=0)
        )
        products.append(timed(lambda: keras.ops.matmul(matrix, matrix)))
    # Of the first ones one is traced, and one allocates.
    seconds, processor = np.min(steps[1:], axis=0)
    product = np.min(products[1:], axis=0)[1]
    print(
        f"{options.frames}, batch {options.batch_size}, {options.length} frames: "
        f"{vae.count_params():,} parameters, {seconds:.2f} s a step "
        f"({processor:.2f} s of processor, {processor / product:.0f} products), "
        f"peak {memory():.2f} GB "
        f"({before:.2f} GB before training)"
    )


def timed(function, *arguments, **options):
    """Seconds, and those of the processor."""
    start = time.perf_counter(), time.process_time()
    function(*arguments, **options)
    return [time.perf_counter() - start[0], time.process_time() - start[1]]


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
