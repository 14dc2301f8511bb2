"""Peak memory of a training step with the decoders of P2, Section 3.2 and Appendix D.

    python benchmarks/likelihood_memory.py

The categorical decoder keeps 256 numbers for each scalar of an image, the bitwise one
8. Each likelihood runs in a process of its own: some steps of Adam on a batch of 32
colour images, with a linear decoder so that the likelihood's share is what grows.
Printed are the largest resident memory of the process beyond that of the built model,
also by example and scalar, and the seconds of a step.
"""

import subprocess
import sys

WORK = """
import resource, sys, time
import keras
import numpy as np
import keras_vae_variance as kvv

name, side, batch = sys.argv[1], int(sys.argv[2]), 32
likelihood = {
    "Gaussian": lambda: kvv.likelihoods.Gaussian(kvv.variances.Learned()),
    "DiscretizedLogistic": kvv.likelihoods.DiscretizedLogistic,
    "BitwiseCategorical": kvv.likelihoods.BitwiseCategorical,
    "LogisticMixture": kvv.likelihoods.LogisticMixture,
    "Categorical": kvv.likelihoods.Categorical,
}[name]()
shape = side, side, 3
x = np.random.default_rng(0).integers(0, 256, (batch, *shape)).astype("uint8")

image = keras.Input(shape)
features = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(image))
z = keras.Input((2,))
flat = keras.layers.Reshape((side, side, 1))(keras.layers.Dense(side**2)(z))
outputs = {}
for head, (shape_of_head, *_) in likelihood.heads(shape).items():
    units = int(np.prod(shape_of_head[2:]))
    maps = keras.layers.Conv2D(units, 1)(flat)
    outputs[head] = keras.layers.Reshape(shape_of_head)(maps)
vae = kvv.VAE(
    keras.Model(image, features), keras.Model(z, outputs),
    kvv.posteriors.DiagonalGaussian(2), likelihood, seed=0,
)
vae.compile("adam", jit_compile=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = []
for _ in range(4):
    started = time.time()
    vae.train_on_batch(x)
    times.append(time.time() - started)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024, min(times[1:]))
"""
NAMES = (
    "Gaussian",
    "DiscretizedLogistic",
    "BitwiseCategorical",
    "LogisticMixture",
    "Categorical",
)


def main():
    print("side  likelihood           MiB  bytes a scalar  seconds a step")
    for side in (32, 64):
        for name in NAMES:
            result = subprocess.run(
                [sys.executable, "-c", WORK, name, str(side)],
                capture_output=True,
                text=True,
                check=True,
            )
            mebibytes, seconds = map(float, result.stdout.split()[-2:])
            share = mebibytes * 2**20 / (32 * side * side * 3)
            print(f"{side:4d}  {name:19s} {mebibytes:5.0f}", end="")
            print(f"  {share:14.0f}  {seconds:14.3f}")


if __name__ == "__main__":
    main()
