"""Peak memory of `metrics.log_likelihood` against the number of importance weights.

    python benchmarks/log_likelihood_memory.py

Each number of weights runs in a process of its own, on 64 images with the P0 MNIST
network, in chunks of 512 decoded images. Printed are the largest resident memory of the
process after the model was built, and in all.
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
x = np.random.default_rng(0).random((64, 28, 28, 1), "float32")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kvv.metrics.log_likelihood(vae, x, int(sys.argv[1]), seed=0, chunk_size=512)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(before / 1024, after / 1024)
"""


def main():
    print("weights  MiB with the model  MiB at the peak  seconds")
    for weights in (20, 500, 5000):
        started = time.time()
        result = subprocess.run(
            [sys.executable, "-c", WORK, str(weights)],
            capture_output=True,
            text=True,
            check=True,
        )
        before, after = map(float, result.stdout.split())
        seconds = time.time() - started
        print(f"{weights:7d}  {before:18.0f}  {after:15.0f}  {seconds:7.0f}")


if __name__ == "__main__":
    main()
