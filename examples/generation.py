"""P1's comparison of generated and interpolated images (Tables 4, 5 and 7).

    python examples/generation.py --data-dir DIR --classifier FILE.keras

The network of App. I.1 with 16 latents, batches of 64, Adam at 1e-3, on MNIST or
Fashion-MNIST. Printed for each model are the squared error of the test images, Frechet
distances of 10,000 images to the test set, generated from the prior, from a
second-stage VAE and from a mixture of 10 Gaussians (Table 4) and interpolated between
10,000 pairs at the middle and at a random ratio (Table 5), and minus the log likelihood
of 500 test images by 500 weights (Table 7).

The distances are of the features of the classifier that `train_classifier.py` trains,
and are no FIDs, which P1 prints, so that the order alone can be compared: P1's lowest
by the mixture is Diag-D by maximum likelihood (10.05), then Iso-I (12.21), Iso-D
(12.89), AE (13.20) and Diag-I (13.38); a VAE with variance 1 has 58.96. P1 trains 100
epochs; `--epochs` is 10 here, and `--channels` and `--units` (P1: 64, 1024) make the
network smaller. The first half of Diag-D's epochs is by Iso-I, for the reason that
`variance_parameterizations.py` gives.

A variance without a bound ("trainable" Diag-D) may diverge, as P1 reports of CelebA;
then it is said so. Writes a JSON for each run and figures to
`examples/results/generation`; what is there already is not run again, and an
interrupted training goes on after its last epoch. An epoch takes 40 to 100 s on two
cores. `--smoke` shrinks all of it to seconds; `--dataset digits` needs no data set.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

recipes = kvv.recipes
MODELS = {
    "VAE": functools.partial(recipes.vae, variance=1.0),
    "Bernoulli": recipes.bernoulli_vae,
    "AE": recipes.ae,
    "WAE-MMD": recipes.wae_mmd,
    "RAE": recipes.rae,
    "RAE-GP": functools.partial(recipes.rae, kind="gp"),
    "trainable Iso-I": recipes.trainable_iso_i,
    "trainable Diag-I": recipes.trainable_diag_i,
    "trainable Iso-D": recipes.trainable_iso_d,
    "trainable Diag-D": recipes.trainable_diag_d,
    "Iso-I": recipes.iso_i,
    "Diag-I": recipes.diag_i,
    "Iso-D": recipes.iso_d,
    "Diag-D": recipes.diag_d,
}
# P1, Tables 4 and 5, on MNIST: MSE, FID by prior, 2nd VAE, GMM10, mid-point, random.
PAPER = {
    "VAE": (20.25, 55.85, 182.64, 58.96, 62.18, 63.86),
    "Bernoulli": (7.26, 19.16, 19.65, 17.49, 18.20, 18.08),
    "AE": (4.31, None, 20.66, 13.20, 18.49, 12.81),
    "WAE-MMD": (4.34, 22.76, 15.00, 13.70, 17.27, 12.41),
    "RAE": (4.28, None, 18.54, 13.68, 17.71, 12.99),
    "RAE-GP": (4.30, None, 18.89, 13.71, 17.98, 12.96),
    "trainable Iso-I": (4.28, 20.93, 14.83, 13.39, 15.66, 12.73),
    "trainable Diag-I": (5.70, 26.08, 18.44, 15.72, 17.34, 14.77),
    "trainable Iso-D": (4.45, 27.40, 16.38, 13.67, 17.03, 13.33),
    "trainable Diag-D": (5.33, 146.43, 26.02, 27.90, 51.65, 31.66),
    "Iso-I": (4.40, 22.78, 15.77, 12.21, 14.77, 11.27),
    "Diag-I": (5.35, 24.15, 17.18, 13.38, 17.24, 13.08),
    "Iso-D": (4.31, 22.94, 17.57, 12.89, 15.30, 12.01),
    "Diag-D": (6.80, 16.64, 10.49, 10.05, 11.96, 8.68),
}
COLUMNS = "mse", "prior", "second stage", "mixture", "mid-point", "random point"
PAPER_NLL = {  # P1, Table 7
    "VAE": 736.61,
    "Iso-I": -887.17,
    "Diag-I": -1390.88,
    "Iso-D": -995.87,
    "Diag-D": -2113.80,
}


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    x_train, x_test = load(options)
    classifier = keras.models.load_model(options.classifier)
    features = kvv.metrics.features.penultimate(classifier)
    results, pictures = {}, {}
    for seed in range(options.seeds):
        for model in options.models:
            settings = settings_of(model, seed, options, features)

            def run(settings):
                return measure(settings, x_train, x_test, features, options)

            name = f"{options.dataset}_{model}_seed{seed}".replace(" ", "-")
            numbers = _runs.once(options.output_dir, name, settings, run)
            results.setdefault(model, []).append(numbers)
            if "samples" in numbers:
                pictures.setdefault(model, np.array(numbers["samples"]))
    report(results, options)
    path = options.output_dir / f"{options.dataset}_samples.png"
    _runs.sheet(pictures, path, columns=4)


def parse():
    parser = _runs.parser(__doc__, __file__)
    _runs.add_data(parser, "mnist", ("mnist", "fashion_mnist", "digits"))
    parser.add_argument("--classifier", required=True, help="of train_classifier.py")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--units", type=int, default=1024)
    parser.add_argument("--second-stage-epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.draws, options.likelihoods, options.weights = 10_000, 500, 500
    options.components = 10
    if options.smoke:
        options.epochs, options.second_stage_epochs, options.seeds = 2, 1, 1
        options.models = ["AE", "Diag-D"]
        options.draws, options.likelihoods, options.weights = 64, 8, 4
        options.components = 2
    return options


def load(options):
    """Images in [0, 1]."""
    (x_train, _), (x_test, _) = _runs.load(options.dataset, options)
    x_train, x_test = _runs.floats(x_train), _runs.floats(x_test)
    return (x_train[:256], x_test[:64]) if options.smoke else (x_train, x_test)


def settings_of(model, seed, options, features):
    return {
        "model": model,
        "dataset": options.dataset,
        "latent_dim": 16,
        "epochs": options.epochs,
        "first_epochs": options.epochs // 2 if model == "Diag-D" else 0,
        "channels": options.channels,
        "units": options.units,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "second_stage_epochs": options.second_stage_epochs,
        "features": features.name,
        "seed": seed,
        "smoke": options.smoke,
    }


def train(settings, x_train, options):
    vae = make(settings["model"], x_train, settings)
    first_epochs = settings["first_epochs"]
    if first_epochs:
        first = make("Iso-I", x_train, settings)
        fit(first, "Iso-I", (0, first_epochs), x_train, settings, options)
        _runs.hand_on(first, vae)
    epochs = first_epochs, settings["epochs"]
    return fit(vae, settings["model"], epochs, x_train, settings, options)


def make(model, x, settings):
    backbone = kvv.backbones.mlp
    if x.shape[1] >= 28 and not settings["smoke"]:
        sizes = {"channels": settings["channels"], "units": settings["units"]}
        backbone = functools.partial(kvv.backbones.infogan, **sizes)
    vae = MODELS[model](
        x.shape[1:], settings["latent_dim"], backbone=backbone, seed=settings["seed"]
    )
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    return vae


def fit(vae, model, epochs, x, settings, options):
    keys = "dataset", "latent_dim", "channels", "units", "seed", "smoke"
    return _runs.trained(
        options.models_dir or options.output_dir / "models",
        f"{settings['dataset']}_{model}".replace(" ", "-"),
        {"model": model, "epochs": epochs, **{key: settings[key] for key in keys}},
        vae,
        x,
        batch_size=settings["batch_size"],
        initial_epoch=epochs[0],
        epochs=epochs[1],
    )


def measure(settings, x_train, x_test, features, options):
    seed = settings["seed"]
    try:
        vae = train(settings, x_train, options)
    except kvv.NonFiniteLossError as error:
        return {"diverged": str(error).partition(" gave")[0]}
    vae.calibrate(x_train)
    logs = vae.evaluate(x_test, batch_size=500, verbose=0, return_dict=True)
    numbers = {"mse": logs["mse"], "variance": logs["variance"]}

    second_stage = kvv.samplers.SecondStage(
        epochs=settings["second_stage_epochs"], verbose=0
    )
    mixture = kvv.samplers.GaussianMixture(options.components)
    samplers = {
        "second stage": second_stage.fit(vae, x_train, seed=seed),
        "mixture": mixture.fit(vae, x_train, seed=seed),
    }
    if not vae.posterior.deterministic or settings["model"] == "WAE-MMD":
        samplers["prior"] = None  # AE and RAE have none
    real = kvv.metrics.Moments.of(x_test, features)
    pictures = []
    for name, sampler in samplers.items():
        images = np.asarray(vae.generate(options.draws, sampler, seed=seed)["mean"])
        numbers[name] = kvv.metrics.frechet_distance(real, images, features)
        pictures.append(np.round(images[:16], 2))
    order = np.random.default_rng(seed).permutation(len(x_test))
    for name, ratio in (("mid-point", 0.5), ("random point", "random")):
        images = kvv.metrics.interpolate(vae, x_test, x_test[order], ratio, seed=seed)
        numbers[name] = kvv.metrics.frechet_distance(real, images, features)
    if not vae.posterior.deterministic:
        values = kvv.metrics.log_likelihood(
            vae, x_test[: options.likelihoods], options.weights, seed=seed
        )
        numbers["nll"] = -np.mean(values)
    return {**numbers, "samples": pictures[1]}  # of the mixture


def report(results, options):
    rows = [["model"]]
    for name in COLUMNS:
        rows[0] += [name, "P1" if name == "mse" else "(P1's FID)"]
    rows[0] += ["nll", "P1"]
    mnist = options.dataset == "mnist"
    for model, runs in results.items():
        rows.append([model])
        if any("diverged" in run for run in runs):
            rows[-1] += ["diverged"] + [""] * (len(rows[0]) - 2)
            continue
        for i, name in enumerate(COLUMNS):
            printed = PAPER[model][i] if mnist else None
            rows[-1] += [cell(runs, name), "" if printed is None else printed]
        nll = cell(runs, "nll")
        # Their variance depends on x: that is no likelihood, and bounds nothing.
        rows[-1].append(f"({nll})" if model in ("Iso-D", "Diag-D") else nll)
        rows[-1].append(PAPER_NLL.get(model, "") if mnist else "")
    print("\nSquared error; Frechet distances of classifier features; nats")
    _runs.table(rows)


def cell(runs, name):
    values = [run[name] for run in runs if name in run]
    if not values:
        return ""
    spread = f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
