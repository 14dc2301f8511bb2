"""Which variance finds anomalies? ROC AUC of scores by example, and maps by pixel.

    python examples/anomalies.py --data-dir DIR
    python examples/anomalies.py --dataset digits

On the first 20,000 training images of MNIST, with P4's dense networks, 16 latents,
batches of 100 and Adam at 1e-3, twenty epochs each: variances fixed at 1 and 0.1, one
that is learned for the data set, and one that is predicted for each pixel (ten of the
epochs for its first stage). What is to be found among the first 2,000 test images:

    clothes       as many test images of Fashion-MNIST (not with the digits)
    upside down   other test images, turned over
    defect        other test images, where a square of a fifth of the side is made grey

Scores are those of `metrics.anomaly_scores`, of 20 draws an image: `-log p(x|z)`, which
under a fixed variance ranks as the squared error does, minus the ELBO, and minus the
log likelihood. 1 is perfect, 0.5 is a guess. Means and deviations are over seeds. The
figure has defects, and for two models the squared error in units of the variance that
they expect there, at the posterior mean.

Writes a JSON for each run and the figure to `examples/results/anomalies`; what is there
already is not run again. A run takes one to two minutes on one core. `--smoke` shrinks
all of it to seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import _runs
import keras
import numpy as np
from sklearn.metrics import roc_auc_score

import keras_vae_variance as kvv

MODELS = {
    "fixed at 1": functools.partial(kvv.recipes.vae, variance=1.0),
    "fixed at 0.1": functools.partial(kvv.recipes.vae, variance=0.1),
    "learned": kvv.recipes.optimal_sigma,
    "learned, a pixel": kvv.recipes.two_stage,
}
DRAWN = "learned", "learned, a pixel"
SCORES = "reconstruction", "elbo", "log_likelihood"


def main():
    parser = _runs.parser(__doc__, __file__)
    _runs.add_data(parser, "mnist", ("mnist", "digits"))
    parser.add_argument("--images", type=int, default=20_000, help="the first so many")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    num_test = 2000
    if options.smoke:
        options.images, options.epochs, options.seeds, num_test = 256, 2, 1, 32
    x_train, x_test, anomalies = load(options, num_test)
    results = {}
    for seed in range(options.seeds):
        for model in MODELS:
            settings = {
                "model": model,
                "dataset": options.dataset,
                "images": len(x_train),
                "tested": len(x_test),
                "epochs": options.epochs,
                "latent_dim": 16,
                "batch_size": 100,
                "learning_rate": 1e-3,
                "seed": seed,
                "smoke": options.smoke,
            }

            def run(settings):
                return measure(train(settings, x_train), x_test, anomalies, settings)

            name = f"{options.dataset}_{model}_seed{seed}".replace(",", "")
            numbers = _runs.once(
                options.output_dir, name.replace(" ", "_"), settings, run
            )
            results.setdefault(model, []).append(numbers)
    report(results, list(anomalies))
    draw(results, anomalies["defect"][:8], options)


def load(options, num_test):
    """Training images, test images, and those that are to be found among the latter."""
    (x_train, _), (x_test, _) = _runs.load(options.dataset, options)
    x_train, x_test = _runs.floats(x_train)[: options.images], _runs.floats(x_test)
    num_test = min(num_test, len(x_test) // 2)
    x_test, others = x_test[:num_test], x_test[num_test : 2 * num_test]
    anomalies = {"upside down": others[:, ::-1], "defect": with_defect(others)}
    if options.dataset == "mnist":
        _, (clothes, _) = _runs.load("fashion_mnist", options)
        anomalies = {"clothes": _runs.floats(clothes[:num_test]), **anomalies}
    return x_train, x_test, anomalies


def with_defect(x):
    """The images with a grey square at a random place in the middle half."""
    rng, side = np.random.default_rng(0), x.shape[1]
    size, x = round(side / 5), x.copy()
    for image in x:
        row, column = rng.integers(side // 4, 3 * side // 4 - size + 1, 2)
        image[row : row + size, column : column + size] = 0.5
    return x


def train(settings, x):
    vae = MODELS[settings["model"]](
        x.shape[1:],
        settings["latent_dim"],
        backbone=kvv.backbones.mlp,
        seed=settings["seed"],
    )
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    epochs, rest = settings["epochs"], {"batch_size": settings["batch_size"]}
    if settings["model"] == "learned, a pixel":
        stages = epochs // 2, epochs - epochs // 2
        kvv.fit_two_stage(vae, x, epochs=stages, tolerance=None, verbose=0, **rest)
    else:
        vae.fit(x, epochs=epochs, verbose=0, **rest)
        vae.calibrate(x)
    return vae


def measure(vae, x_test, anomalies, settings):
    def scores(x, kind):
        return kvv.metrics.anomaly_scores(vae, x, kind, seed=settings["seed"])

    numbers = {"auc": {}}
    for kind in SCORES:
        normal = scores(x_test, kind)
        numbers[f"mean_{kind}"] = np.mean(normal)
        for name, x in anomalies.items():
            values = np.concatenate([normal, scores(x, kind)])
            anomalous = np.repeat([False, True], [len(normal), len(x)])
            area = roc_auc_score(anomalous, values)
            numbers["auc"].setdefault(name, {})[kind] = float(area)
    found = vae.reconstruct(anomalies["defect"][:8])
    surprise = np.square(anomalies["defect"][:8] - found["mean"]) / found["variance"]
    numbers["surprise"] = np.round(np.asarray(surprise), 2)
    return numbers


def report(results, names):
    print("\nROC AUC against the test images")
    rows = [["variance", "score", *names]]
    for model, runs in results.items():
        for kind in SCORES:
            areas = [[run["auc"][name][kind] for run in runs] for name in names]
            rows.append([model, kind, *(_runs.spread(area) for area in areas)])
    _runs.table(rows)


def draw(results, x, options):
    import matplotlib.pyplot as plt

    rows = {"defects": x[..., 0]}
    for model in DRAWN:
        rows[f"variance {model}"] = np.array(results[model][0]["surprise"])[..., 0]
    figure, axes = plt.subplots(len(rows), 1, figsize=(7, 3.4), layout="constrained")
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        maps = name != "defects"
        shown = axis.imshow(
            np.concatenate(list(images), axis=1),
            cmap="viridis" if maps else "gray",
            vmin=0,
            vmax=30 if maps else 1,
        )
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_axis_off()
    figure.colorbar(shown, ax=list(axes[1:]), label="squared error / variance")
    figure.savefig(options.output_dir / f"{options.dataset}_defects.png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
