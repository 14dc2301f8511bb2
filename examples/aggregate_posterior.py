"""P0's experiments on fixed and learned variances, priors and aggregate posteriors.

    python examples/aggregate_posterior.py --data-dir DIR
    python examples/aggregate_posterior.py --data-dir DIR --part samples \\
        --classifier FILE.keras

The network is that of App. B.1, batches are of 256, Adam at 5e-4, codes of 50,000
training images for a mixture of 32 Gaussians.

Part `density` (Table 1; the default): 2 latents, variances 1, 0.5, learned and 0.01.
Pictures of the log densities of the aggregate posterior, its mixture and the prior, and
`KL(q_hat(z) || p(z))` by 10,000 draws, 10 times. P0 prints 0.094, 0.132, 0.422 (at a
learned variance of 0.035) and 1.552.

Part `samples` (Tables 2 and 3, Figs. 1 and 2a, and Table 4's ablation): 16 latents, the
learned variance beside VAE (variance 0.5), beta-VAE (variance 1), DIP-VAE and WAE, and
beside other fixed variances. Printed are the Frechet distance of 10,000 samples of the
prior and of the mixture to the 10,000 test images, and the log likelihood of 500 test
images by 20 weights. The distance is of the features of the classifier that
`train_classifier.py` trains, and is no FID: P0 prints FIDs on MNIST of 8.9 for its own,
74.9 (VAE), 438.1 (beta-VAE), 114.9 (DIP) and 142.8 (WAE), so that the order alone can
be compared. Table 3's log likelihoods are -462 (VAE), -730 (beta-VAE), -461 (DIP).

P0 trains 16 epochs with one variance; all rows here have `--epochs`. WAE's posterior is
a very sharp Gaussian, as P0 describes it (variance 1e-4). Writes a JSON for each run
and figures to `examples/results/aggregate_posterior`; what is there already is not run
again, and an interrupted training goes on after its last epoch. An epoch takes 20 to 50
s on two cores. `--smoke` shrinks all of it to seconds; `--dataset digits` needs no data
set.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

PAPER_KL = {"1": 0.094, "0.5": 0.132, "learned": 0.422, "0.01": 1.552}
PAPER_FID = {
    "mnist": {"learned": 8.9, "0.5": 74.9, "1": 438.1, "DIP": 114.9, "WAE": 142.8},
    "fashion_mnist": {
        "learned": 10.6,
        "0.5": 123.8,
        "1": 281.5,
        "DIP": 103.6,
        "WAE": 149.5,
    },
}


def wae(shape, latent_dim, **options):
    posterior = kvv.posteriors.ConstantGaussian(latent_dim, variance=1e-4)
    return kvv.recipes.wae_mmd(shape, latent_dim, posterior=posterior, **options)


def fixed(variance):
    return functools.partial(kvv.recipes.vae, variance=variance)


METHODS = {
    "learned": kvv.recipes.learned_variance,
    "0.5": fixed(0.5),  # VAE
    "1": fixed(1.0),  # beta-VAE
    "DIP": kvv.recipes.dip_vae,
    "WAE": wae,
    **{f"{variance:g}": fixed(variance) for variance in (0.2, 0.05, 0.01, 0.002)},
}
DENSITIES = ("1", "0.5", "learned", "0.01")


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    x_train, x_test = load(options)
    if options.part == "density":
        density(options, x_train, x_test)
    else:
        samples(options, x_train, x_test)


def parse():
    parser = _runs.parser(__doc__, __file__)
    parser.add_argument("--part", default="density", choices=("density", "samples"))
    _runs.add_data(parser, "mnist", ("mnist", "fashion_mnist", "digits"))
    parser.add_argument("--classifier", help="of train_classifier.py, for its features")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if options.part == "samples" and options.classifier is None:
        parser.error("--part samples needs the --classifier of train_classifier.py")
    options.codes, options.draws, options.likelihoods = 50_000, 10_000, 500
    options.components = (32, 8, 100, 500)
    if options.smoke:
        options.epochs, options.methods = 1, ["learned", "WAE"]
        options.codes, options.draws, options.likelihoods = 256, 64, 16
        options.components = (4, 2)
    return options


def load(options):
    (x_train, _), (x_test, _) = _runs.load(options.dataset, options)
    return (x_train[:512], x_test[:64]) if options.smoke else (x_train, x_test)


def settings_of(method, latent_dim, seed, options):
    return {
        "method": method,
        "dataset": options.dataset,
        "latent_dim": latent_dim,
        "epochs": options.epochs,
        "batch_size": 256,
        "learning_rate": 5e-4,
        "seed": seed,
        "smoke": options.smoke,
    }


def name_of(settings):
    return "{dataset}_latent{latent_dim}_{method}_seed{seed}".format(**settings)


def train(settings, options, x_train):
    """The model, trained, or with the weights of an equal run."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(settings["seed"])
    vae = METHODS[settings["method"]](
        x_train.shape[1:],
        settings["latent_dim"],
        backbone=kvv.backbones.depth_to_space,
        seed=settings["seed"],
    )
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    return _runs.trained(
        options.models_dir or options.output_dir / "models",
        name_of(settings),
        settings,
        vae,
        x_train,
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
    )


def terms(vae, x, seed):
    """The ELBO and its parts, and the squared error at a draw of z."""
    numbers = {}
    if not vae.posterior.deterministic:
        numbers = {k: np.mean(v) for k, v in vae.elbo(x, seed=seed).items()}
    logs = vae.evaluate(x, batch_size=500, verbose=0, return_dict=True)
    return {**numbers, "mse": logs["mse"], "variance": logs["variance"]}


# --------------------------------------------------------------------------------------
# Densities of two latents


def density(options, x_train, x_test):
    rows = [["variance", "learned", "KL(q_hat || p)", "P0", "test ELBO", "mse"]]
    aggregates, mixtures = {}, {}
    codes = x_train[: options.codes]

    def fitted(settings):
        vae = train(settings, options, x_train)
        mixture = kvv.samplers.GaussianMixture(options.components[0])
        return vae, mixture.fit(vae, codes, seed=0)

    for method in DENSITIES:

        def run(settings):
            vae, mixture = fitted(settings)
            gap = kvv.metrics.kl_to_prior(mixture, seed=0)
            return {
                **terms(vae, x_test, settings["seed"]),
                "kl_to_prior": gap,
                # Of one of the 10 runs, as P0 gives it.
                "kl_to_prior_deviation": gap.standard_error * 10**0.5,
            }

        settings = settings_of(method, 2, 0, options)
        name = name_of(settings)
        numbers = _runs.once(options.output_dir, name, settings, run)
        vae, mixture = fitted(settings)  # for the pictures, from its file
        aggregate = kvv.samplers.AggregatePosterior().fit(vae, codes[:10_000])
        aggregates[method], mixtures[method] = aggregate.log_prob, mixture.log_prob
        gap, deviation = numbers["kl_to_prior"], numbers["kl_to_prior_deviation"]
        rows.append(
            [
                method,
                f"{numbers['variance']:.4f}",
                f"{gap:.3f} +- {deviation:.3f}",
                PAPER_KL[method] if options.dataset == "mnist" else "",
                f"{numbers['elbo']:.1f}",
                f"{numbers['mse']:.1f}",
            ]
        )
    print("\nThe gap between the aggregate posterior's mixture and the prior, nats")
    _runs.table(rows)
    prior = {"prior": standard_normal}
    for name, log_probs in (("aggregate", aggregates), ("mixture", mixtures)):
        titled = {f"variance {method}": f for method, f in log_probs.items()}
        figure = kvv.plots.latent_density({**titled, **prior}, limits=(-6, 6))
        path = options.output_dir / f"{options.dataset}_latent2_{name}.png"
        figure.savefig(path, dpi=80)


def standard_normal(z):
    return -0.5 * np.sum(np.square(z), axis=1) - np.log(2 * np.pi)


# --------------------------------------------------------------------------------------
# Samples of the prior and of the mixture


def samples(options, x_train, x_test):
    classifier = keras.models.load_model(options.classifier)
    features = kvv.metrics.features.penultimate(classifier)
    real = x_test
    results, pictures = {}, {}
    for seed in range(options.seeds):
        for method in options.methods:
            settings = settings_of(method, 16, seed, options)

            def run(settings):
                vae = train(settings, options, x_train)
                return measure(vae, settings, options, features, x_train, real)

            name = name_of(settings)
            numbers = _runs.once(options.output_dir, name, settings, run)
            results.setdefault(method, []).append(numbers)
            pictures.setdefault(method, np.array(numbers["samples"]))
    report(results, options)
    draw_trade_off(results, options)
    draw_samples(pictures, options)


def measure(vae, settings, options, features, x_train, x_test):
    seed = settings["seed"]
    numbers = terms(vae, x_test, seed)
    samplers = {"prior": None}
    # P0 gives no mixture of WAE's codes, whose posteriors are all but points.
    for count in options.components:
        mixture = kvv.samplers.GaussianMixture(count)
        samplers[f"mixture {count}"] = mixture.fit(
            vae, x_train[: options.codes], seed=seed
        )
    real = x_test / np.float32(255) if x_test.dtype == np.uint8 else x_test
    distance = functools.partial(kvv.metrics.frechet_distance, real, features=features)
    for name, sampler in samplers.items():
        generated = vae.generate(options.draws, sampler=sampler, seed=seed)["mean"]
        numbers[f"distance {name}"] = distance(np.asarray(generated))
    reconstructions = np.asarray(vae.reconstruct(x_test)["mean"])
    numbers["distance reconstructions"] = distance(reconstructions)
    mixture = samplers[f"mixture {options.components[0]}"]
    numbers["kl_to_prior"] = kvv.metrics.kl_to_prior(mixture, seed=seed)
    for name, sampler in (("prior", None), ("mixture", mixture)):
        values = kvv.metrics.log_likelihood(
            vae, x_test[: options.likelihoods], sampler=sampler, seed=seed
        )
        numbers[f"log_likelihood {name}"] = np.mean(values)
    images = [
        np.asarray(vae.generate(16, sampler=sampler, seed=seed)["mean"])
        for sampler in (None, mixture)
    ]
    return {**numbers, "samples": np.round(np.stack(images), 2)}


def report(results, options):
    main_mixture = f"mixture {options.components[0]}"
    titles = ["variance", "learned", "P0's FID", "prior", main_mixture]
    titles += ["reconstructions", "KL(q_hat || p)", "ELBO", "mse"]
    rows = [[*titles, "log likelihood: prior", "mixture"]]
    paper = PAPER_FID.get(options.dataset, {})
    for method, runs in results.items():

        def cell(name, digits, runs=runs):
            values = [run[name] for run in runs if name in run]
            if not values:
                return ""
            spread = f" +- {np.std(values, ddof=1):.{digits}f}" if len(runs) > 1 else ""
            return f"{np.mean(values):.{digits}f}{spread}"

        rows.append(
            [
                method,
                cell("variance", 4),
                paper.get(method, ""),
                cell("distance prior", 1),
                cell(f"distance {main_mixture}", 1),
                cell("distance reconstructions", 1),
                cell("kl_to_prior", 3),
                cell("elbo", 1),
                cell("mse", 2),
                cell("log_likelihood prior", 1),
                cell("log_likelihood mixture", 1),
            ]
        )
    print("\nFrechet distances of classifier features to the test set; nats")
    _runs.table(rows)
    rows = [["components", *results]]
    for count in options.components:
        distances = [
            np.mean([run[f"distance mixture {count}"] for run in runs])
            for runs in results.values()
        ]
        rows.append([count, *(f"{distance:.1f}" for distance in distances)])
    print("\nThe distance against the number of components")
    _runs.table(rows)


def draw_trade_off(results, options):
    """P0, Fig. 1: ELBO, distance and gap over the variance."""
    import matplotlib.pyplot as plt

    mixture = f"distance mixture {options.components[0]}"
    first = {method: runs[0] for method, runs in results.items()}
    fixed_runs = {
        float(method): run
        for method, run in first.items()
        if method not in ("learned", "DIP", "WAE")
    }
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.9), layout="constrained")
    panels = (
        ("test ELBO (nats)", [("elbo", "-", "ELBO")]),
        (
            "Frechet distance of features",
            [(mixture, "-", "mixture"), ("distance prior", "--", "prior")],
        ),
        ("KL(q_hat || p) (nats)", [("kl_to_prior", "-", "gap")]),
    )
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for name, style, label in lines:
            variances = sorted(fixed_runs)
            values = [fixed_runs[v][name] for v in variances]
            (line,) = axis.plot(variances, values, "o" + style, label=label)
            if "learned" in first:
                learned = first["learned"]
                axis.plot(
                    learned["variance"],
                    learned[name],
                    "*",
                    markersize=13,
                    color=line.get_color(),
                    markeredgecolor="black",
                    label=f"{label}, learned",
                )
        axis.set(xscale="log", xlabel="variance of the decoder", ylabel=title)
        axis.legend(frameon=False, fontsize=7)
    axes[1].set_yscale("log")
    figure.savefig(options.output_dir / f"{options.dataset}_trade_off.png", dpi=80)


def draw_samples(pictures, options):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2,
        len(pictures),
        figsize=(1.7 * len(pictures), 3.8),
        layout="constrained",
        squeeze=False,
    )
    for column, (method, pair) in zip(axes.T, pictures.items(), strict=True):
        for axis, images, source in zip(
            column, pair, ("prior", "mixture"), strict=True
        ):
            _runs.mosaic(axis, images, f"{method}, {source}")
    figure.savefig(options.output_dir / f"{options.dataset}_samples.png", dpi=80)


if __name__ == "__main__":
    main()
