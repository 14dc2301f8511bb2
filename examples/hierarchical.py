"""P2's decoders on a hierarchical VAE of 15 layers of latents (Table 2, HVAE).

    python examples/hierarchical.py --dataset svhn --data-file FILE.npz
    python examples/hierarchical.py --dataset fashion_mnist --data-dir DIR
    python examples/hierarchical.py --dataset digits

With `--squeezenet FILE`, the ImageNet weights of SqueezeNet 1.1 without its top,
Frechet distances of samples of the prior to the test set are printed too (P2's are
FIDs).

P2 (App. B) takes the baseline of BIVA, "with 15 layers of latent variables, without the
top-down and bottom-up connections": bottom-up inference, no skip connections, spatial
latents. Its sizes are not given; here they are those of `backbones.hierarchical`, 64
channels and 8 channels of latents, which at 28x28 makes 10,440 latents. Adamax at 1e-3
with gradients clipped at norm 200, batches of 64; the KL's weight rises from 0 to 1
over the first `--annealing` steps. `svhn` is a file with an array of 10,000 of SVHN's
images, of which the first 8,000 train and the last 2,000 test, cropped to 28x28.
`--inference top_down` trains the same generative model with the inference of today.

With its sizes this is work for a GPU. A small run on a CPU, for the order of the
decoders alone, in about 2 minutes of one core:

    python examples/hierarchical.py --dataset fashion_mnist --data-dir DIR \\
        --layers 4 --channels 16 --latent-channels 2 --steps 400 --annealing 200 \\
        --train 10000 --test 500 --decoders Gaussian shared optimal

Expected order of the bounds on `-log p`, lower is better (P2, Table 2, on CelebA and
CIFAR, which are not at hand here): unit variance far above shared and optimal, optimal
at or below shared. "weighted" is the bound by `--weights` importance weights an image,
"mse" the error of `reconstruct`, with all latents at their means. Per-image is no
normalised density and in brackets; discrete and continuous bounds compare through the
column "bits / dim" alone, as in `calibrated_decoders.py`.

Writes a JSON for each run and a sheet of samples to `examples/results/hierarchical`;
what is there already is not run again. `--smoke` shrinks all of it to seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import time

import _runs
import keras
import numpy as np
from calibrated_decoders import distance

import keras_vae_variance as kvv

PAPER = {  # P2, Table 2: bounds on -log p of CelebA's and CIFAR's images of 32x32
    "Gaussian": (7173, 7186),
    "shared": (-6374, -5435),
    "optimal": (-8446, -5677),
    "categorical": (6359, 7179),
    "logistic mixture": (7932, 8443),
}


def gaussian(variance):
    return lambda: kvv.likelihoods.Gaussian(variance())


DECODERS = {
    "Gaussian": gaussian(lambda: kvv.variances.Fixed(1.0)),
    "shared": gaussian(kvv.variances.Learned),
    "optimal": gaussian(kvv.variances.MaximumLikelihood),
    "per-image": gaussian(lambda: kvv.variances.MaximumLikelihood(per_example=True)),
    "logistic mixture": kvv.likelihoods.LogisticMixture,
    "categorical": kvv.likelihoods.Categorical,
}


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    x_train, x_test = load(options)
    features = None
    if options.squeezenet:
        features = kvv.metrics.features.squeezenet(options.squeezenet)
    print(f"{options.dataset}: {x_train.shape} to train, {len(x_test)} to test")
    results, samples = {}, {}
    for name in options.decoders:
        settings = {
            "decoder": name,
            "dataset": options.dataset,
            "inference": options.inference,
            "layers": options.layers,
            "channels": options.channels,
            "latent_channels": options.latent_channels,
            "train": len(x_train),
            "test": len(x_test),
            "steps": options.steps,
            "annealing": options.annealing,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "weights": options.weights,
            "features": features.name if features else None,
            "seed": options.seed,
            "smoke": options.smoke,
        }
        file = f"{options.dataset}_{name}_{options.inference}_seed{options.seed}"

        def run(settings):
            return train(settings, x_train, x_test, features)

        numbers = _runs.once(options.output_dir, file.replace(" ", ""), settings, run)
        results[name] = numbers
        samples[name] = np.array(numbers["samples"])
    report(results)
    sheet = f"{options.dataset}_{options.inference}_samples.png"
    _runs.sheet(samples, options.output_dir / sheet)


def parse():
    parser = _runs.parser(__doc__, __file__)
    names = "svhn", "fashion_mnist", "digits"
    _runs.add_data(parser, "digits", names, file="an .npz of svhn")
    parser.add_argument("--squeezenet", help="an .h5, for Frechet distances")
    parser.add_argument("--decoders", nargs="+", default=list(DECODERS))
    parser.add_argument(
        "--inference", default="bottom_up", choices=("bottom_up", "top_down")
    )
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--latent-channels", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--annealing", type=int, default=10_000)
    parser.add_argument("--weights", type=int, default=10, help="importance weights")
    parser.add_argument("--train", type=int, help="images to train, all by default")
    parser.add_argument("--test", type=int, help="images to test, all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.smoke:
        options.steps, options.annealing, options.weights = 2, 1, 2
        options.layers, options.channels, options.latent_channels = 2, 4, 1
        options.train, options.test = 128, 32
        options.decoders = ["optimal", "logistic mixture"]
    return options


def load(options):
    """Training and test images, uint8 (floats for the digits)."""
    if options.dataset == "svhn":
        x = _runs.archive(options.data_file)
        x_train, x_test = x[:8000, 2:30, 2:30], x[-2000:, 2:30, 2:30]
    else:
        (x_train, _), (x_test, _) = _runs.load(options.dataset, options)
    return x_train[: options.train], x_test[: options.test]


def train(settings, x_train, x_test, features):
    likelihood = DECODERS[settings["decoder"]]()
    networks = kvv.backbones.hierarchical(
        x_train.shape[1:],
        likelihood,
        num_layers=settings["layers"],
        inference=settings["inference"],
        channels=settings["channels"],
        latent_channels=settings["latent_channels"],
    )
    seed = settings["seed"]
    vae = kvv.HierarchicalVAE(
        *networks, None, likelihood, inference=settings["inference"], seed=seed
    )
    vae.compile(
        keras.optimizers.Adamax(settings["learning_rate"], global_clipnorm=200.0)
    )
    weights = np.linspace(0.0, 1.0, settings["annealing"] + 1)
    started = time.process_time()
    epochs = min(10, settings["steps"])
    history = vae.fit(
        x_train,
        batch_size=settings["batch_size"],
        epochs=epochs,
        steps_per_epoch=settings["steps"] // epochs,
        callbacks=[kvv.callbacks.WeightSchedule(weights)],
        verbose=0,
    ).history
    seconds = time.process_time() - started
    # A running average may lag behind the networks, and the bound is steep in it.
    vae.calibrate(x_train[:2000])
    terms = {name: np.mean(v) for name, v in vae.elbo(x_test, seed=seed).items()}
    errors = np.asarray(vae.reconstruct(x_test)["mean"]) - _runs.floats(x_test)
    numbers = {
        "nll_bound": -terms["elbo"],
        "reconstruction": terms["reconstruction"],
        "kl": terms["kl"],
        "layer_kl": vae.active_layers(x_test, seed=seed).kl,
        "active_layers": vae.active_layers(x_test, seed=seed).count,
        "mse": np.sum(errors**2) / len(x_test),
        "bits_per_dimension": _runs.bits_per_dimension(vae, x_test, seed),
        "latents": sum(vae.latent_dims),
        "parameters": vae.count_params(),
        "processor_ms_per_step": 1000 * seconds / settings["steps"],
        "loss": history["loss"],
        "samples": np.round(np.asarray(vae.generate(16, seed=0)["mean"]), 2),
    }
    if likelihood.normalized:
        k = settings["weights"]
        values = kvv.metrics.log_likelihood(vae, x_test, k, seed=seed)
        numbers["nll_weighted"] = -np.mean(values)
    if features is not None:
        numbers["distance"] = distance(vae, x_test, features, seed)
    return numbers


def report(results):
    print(
        "\nBounds on -log p of the test set, nats, at one draw of all latents an image"
    )
    rows = [["decoder", "P2 CelebA", "CIFAR", "ours", "weighted", "bits / dim", "kl"]]
    rows[0] += ["active layers", "mse", "distance", "CPU ms / step"]
    for name, run in results.items():
        bound = f"{run['nll_bound']:.0f}"
        bits, weighted = run["bits_per_dimension"], run.get("nll_weighted")
        rows.append(
            [
                name,
                *PAPER.get(name, ("", "")),
                bound if weighted is not None else f"({bound})",
                "" if weighted is None else f"{weighted:.0f}",
                "" if bits is None else f"{bits:.3f}",
                f"{run['kl']:.1f}",
                f"{run['active_layers']:.0f}",
                f"{run['mse']:.2f}",
                f"{run['distance']:.0f}" if "distance" in run else "",
                f"{run['processor_ms_per_step']:.0f}",
            ]
        )
    _runs.table(rows)


if __name__ == "__main__":
    main()
