"""Peak memory of `metrics.log_likelihood` against the number of importance weights.

    python benchmarks/log_likelihood_memory.py

Each number of weights runs in a process of its own, on 4 images with the P0 MNIST
network; printed is the largest resident memory above that after building the model.
"""

import subprocess
import sys
import time

WORK = """
import sys, resource
import numpy as np
import keras_vae_variance as kvv

likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.01))
networks = kvv.backbones.depth_to_space((28, 28, 1), 16, likelihood)
vae = kvv.VAE(*networks, kvv.posteriors.DiagonalGaussian(16), likelihood)
x = np.random.default_rng(0).random((4, 28, 28, 1), "float32")
kvv.metrics.log_likelihood(vae, x, 1024, seed=0, chunk_size=512)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kvv.metrics.log_likelihood(vae, x, int(sys.argv[1]), seed=0, chunk_size=512)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(before / 1024, after / 1024)
"""


def main():
    print("weights  MiB after a warm-up of 1024 weights  MiB at the peak  seconds")
    for weights in (20, 500, 5000):
        started = time.time()
        result = subprocess.run(
            [sys.executable, "-c", WORK, str(weights)],
            capture_output=True,
            text=True,
            check=True,
        )
        before, after = map(float, result.stdout.split())
        print(
            f"{weights:7d}  {before:34.0f}  {after:15.0f}  {time.time() - started:7.0f}"
        )


if __name__ == "__main__":
    main()
