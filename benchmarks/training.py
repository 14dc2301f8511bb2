"""Training beside plain PyTorch and pythae: time an image, and how near the limit.

    python benchmarks/training.py
    python benchmarks/training.py --networks p0 --systems ours torch --rounds 9

The P0, P1 and P4 networks for MNIST, Adam, a Gaussian decoder of one variance (ours and
PyTorch's learn it, pythae's is 1), on random images. Each system is a process of its
own, with the threads of its defaults; they take turns in rounds of `--steps` steps, one
at work at a time. Printed are medians over rounds: processor time an image, wall time
an image, and the ratio of the first to ours, round by round. `keras` is a bare Keras
loop by hand, `torch.compile` needs a C++ compiler, and pythae is asked for as it comes
from PyPI (`pip install pythae`); what is not installed is left out.

The last table is how near the limit ours is: operations of the network an image (three
times those of its forward pass, two for each product and sum) over the processor time,
beside what a large convolution and a large matrix product reach here. `--account` says
where ours spends its time instead: on one thread, in oneDNN's kernels by their kind, as
oneDNN has it of itself, and outside of them, which is the optimizer, the noise, the
objective, the data and Python.
"""

import argparse
import collections
import itertools
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

NETWORKS = {"p0": (16, 256), "p1": (16, 64), "p4": (2, 300)}  # latents, batch
SYSTEMS = ("ours", "ours mixed_bfloat16", "keras", "torch", "torch.compile", "pythae")
LIMITS = ("float32", "bfloat16")
PRODUCTS = ("matmul", "gemm_api", "inner_product")  # oneDNN's names


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--account", action="store_true", help="where ours spends time")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.steps = 1, 2
        options.networks, options.systems = ["p4"], ["ours", "torch"]
    if options.worker:
        work(*options.worker, options.steps)
        return
    print(f"load {os.getloadavg()[0]:.1f}")
    for network in options.networks:
        (account if options.account else compare)(network, options)
    if not options.smoke:
        for kind in LIMITS:
            print(f"limit, {kind}: {limit(kind)}")


# --------------------------------------------------------------------------------------
# The systems take turns


def compare(network, options):
    workers = {name: start(name, network, options) for name in options.systems}
    workers = {name: w for name, w in workers.items() if answer(w)}
    rounds = {name: [] for name in workers}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            rounds[name].append(answer(worker))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    operations = forward_operations(network)
    print(f"\n{network}: {3 * operations / 1e6:.1f} million operations an image")
    print(f"{'':22}{'processor ms':>14}{'wall ms':>10}{'ratio':>8}{'GFLOP/s':>10}")
    ours = [cpu for cpu, _ in rounds.get("ours", ())]
    for name, times in rounds.items():
        cpu, wall = (
            1e3 * statistics.median(column) for column in zip(*times, strict=True)
        )
        ratio = ""
        if ours and name != "ours":
            pairs = zip(ours, times, strict=True)
            ratio = f"{statistics.median(o / t[0] for o, t in pairs):.2f}"
        speed = 3 * operations / cpu / 1e6
        print(f"{name:22}{cpu:14.3f}{wall:10.3f}{ratio:>8}{speed:10.0f}")


def account(network, options):
    threads = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    settings = {"ONEDNN_VERBOSE": "1"} | dict.fromkeys(threads, "1")
    images = NETWORKS[network][1] * options.steps * options.rounds
    print(f"\n{network}, microseconds an image on one thread")
    for name in ("ours", "ours mixed_bfloat16"):
        worker = start(name, network, options, settings)
        answer(worker)
        spent, whole = collections.Counter(), 0.0
        for _ in range(options.rounds):
            worker.stdin.write("go\n")
            worker.stdin.flush()
            lines = []
            cpu, _ = answer(worker, lines)
            whole += cpu / options.rounds * 1e6
            for line in lines:
                # ..., kind, implementation, direction, ..., milliseconds
                kind, _, direction, *_, time_spent = line.split(",")[5:]
                if kind == "convolution":
                    kind = f"{kind}, {direction}"
                else:
                    kind = "matrix products" if kind in PRODUCTS else "other"
                spent[kind] += float(time_spent) / images * 1e3
        worker.stdin.close()
        worker.wait()
        print(f"{name:36}{whole:8.0f}")
        for kind, value in [*spent.most_common(), ("outside", whole - spent.total())]:
            print(f"  {kind:34}{value:8.0f}{value / whole:8.0%}")


def start(name, network, options, settings=()):
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", name, network]
        + ["--steps", str(options.steps)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **dict(settings)},
    )


def answer(worker, kernels=None):
    """The next line of JSON that it prints, or None where it has ended.

    Appends what oneDNN prints of its kernels to the list `kernels`.
    """
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)["times"]
        if kernels is not None and line.startswith("onednn_verbose") and "exec" in line:
            kernels.append(line)
    return None


def work(name, network, steps):
    """Trains for `steps` at each line of input; prints seconds an image."""
    latent_dim, batch = NETWORKS[network]
    x = np.random.default_rng(0).integers(0, 256, (batch * steps, 28, 28, 1))
    x = x.astype("uint8")
    run = {
        "ours": ours,
        "ours mixed_bfloat16": ours_bfloat16,
        "keras": bare_keras,
        "torch": plain_torch,
        "torch.compile": compiled_torch,
        "pythae": pythae,
    }[name](network, latent_dim, x, batch)
    run()
    run()
    print(json.dumps({"times": True}), flush=True)
    for _ in sys.stdin:
        processed, started = time.process_time(), time.time()
        run()
        times = time.process_time() - processed, time.time() - started
        print(json.dumps({"times": [t / len(x) for t in times]}), flush=True)


# --------------------------------------------------------------------------------------
# Keras


def keras_networks(network, latent_dim):
    import keras_vae_variance as kvv

    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Learned())
    backbone = {
        "p0": kvv.backbones.depth_to_space,
        "p1": kvv.backbones.infogan,
        "p4": kvv.backbones.mlp,
    }[network]
    return *backbone((28, 28, 1), latent_dim, likelihood), likelihood


def ours(network, latent_dim, x, batch):
    import keras

    import keras_vae_variance as kvv

    encoder, decoder, likelihood = keras_networks(network, latent_dim)
    posterior = kvv.posteriors.DiagonalGaussian(latent_dim)
    vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    vae.compile(keras.optimizers.Adam(1e-4))
    return lambda: vae.fit(x, batch_size=batch, verbose=0)


def ours_bfloat16(*arguments):
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    return ours(*arguments)


def bare_keras(network, latent_dim, x, batch):
    import keras
    from fit_overhead import Bare

    encoder, decoder, _ = keras_networks(network, latent_dim)
    model = Bare(encoder, decoder, latent_dim)
    model.compile(keras.optimizers.Adam(1e-4))
    return lambda: model.fit(x, batch_size=batch, verbose=0)


def forward_operations(network):
    """Products and sums of the layers of the forward pass, an image."""
    encoder, decoder, _ = keras_networks(network, NETWORKS[network][0])
    total = 0
    for layer in [*encoder.layers, *decoder.layers]:
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            continue
        places = 1
        if len(kernel.shape) == 4:
            # A transposed convolution takes each pixel of its input once.
            transposed = "transpose" in type(layer).__name__.lower()
            map_ = layer.input if transposed else layer.output
            places = map_.shape[1] * map_.shape[2]
        total += 2 * places * int(np.prod(kernel.shape))
    return total


# --------------------------------------------------------------------------------------
# PyTorch


def torch_networks(network, latent_dim):
    from torch import nn

    def conv(inputs, outputs, size, stride, padding):
        return nn.Conv2d(inputs, outputs, size, stride, padding)

    if network == "p0":
        encoder = nn.Sequential(
            nn.ReflectionPad2d(2),
            *(conv(1, 16, 4, 2, 1), nn.ReLU()),
            *(conv(16, 64, 4, 2, 1), nn.ReLU()),
            *(conv(64, 256, 4, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(4096, 64)),
        )
        decoder = nn.Sequential(
            *(nn.Linear(latent_dim, 4096), nn.ReLU(), nn.Unflatten(1, (256, 4, 4))),
            *(conv(256, 256, 3, 1, 1), nn.ReLU(), nn.PixelShuffle(2)),
            *(conv(64, 64, 3, 1, 1), nn.ReLU(), nn.PixelShuffle(2)),
            *(conv(16, 16, 3, 1, 1), nn.ReLU(), nn.PixelShuffle(2)),
            *(conv(4, 1, 5, 1, 0), nn.Sigmoid()),
        )
        return encoder, decoder, 64
    if network == "p1":
        encoder = nn.Sequential(
            *(conv(1, 64, 5, 2, 2), nn.ReLU(), conv(64, 128, 5, 2, 2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(6272, 1024, bias=False)),
            *(nn.BatchNorm1d(1024), nn.ReLU()),
        )

        def up(inputs, outputs, bias):
            return nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, 1, bias=bias)

        decoder = nn.Sequential(
            *(nn.Linear(latent_dim, 1024, bias=False), nn.BatchNorm1d(1024)),
            *(nn.ReLU(), nn.Linear(1024, 6272, bias=False), nn.BatchNorm1d(6272)),
            *(nn.ReLU(), nn.Unflatten(1, (128, 7, 7)), up(128, 64, False)),
            *(nn.BatchNorm2d(64), nn.ReLU(), up(64, 1, True), nn.Sigmoid()),
        )
        return encoder, decoder, 1024
    sizes = (784, 200, 200, 200)
    hidden = [(nn.Linear(*pair), nn.ReLU()) for pair in itertools.pairwise(sizes)]
    encoder = nn.Sequential(nn.Flatten(), *(part for pair in hidden for part in pair))
    sizes = (latent_dim, 200, 200, 200)
    hidden = [(nn.Linear(*pair), nn.ReLU()) for pair in itertools.pairwise(sizes)]
    decoder = nn.Sequential(
        *(part for pair in hidden for part in pair),
        *(nn.Linear(200, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28))),
    )
    return encoder, decoder, 200


def plain_torch(network, latent_dim, x, batch, compiled=False):
    import torch
    from torch import nn

    encoder, decoder, features = torch_networks(network, latent_dim)
    mean, log_variance = (
        nn.Linear(features, latent_dim),
        nn.Linear(features, latent_dim),
    )
    variance = nn.Parameter(torch.zeros(()))
    modules = nn.ModuleList([encoder, decoder, mean, log_variance])
    optimizer = torch.optim.Adam([*modules.parameters(), variance], 1e-4)

    def loss_of(x):
        features = encoder(x)
        mu, log_s2 = mean(features), log_variance(features)
        z = mu + torch.exp(0.5 * log_s2) * torch.randn_like(mu)
        error = torch.square(x - decoder(z))
        nll = 0.5 * (error / variance.exp() + variance + np.log(2 * np.pi))
        kl = 0.5 * (log_s2.exp() + mu.square() - 1 - log_s2)
        return (nll.sum((1, 2, 3)) + kl.sum(1)).mean()

    if compiled:
        loss_of = torch.compile(loss_of)
    data = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())

    def run():
        order = torch.randperm(len(data))
        for indices in order.split(batch):
            optimizer.zero_grad()
            loss_of(data[indices].float() / 255).backward()
            optimizer.step()

    return run


def compiled_torch(*arguments):
    return plain_torch(*arguments, compiled=True)


def pythae(network, latent_dim, x, batch):
    import tempfile

    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    networks = torch_networks(network, latent_dim)

    class Encoder(BaseEncoder):
        def __init__(self):
            BaseEncoder.__init__(self)
            self.layers, self.latent_dim = networks[0], latent_dim
            self.mean = nn.Linear(networks[2], latent_dim)
            self.log_variance = nn.Linear(networks[2], latent_dim)

        def forward(self, x):
            features = self.layers(x)
            return ModelOutput(
                embedding=self.mean(features),
                log_covariance=self.log_variance(features),
            )

    class Decoder(BaseDecoder):
        def __init__(self):
            BaseDecoder.__init__(self)
            self.layers = networks[1]

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=latent_dim)
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    data = torch.from_numpy(x.transpose(0, 3, 1, 2) / 255).float()
    trainer = BaseTrainer(
        model=model,
        train_dataset=BaseDataset(data, torch.zeros(len(data))),
        training_config=BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            num_epochs=1,
            learning_rate=1e-4,
            per_device_train_batch_size=batch,
            optimizer_cls="Adam",
            no_cuda=True,
        ),
    )
    trainer.prepare_training()
    return lambda: trainer.train_step(1)


# --------------------------------------------------------------------------------------
# The limit


def limit(kind):
    """Operations a second of processor time of large layers of TensorFlow."""
    import tensorflow as tf

    x = tf.cast(tf.random.normal((64, 32, 32, 128)), kind)
    kernel = tf.cast(tf.random.normal((3, 3, 128, 128)), kind)
    a = tf.cast(tf.random.normal((2048, 2048)), kind)
    cases = {
        "convolution": (
            tf.function(lambda: tf.nn.conv2d(x, kernel, 1, "SAME")),
            2 * 64 * 32 * 32 * 9 * 128 * 128,
        ),
        "matrix product": (tf.function(lambda: a @ a), 2 * 2048**3),
    }
    found = []
    for name, (function, operations) in cases.items():
        function()
        rates = []
        for _ in range(7):
            processed = time.process_time()
            function()
            rates.append(operations / (time.process_time() - processed) / 1e9)
        found.append(f"{name} {statistics.median(rates):.0f} GFLOP/s")
    return ", ".join(found)


if __name__ == "__main__":
    main()
