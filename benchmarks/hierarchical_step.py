"""Memory and time of a training step of a hierarchical VAE, by its number of layers.

    python benchmarks/hierarchical_step.py

The networks are those of `backbones.hierarchical` for 28x28 grey images, with 64
channels and 8 channels of latents (`--channels`, `--latent-channels`), the likelihood a
Gaussian of optimal variance, the batch 32 (`--batch-size`). Each model runs in a
process of its own. Printed are its latents and parameters, the largest resident memory
beyond that of the built model, the seconds until the first step is done, most of which
are tracing, and the processor time of a later step.
"""

import argparse
import subprocess
import sys

WORK = """
import resource, sys, time
import keras
import numpy as np
import keras_vae_variance as kvv

layers, channels, latent_channels, batch = map(int, sys.argv[1:5])
x = np.random.default_rng(0).random((batch, 28, 28, 1), "float32")
likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
networks = kvv.backbones.hierarchical(
    (28, 28, 1), likelihood, layers, sys.argv[5],
    channels=channels, latent_channels=latent_channels,
)
vae = kvv.HierarchicalVAE(*networks, None, likelihood, inference=sys.argv[5], seed=0)
vae.compile("adamax", jit_compile=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.time()
vae.train_on_batch(x)
first = time.time() - started
started, steps = time.process_time(), 5
for _ in range(steps):
    vae.train_on_batch(x)
step = (time.process_time() - started) / steps
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sum(vae.latent_dims), vae.count_params(), (after - before) / 1024, first, step)
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 5, 15])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--latent-channels", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    sizes = options.channels, options.latent_channels, options.batch_size
    print("inference  layers  latents  parameters    MiB  first step, s  CPU ms a step")
    for inference in ("bottom_up", "top_down"):
        for layers in options.layers:
            arguments = [str(n) for n in (layers, *sizes)]
            done = subprocess.run(
                [sys.executable, "-c", WORK, *arguments, inference],
                capture_output=True,
                text=True,
                check=True,
            )
            latents, parameters, mib, first, step = map(float, done.stdout.split()[-5:])
            print(f"{inference:9s}  {layers:6d}  {latents:7.0f}", end="")
            print(f"  {parameters:10.0f}  {mib:5.0f}", end="")
            print(f"  {first:13.0f}  {1000 * step:13.0f}", flush=True)


if __name__ == "__main__":
    main()
