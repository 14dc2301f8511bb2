"""P4's pictures of two latents of MNIST, and its Fig. 8 on their scale.

    python examples/latent_space.py --data-dir DIR
    python examples/latent_space.py --data-dir DIR --part scale

Dense networks of 200 units, batches of 300, Adam at 1e-3, 2 latents, as P4 (Section 7);
bounds on the 10,000 test images at one draw of z an image, with the prior calibrated on
the training set.

Part `pictures` (Figs. 9 to 15; the default): the means of the posterior, coloured by
digit, and what the decoder makes of a grid of equal shares of the prior, for

    learned     Bernoulli decoder, learned posterior variances           (Fig. 12)
    bilbo s     Bernoulli decoder, BILBO, posterior variance s           (Figs. 9, 13)
    unit l      Gaussian decoder of variance 1, images times l           (Figs. 10, 14)
    tau t       Gaussian decoder, BAGGINS of information factor t        (Figs. 11, 15)

Part `scale` (Fig. 8): the encoder's means are multiplied by a constant, and the decoder
divides by it. Under a prior that floats all runs have the same bound to reach, with any
constant posterior stddev; what differs is how far they come. P4 finds the stddev that
equals the constant the best, and learned variances close to a stddev of 1.

P4 does not say for how long; `--epochs` is 20 here. Writes a JSON for each run and
figures to `examples/results/latent_space`; what is there already is not run again.
`--smoke` shrinks all of it to seconds; `--dataset digits` needs no data set.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

BATCH, RATE, LATENTS = 300, 1e-3, 2


def learned(shape, latent_dim, scale=1.0, **options):
    """P4's standard VAE, with softplus standard deviations."""
    posterior = kvv.posteriors.DiagonalGaussian(latent_dim, link="softplus")
    return scaled(kvv.recipes.bernoulli_vae, posterior, scale, shape, **options)


def constant(shape, latent_dim, stddev=1.0, scale=1.0, **options):
    posterior = kvv.posteriors.ConstantGaussian(latent_dim, variance=stddev**2)
    return scaled(kvv.recipes.bilbo, posterior, scale, shape, **options)


def scaled(recipe, posterior, scale, shape, **options):
    """A model whose encoder ends in a factor, and whose decoder begins in its inverse.

    The factor is of the means alone: learned variances start at the same value.
    """
    posterior.mean = keras.Sequential([posterior.mean, keras.layers.Rescaling(scale)])

    def backbone(*arguments):
        encoder, decoder = kvv.backbones.mlp(*arguments)
        z = keras.Input((LATENTS,), name="z")
        inverse = keras.layers.Rescaling(1.0 / scale)(z)
        return encoder, keras.Model(z, decoder(inverse), name="decoder")

    return recipe(shape, LATENTS, posterior=posterior, backbone=backbone, **options)


def gaussian(recipe, **arguments):
    return functools.partial(
        recipe, backbone=kvv.backbones.mlp, mean_activation=None, **arguments
    )


def unit(shape, latent_dim, **options):
    variance = kvv.variances.Fixed(1.0)
    likelihood = kvv.likelihoods.Gaussian(variance)
    return kvv.recipes.bilbo(shape, latent_dim, likelihood, **options)


# Of each: what makes it, and the factor of the images.
MODELS = {
    "learned": (learned, 1.0),
    **{
        f"bilbo {variance:g}": (
            functools.partial(constant, stddev=variance**0.5),
            1.0,
        )
        for variance in (0.01, 1.0, 100.0)
    },
    **{f"unit {factor:g}": (gaussian(unit), factor) for factor in (1.0, 3.0, 10.0)},
    **{
        f"tau {tau:g}": (gaussian(kvv.recipes.baggins, information_factor=tau), 1.0)
        for tau in (0.05, 0.2, 1.0)
    },
}
MANIFOLDS = "learned", "bilbo 1", "unit 1", "tau 1"


def main():
    parser = _runs.parser(__doc__, __file__)
    parser.add_argument("--part", default="pictures", choices=("pictures", "scale"))
    _runs.add_data(parser, "mnist", ("mnist", "fashion_mnist", "digits"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="of part scale")
    parser.add_argument("--scales", type=float, nargs="+", default=(0.1, 1.0, 10.0))
    options = parser.parse_args()
    if options.smoke:
        options.epochs, options.seeds, options.scales = 1, 1, (10.0,)
        options.models = ["learned", "unit 10", "tau 1"]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    data = _runs.load(options.dataset, options)
    if options.smoke:
        data = [(x[:600], y[:600]) for x, y in data]
    (x_train, _), (x_test, y_test) = data
    if options.part == "pictures":
        pictures(options, x_train, x_test, y_test)
    else:
        scale(options, x_train, x_test)


def settings_of(options, **more):
    return {
        "dataset": options.dataset,
        "epochs": options.epochs,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "smoke": options.smoke,
        **more,
    }


def compiled(make, shape, seed):
    keras.utils.set_random_seed(seed)
    vae = make(shape, LATENTS, seed=seed)
    # Steps are short: Python between them would take a fifth of the time.
    vae.compile(keras.optimizers.Adam(RATE), steps_per_execution=20)
    return vae


def bounds(vae, x_test, seed):
    return {name: np.mean(v) for name, v in vae.elbo(x_test, seed=seed).items()}


# --------------------------------------------------------------------------------------
# Pictures of the latent space


def pictures(options, x_train, x_test, y_test):
    models, rows = {}, [["model", "ELBO", "reconstruction", "kl"]]
    for model in options.models:
        make, factor = MODELS[model]
        train, test = (factor * _runs.floats(x) for x in (x_train, x_test))
        name = f"{options.dataset}_{model}".replace(" ", "")

        def fitted(settings, make=make, train=train, name=name):
            vae = _runs.trained(
                options.models_dir or options.output_dir / "models",
                name,
                settings,
                compiled(make, x_train.shape[1:], seed=0),
                train,
                batch_size=BATCH,
                epochs=options.epochs,
            )
            vae.calibrate(train)
            return vae

        def run(settings, fitted=fitted, test=test):
            return bounds(fitted(settings), test, settings["seed"])

        settings = settings_of(options, model=model, seed=0)
        numbers = _runs.once(options.output_dir, name, settings, run)
        vae = fitted(settings)  # for the pictures, from its file
        rows.append([model, *(f"{number:.1f}" for number in numbers.values())])
        models[model] = vae, np.asarray(vae.encode(test).mean), factor
    print("\nTest images, nats; of images times l where the model is `unit l`")
    _runs.table(rows)
    draw_means(models, y_test, options)
    draw_manifolds({k: v for k, v in models.items() if k in MANIFOLDS}, options)


def draw_means(models, labels, options):
    import matplotlib.pyplot as plt

    columns = min(5, len(models))
    rows = -(-len(models) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.5 * columns, 2.6 * rows),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    for axis, (model, (_, means, _)) in zip(axes.flat, models.items(), strict=False):
        points = axis.scatter(*means.T, c=labels, s=0.5, cmap="tab10", rasterized=True)
        axis.set_title(model, fontsize=10)
        axis.tick_params(labelsize=7)
        axis.set_aspect("equal", adjustable="datalim")
    colours = figure.colorbar(points, ax=axes, ticks=range(10), shrink=0.6)
    colours.set_label("class")
    figure.savefig(options.output_dir / f"{options.dataset}_means.png", dpi=80)


def draw_manifolds(models, options):
    if not models:
        return
    sheets = {}
    for model, (vae, _, factor) in models.items():
        mean, variance = vae.prior(
            np.zeros((1, LATENTS), "float32"),
            np.ones((1, LATENTS), "float32"),
            training=False,
        )
        size = 14
        shares = keras.ops.erfinv(2 * (np.arange(size) + 0.5) / size - 1) * 2**0.5
        shares = np.asarray(shares)
        grid = np.stack(np.meshgrid(shares, -shares), axis=-1).reshape(-1, LATENTS)
        z = np.asarray(mean) + np.sqrt(np.asarray(variance)) * grid
        images = np.asarray(vae.generate(z.astype("float32"))["mean"]) / factor
        sheets[model] = images
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1,
        len(sheets),
        figsize=(3.6 * len(sheets), 3.9),
        layout="constrained",
        squeeze=False,
    )
    for axis, (model, images) in zip(axes.flat, sheets.items(), strict=True):
        _runs.mosaic(axis, images, model)
    figure.savefig(options.output_dir / f"{options.dataset}_manifolds.png", dpi=80)


# --------------------------------------------------------------------------------------
# A constant factor between encoder and decoder


def scale(options, x_train, x_test):
    makers = {"learned": learned}
    for stddev in (0.1, 1.0, 10.0):
        makers[f"stddev {stddev:g}"] = functools.partial(constant, stddev=stddev)
    results = {}
    for seed in range(options.seeds):
        for factor in options.scales:
            for label, maker in makers.items():
                make = functools.partial(maker, scale=factor)

                def run(settings, make=make):
                    vae = compiled(make, x_train.shape[1:], settings["seed"])
                    history = vae.fit(
                        x_train,
                        batch_size=BATCH,
                        epochs=settings["epochs"],
                        validation_data=x_test,
                        validation_batch_size=2000,
                        verbose=0,
                    ).history
                    vae.calibrate(x_train)
                    terms = bounds(vae, x_test, settings["seed"])
                    return {**terms, "test_loss": history["val_loss"]}

                name = f"{options.dataset}_scale{factor:g}_{label}_seed{seed}"
                numbers = _runs.once(
                    options.output_dir,
                    name.replace(" ", ""),
                    settings_of(options, scale=factor, posterior=label, seed=seed),
                    run,
                )
                results.setdefault((factor, label), []).append(numbers)
    rows = [["factor", *makers]]
    for factor in options.scales:
        runs = [results[factor, label] for label in makers]
        rows.append([f"{factor:g}"])
        rows[-1] += [_runs.spread([run["elbo"] for run in each]) for each in runs]
    print("\nTest ELBO in nats, mean +- standard deviation over seeds")
    _runs.table(rows)
    draw_progress(results, options)


def draw_progress(results, options):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1,
        len(options.scales),
        figsize=(3.3 * len(options.scales), 3),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    last = []
    for axis, factor in zip(axes.flat, options.scales, strict=True):
        labels = [label for scale, label in results if scale == factor]
        for label, style in zip(labels, ("k-", "--", "-.", ":"), strict=True):
            curves = -np.array([run["test_loss"] for run in results[factor, label]])
            mean = curves.mean(axis=0)
            last.append(mean[-1])
            axis.plot(np.arange(1, len(mean) + 1), mean, style, label=label)
        axis.set(title=f"factor {factor:g}", xlabel="epoch")
    best = max(last)
    axes.flat[0].set(ylabel="test bound (nats)", ylim=(best - 40, best + 3))
    axes.flat[-1].legend(frameon=False, fontsize=8)
    figure.savefig(options.output_dir / f"{options.dataset}_scale.png", dpi=80)


if __name__ == "__main__":
    main()
