"""P2's decoders on a small convolutional network (Tables 1 to 4, Fig. 9).

    python examples/calibrated_decoders.py --dataset svhn --data-file FILE.npz
    python examples/calibrated_decoders.py --dataset frey --data-file FILE.npz
    python examples/calibrated_decoders.py --dataset svhn_cropped --data-dir DIR
    python examples/calibrated_decoders.py --dataset mnist --data-dir DIR

With `--squeezenet FILE`, the ImageNet weights of SqueezeNet 1.1 without its top, or
`--classifier FILE`, of `train_classifier.py`, Frechet distances of samples of the prior
to the test set by their features are printed too (P2's are FIDs).

Settings are P2's (App. B): 3 convolutions of 32, 64, 128 channels and a dense layer,
mirrored, 20 latents, batches of 128, Adam at 1e-3; single-sample bounds on `-log p`.
P2 trains 10 epochs of the 73,257 images of SVHN, 5,725 steps; `--steps` gives the
number here. `svhn` is a file with an array of 10,000 of SVHN's images 32x32, of which
the first 8,000 train and the last 2,000 test, cropped to 28x28; `frey` one of the 1,965
frames 28x20, of which every tenth tests. Absolute numbers are then not the paper's,
which come from all of SVHN, resized (`svhn_cropped`). P2 has no numbers of MNIST and
Fashion-MNIST.

Expected order of the bounds, lower is better (P2, Table 2, Gaussian decoders): unit
variance above beta-VAE above shared and optimal; the optimal variance at its value at
once and the learned one slowly (Fig. 9). "Uncalibrated" is the bound by the running
average that P2 takes for the optimal variance. After few steps it is behind: "ours" is
by the variance of the whole training set (`VAE.calibrate`), which for all other
decoders is the same. Of SVHN, P2's row per-pixel is garbled in the text at hand, and
its Frey Face cannot be of 28x20: at variance 1 the mean frame alone has 518 nats there,
and P2 prints 726, near the 720 of D = 784. Likelihoods that are not normalised
(per-image, Bernoulli) are in brackets: they bound nothing. P2's rows of beta are our
variances of beta / 2. Discrete and continuous bounds compare only through the
continuous model's bound on the discretised data, which is the column "bits / dim":
there x has uniform noise of the width of a level, and D log 255 is added.

Fig. 4 is drawn from the beta rows: the mutual information of x and z, and the KL of the
aggregate posterior to the prior (Eq. 6), estimated on the test set, whose number caps
both at its logarithm.

Writes a JSON for each run and figures to `examples/results/calibrated_decoders`; what
is there already is not run again. `--smoke` shrinks all of it to seconds; with
`--dataset digits` it needs no data set.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

PAPER = {  # P2, Tables 1 and 2: bounds on -log p
    "svhn": {
        "Gaussian": 2184,
        "beta 0.01": -3186,
        "shared": -3349,
        "optimal": -3333,
        "categorical": 9179,
        "bitwise": 10800,
        "logistic mixture": 9085,
        "beta 10": 4056,
        "beta 1": 1381,
        "beta 0.1": -1223,
        "beta 0.001": 21,
    },
}
PAPER["svhn_cropped"] = PAPER["svhn"]


def beta(value):
    """The variance that P2's beta stands for; its squared error has no half."""
    return lambda *shape, **more: kvv.recipes.vae(*shape, variance=value / 2, **more)


def shared_from_1(*shape, **more):
    """The plain parameter of Fig. 9, a log stddev: P2's variance is its exp(2 p)."""
    variance = kvv.variances.Learned(initial=1.0, rate=2.0)
    return _gaussian(variance, *shape, **more)


def _gaussian(variance, shape, latent_dim, backbone, seed):
    likelihood = kvv.likelihoods.Gaussian(variance)
    networks = backbone(shape, latent_dim, likelihood)
    posterior = kvv.posteriors.DiagonalGaussian(latent_dim)
    return kvv.VAE(*networks, posterior, likelihood, seed=seed)


def unit_variance(*shape, **more):
    return kvv.recipes.vae(*shape, variance=1.0, **more)


DECODERS = {
    "shared": kvv.recipes.shared_sigma,
    "shared from 1": shared_from_1,
    "optimal": kvv.recipes.optimal_sigma,
    "per-image": kvv.recipes.per_image_sigma,
    "per-pixel": kvv.recipes.per_pixel_sigma,
    "no bound": kvv.recipes.l_vae_vector,  # P3's LV-VAE, P1's trainable Diag-D
    "Student-t": kvv.recipes.student_t_vae,
    "Gaussian": unit_variance,
    **{f"beta {b:g}": beta(b) for b in (10.0, 1.0, 0.1, 0.01, 0.001)},
    "disc. Gaussian": kvv.recipes.discretized_gaussian_vae,
    "disc. logistic": kvv.recipes.discretized_logistic_vae,
    "Bernoulli": kvv.recipes.bernoulli_vae,
    "bitwise": kvv.recipes.bitwise_categorical_vae,
    "logistic mixture": kvv.recipes.logistic_mixture_vae,
    "categorical": kvv.recipes.categorical_vae,
}
# Whose one variance is learned: its path is recorded (Fig. 9).
OF_ALL = "shared", "shared from 1", "optimal"


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    x_train, x_test = load(options)
    features = None
    if options.squeezenet:
        features = kvv.metrics.features.squeezenet(options.squeezenet)
    elif options.classifier:
        classifier = keras.models.load_model(options.classifier)
        features = kvv.metrics.features.penultimate(classifier)
    print(f"{options.dataset}: {x_train.shape} to train, {len(x_test)} to test")
    results, samples = {}, {}
    for seed in range(options.seeds):
        for name in options.decoders:
            settings = {
                "decoder": name,
                "dataset": options.dataset,
                "steps": options.steps,
                "batch_size": 128,
                "learning_rate": 1e-3,
                "latent_dim": 20,
                "features": features.name if features else None,
                "seed": seed,
                "smoke": options.smoke,
            }
            file = f"{options.dataset}_{name}_seed{seed}".replace(" ", "")

            def run(settings, name=name):
                return train(DECODERS[name], settings, x_train, x_test, features)

            numbers = _runs.once(options.output_dir, file, settings, run)
            results.setdefault(name, []).append(numbers)
            if "samples" in numbers:
                samples.setdefault(name, np.array(numbers["samples"]))
    report(results, options)
    draw_variance(results, options)
    draw_information(results, len(x_test), options)
    _runs.sheet(samples, options.output_dir / f"{options.dataset}_samples.png")


def parse():
    parser = _runs.parser(__doc__, __file__)
    names = "svhn", "frey", "svhn_cropped", "mnist", "fashion_mnist", "digits"
    _runs.add_data(parser, "svhn", names, file="an .npz of svhn or frey")
    parser.add_argument("--squeezenet", help="an .h5, for Frechet distances")
    parser.add_argument("--classifier", help="the same, of train_classifier.py")
    parser.add_argument(
        "--decoders", nargs="+", default=list(DECODERS), choices=DECODERS
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5725)
    options = parser.parse_args()
    if options.smoke:
        options.steps = 3
        options.decoders = ["shared", "optimal", "per-image", "beta 0.01", "bitwise"]
    return options


def load(options):
    """Training and test images, uint8 (floats for the digits)."""
    if options.dataset not in ("svhn", "frey"):
        arguments = {"size": 28} if options.dataset == "svhn_cropped" else {}
        (x_train, _), (x_test, _) = _runs.load(options.dataset, options, **arguments)
    else:
        x = _runs.archive(options.data_file)
        if options.dataset == "svhn":
            x_train, x_test = x[:8000, 2:30, 2:30], x[-2000:, 2:30, 2:30]
        else:
            # Neighbours in a video are alike: so the test frames are known well.
            test = np.arange(len(x)) % 10 == 9
            x_train, x_test = x[~test], x[test]
    if options.smoke:
        x_train, x_test = x_train[:256], x_test[:64]
    return x_train, x_test


def train(recipe, settings, x_train, x_test, features):
    small = x_train.shape[1] < 16
    backbone = kvv.backbones.mlp if small else kvv.backbones.small_conv
    vae = recipe(
        x_train.shape[1:],
        settings["latent_dim"],
        backbone=backbone,
        seed=settings["seed"],
    )
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    callbacks = []
    if settings["decoder"] in OF_ALL:
        callbacks.append(kvv.callbacks.VarianceHistory())
    try:
        history = vae.fit(
            x_train,
            batch_size=settings["batch_size"],
            epochs=10,
            steps_per_epoch=max(settings["steps"] // 10, 1),
            validation_data=x_test[:2000],
            callbacks=callbacks,
            verbose=0,
        )
    except kvv.NonFiniteLossError as error:
        # A variance without a bound: what P2 reports of it (Section 5.3).
        return {"diverged": str(error).partition(" gave")[0]}
    # A running average is behind a short run: the optimal variance of these weights.
    vae.calibrate(x_train)
    seed = settings["seed"]
    terms = {name: np.mean(v) for name, v in vae.elbo(x_test, seed=seed).items()}
    numbers = {
        "nll_bound": -terms["elbo"],
        "reconstruction": terms["reconstruction"],
        "kl": terms["kl"],
        "mse": history.history["val_mse"][-1],
        "variance": vae.evaluate(x_test, verbose=0, return_dict=True)["variance"],
        "bits_per_dimension": _runs.bits_per_dimension(vae, x_test, seed),
        "mutual_information": kvv.metrics.mutual_information(vae, x_test, seed=seed),
        "marginal_kl": kvv.metrics.marginal_kl(vae, x_test, seed=seed),
        "val_loss": history.history["val_loss"],
        "samples": np.round(np.asarray(vae.generate(16, seed=0)["mean"]), 2),
    }
    if features is not None:
        numbers["distance"] = distance(vae, x_test, features, seed)
    if callbacks:
        numbers["variance_history"] = callbacks[0].variance
    return numbers


def distance(vae, x_test, features, seed):
    """Of as many samples of the prior as there are test images."""
    parts = [
        np.asarray(vae.generate(min(500, len(x_test)), seed=seed + i)["mean"])
        for i in range(-(-len(x_test) // 500))
    ]
    real = _runs.floats(x_test)
    generated = np.clip(np.concatenate(parts), 0.0, 1.0)
    return kvv.metrics.frechet_distance(real, generated, features)


def report(results, options):
    print("\nBounds on -log p of the test set, nats, at one draw of z an image")
    paper = PAPER.get(options.dataset, {})
    rows = [["decoder", "P2", "ours", "uncalibrated", "bits / dim", "kl", "mse"]]
    rows[0].append("variance")
    rows[0] += ["P2's beta", "I(x; z)", "KL(q(z) || p(z))", "distance"]
    names = ("nll_bound", "kl", "mse", "variance", "mutual_information", "marginal_kl")
    for name, runs in results.items():
        if any("diverged" in run for run in runs):
            rows.append([name, paper.get(name, ""), "diverged", *[""] * 9])
            continue
        means = {key: np.mean([run[key] for run in runs]) for key in names}
        distances = [run["distance"] for run in runs if "distance" in run]
        in_bits = [run["bits_per_dimension"] for run in runs]
        known = name not in ("per-image", "Bernoulli")
        rows.append(
            [
                name,
                paper.get(name, ""),
                f"{means['nll_bound']:.0f}" if known else f"({means['nll_bound']:.0f})",
                f"{np.mean([run['val_loss'][-1] for run in runs]):.0f}",
                "" if None in in_bits else f"{np.mean(in_bits):.3f}",
                f"{means['kl']:.1f}",
                f"{means['mse']:.2f}",
                f"{means['variance']:.5f}",
                f"{2 * means['variance']:.4f}",
                f"{means['mutual_information']:.2f}",
                f"{means['marginal_kl']:.2f}",
                f"{np.mean(distances):.0f}" if distances else "",
            ]
        )
    _runs.table(rows)


def draw_variance(results, options):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for name, style in zip(OF_ALL, ("--", ":", "-"), strict=True):
        if name in results:
            path = results[name][0]["variance_history"]
            axes.semilogy(path, style, label=name)
    axes.set(xlabel="step", ylabel="variance")
    axes.legend(frameon=False)
    figure.savefig(options.output_dir / f"{options.dataset}_variance.png", dpi=90)


def draw_information(results, num_test, options):
    """P2, Fig. 4: what x and z share, and what the prior misses, over beta."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    fixed = {name: runs for name, runs in results.items() if "variance" in runs[0]}
    for axis, key, title in (
        (axes[0], "mutual_information", "I(x; z) (nats)"),
        (axes[1], "marginal_kl", "KL(q(z) || p(z)) (nats)"),
    ):
        points = sorted(
            (2 * runs[0]["variance"], np.mean([run[key] for run in runs]))
            for name, runs in fixed.items()
            if name.startswith("beta ") or name == "Gaussian"
        )
        if points:
            axis.plot(*np.transpose(points), "o-", label="beta-VAE")
        for name, marker in (("shared", "*"), ("optimal", "D")):
            if name in fixed:
                run = fixed[name][0]
                axis.plot(2 * run["variance"], run[key], marker, label=name)
        axis.set(xscale="log", xlabel="beta (2 variance)", ylabel=title)
    axes[0].axhline(np.log(num_test), color="grey", lw=0.8, label="log N, the cap")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(options.output_dir / f"{options.dataset}_information.png", dpi=90)


if __name__ == "__main__":
    main()
