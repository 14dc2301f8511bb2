"""What a learned variance gains over a fixed one: same networks, same epochs.

    python examples/fixed_or_learned.py --data-dir DIR --classifier FILE.keras
    python examples/fixed_or_learned.py --dataset digits

On the first 20,000 training images of MNIST, with the network of P1's App. I.1 made
small, 16 latents, batches of 64 and Adam at 1e-3, ten epochs each: variances 1 and 0.5,
as nearly all code has them, 0.1 and 0.01, one that is learned for the data set (P0,
Eq. 10; P2's optimal sigma), and one that is predicted for each pixel (P0, Alg. 1, with
five of the ten epochs for the first stage).

Printed, with means and deviations over seeds:

- `log p`: log likelihood of 500 test images by 100 importance weights under a mixture
  of 20 Gaussians, in nats; `refitted`: the same of a fixed variance that is set to the
  mean squared error of the training images afterwards. A user who knows to do that
  gains much, but the codes stay those that the fixed variance has made.
- Frechet distances of 10,000 samples of prior and mixture to the test images, by the
  features of the classifier that `train_classifier.py` trains; lower is better.
- The share of the test set's pixels in their predicted 90 % interval, and the
  correlation over images of the predicted variance with the squared error. A fixed
  variance has none: it says the same of every image.

Writes a JSON for each run and the figure of the README to
`examples/results/fixed_or_learned`; what is there already is not run again. `--smoke`
shrinks all of it to seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv


def fixed(variance):
    return functools.partial(kvv.recipes.vae, variance=variance)


MODELS = {
    "fixed at 1": fixed(1.0),
    "fixed at 0.5": fixed(0.5),
    "fixed at 0.1": fixed(0.1),
    "fixed at 0.01": fixed(0.01),
    "learned": kvv.recipes.optimal_sigma,
    "learned, a pixel": kvv.recipes.two_stage,
}
DRAWN = "fixed at 1", "fixed at 0.1", "learned", "learned, a pixel"


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    x_train, x_test = load(options)
    features = None
    if options.classifier:
        classifier = keras.models.load_model(options.classifier)
        features = kvv.metrics.features.penultimate(classifier)
    results = {}
    for seed in range(options.seeds):
        for model in MODELS:
            settings = {
                "model": model,
                "dataset": options.dataset,
                "images": len(x_train),
                "epochs": options.epochs,
                "latent_dim": 16,
                "batch_size": 64,
                "learning_rate": 1e-3,
                "channels": 16,
                "units": 128,
                "features": features.name if features else None,
                "seed": seed,
                "smoke": options.smoke,
            }

            def run(settings):
                return measure(settings, x_train, x_test, features, options)

            name = f"{options.dataset}_{model}_seed{seed}".replace(",", "")
            numbers = _runs.once(
                options.output_dir, name.replace(" ", "_"), settings, run
            )
            results.setdefault(model, []).append(numbers)
    report(results)
    draw(results, options)


def parse():
    parser = _runs.parser(__doc__, __file__)
    _runs.add_data(parser, "mnist", ("mnist", "fashion_mnist", "digits"))
    parser.add_argument("--classifier", help="of train_classifier.py, for its features")
    parser.add_argument("--images", type=int, default=20_000, help="the first so many")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.draws, options.likelihoods, options.weights = 10_000, 500, 100
    options.components = 20
    if options.smoke:
        options.images, options.epochs, options.seeds = 256, 2, 1
        options.draws, options.likelihoods, options.weights = 64, 8, 4
        options.components = 2
    return options


def load(options):
    """Images in [0, 1]."""
    (x_train, _), (x_test, _) = _runs.load(options.dataset, options)
    x_train, x_test = _runs.floats(x_train), _runs.floats(x_test)
    return x_train[: options.images], x_test[:64] if options.smoke else x_test


def train(settings, x):
    small = x.shape[1] < 28 or settings["smoke"]
    backbone = kvv.backbones.mlp
    if not small:
        sizes = {"channels": settings["channels"], "units": settings["units"]}
        backbone = functools.partial(kvv.backbones.infogan, **sizes)
    vae = MODELS[settings["model"]](
        x.shape[1:], settings["latent_dim"], backbone=backbone, seed=settings["seed"]
    )
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    epochs, rest = settings["epochs"], {"batch_size": settings["batch_size"]}
    if settings["model"] == "learned, a pixel":
        half = epochs // 2
        kvv.fit_two_stage(
            vae, x, epochs=(half, epochs - half), tolerance=None, verbose=0, **rest
        )
    else:
        vae.fit(x, epochs=epochs, verbose=0, **rest)
        vae.calibrate(x)
    return vae


def measure(settings, x_train, x_test, features, options):
    seed = settings["seed"]
    vae = train(settings, x_train)
    sampler = kvv.samplers.GaussianMixture(options.components)
    sampler.fit(vae, x_train, seed=seed)
    chosen = x_test[: options.likelihoods]

    def log_likelihood(model):
        values = kvv.metrics.log_likelihood(
            model, chosen, options.weights, sampler=sampler, seed=seed
        )
        return np.mean(values)

    numbers = {
        "log_likelihood": log_likelihood(vae),
        **{
            name: np.mean(values)
            for name, values in vae.elbo(x_test, seed=seed).items()
        },
    }
    logs = vae.evaluate(x_train, batch_size=500, verbose=0, return_dict=True)
    numbers["variance"], numbers["train_mse"] = logs["variance"], logs["mse"]
    if settings["model"].startswith("fixed"):
        size = np.prod(x_train.shape[1:])
        refitted = kvv.likelihoods.Gaussian(kvv.variances.Fixed(logs["mse"] / size))
        refitted = kvv.VAE(vae.encoder, vae.decoder, vae.posterior, refitted)
        numbers["log_likelihood_refitted"] = log_likelihood(refitted)
    for name, chosen_sampler in (("prior", None), ("mixture", sampler)):
        images = vae.generate(options.draws, chosen_sampler, seed=seed)["mean"]
        images = np.asarray(images)
        if features is not None:
            numbers[f"distance_{name}"] = kvv.metrics.frechet_distance(
                x_test, images, features
            )
        numbers[f"{name}_samples"] = np.round(images[:12], 2)
    found = kvv.metrics.calibration(vae, x_test, seed=seed)
    numbers["coverage"] = {str(k): float(v) for k, v in found.coverage.items()}
    numbers["z_stddev"] = float(found.stddev)
    parts = [vae.reconstruct(x) for x in np.array_split(x_test, len(x_test) // 64)]
    mean, variance = (
        np.concatenate(
            [np.broadcast_to(part[name], part["mean"].shape) for part in parts]
        )
        for name in ("mean", "variance")
    )
    axes = tuple(range(1, mean.ndim))
    error, predicted = np.square(x_test - mean).mean(axes), variance.mean(axes)
    if predicted.std() > 1e-6 * predicted.mean():
        numbers["correlation"] = np.corrcoef(error, predicted)[0, 1]
    return numbers


def report(results):
    columns = {
        "log p": "log_likelihood",
        "refitted": "log_likelihood_refitted",
        "kl": "kl",
        "squared error": "train_mse",
        "distance, prior": "distance_prior",
        "mixture": "distance_mixture",
        "90 % interval": "0.9",
        "correlation": "correlation",
    }
    rows = [["variance", *columns]]
    for model, runs in results.items():
        rows.append([model])
        for key in columns.values():
            values = [{**run, **run["coverage"]}.get(key) for run in runs]
            rows[-1].append("" if None in values else cell(values))
    _runs.table(rows)


def cell(values):
    digits = 0 if abs(values[0]) >= 100 else 1 if abs(values[0]) >= 3 else 3
    spread = f" +- {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def draw(results, options):
    """Samples of the prior, and whether the predicted intervals hold."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.1, 1))
    for axis, model in zip(left.subplots(len(DRAWN), 1), DRAWN, strict=True):
        images = np.array(results[model][0]["prior_samples"])
        axis.imshow(np.clip(np.concatenate(list(images[..., 0]), 1), 0, 1), cmap="gray")
        axis.set_title(f"variance {model}", fontsize=9, loc="left")
        axis.set_axis_off()
    axis = right.subplots()
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    styles = zip(DRAWN, (":", "-.", "--", "-"), ("C7", "C1", "C0", "C2"), strict=True)
    for model, style, color in styles:
        coverage = results[model][0]["coverage"]
        axis.plot(
            [float(level) for level in coverage],
            list(coverage.values()),
            style,
            color=color,
            label=model,
        )
    axis.set(xlabel="predicted interval", ylabel="share of pixels in it")
    axis.legend(frameon=False, fontsize=7)
    figure.savefig(options.output_dir / f"{options.dataset}_gain.png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
