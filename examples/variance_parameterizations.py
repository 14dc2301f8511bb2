"""P1's experiments on variances: known noise on MNIST, and a sweep of fixed variances.

    python examples/variance_parameterizations.py --data-dir DIR
    python examples/variance_parameterizations.py --data-dir DIR --part sweep

Part `noise` (Section 5.3, Table 3; the default): the four maximum-likelihood variances
on MNIST with Gaussian noise of variance s2 = 0.01 or 0.1 in four patterns, over digits
0 to 4 and the upper halves of the images; the network of App. I.1 with 16 latents,
batches of 64, Adam at 1e-3. Printed are the estimated variances by region and three
estimates of the noise: the difference between noisy and clean regions; that of the
noisy regions to the same model on MNIST as it is, as P1 has it; and the first less the
difference that these regions have on MNIST as it is ("less own", and in the figure),
where a stroke costs more in some regions than in others. All should be close to s2
wherever the parameterisation can express the pattern (the underlined cells of P1);
how close they come is in `examples/README.md`. The uniform pattern leaves no region
clean; there they are one. P1's caption claims 5 % of `s2 + 0.007`, which at s2 = 0.01
its own numbers meet for Diag-D alone; its own difference for Diag-I, spatial, at
s2 = 0.01 is 18 % off. P1 adds "e.g." 1e-6 to Diag-D's variances, `--epsilon` another
number.

From random weights Diag-D tends to end at one image for all codes, with a kl of 0:
each pixel gains most from the value that is exact most often, black, long before there
are codes to tell images apart, and where the sigmoid is at 0 the gradient is too. P1
does not report it. So the first half of Diag-D's epochs (`--first-epochs`) trains the
same networks by Iso-I.

Part `sweep` (Section 4.2, Table 1): eleven fixed variances with one learned posterior
variance, or with `--encoding deterministic` with codes that have none, 8 latents, the
network of App. D.1, without batch normalisation. P1 prints for log10 variance 0 to -1:
MSE 52.74 to 6.70, KL 0.00 to 21.75, posterior variance 1.00 to 4.45e-3, with z ~ q on
the training set; the bound of the mutual information, the expected gap and the local
smoothness (divided by L) are beside ours. With `--encoding constant` (App. E, Table
E.8) the posterior's variance is the one that is swept, log10 1 to -1, and the decoder's
is Iso-I's.

P1 trains 100 and 200 epochs of networks of 13 million weights, of which an epoch takes
2 to 3 minutes of one core. `--epochs`, `--images` (the first so many) and `--channels`
and `--units` of the networks (P1: 64, 1024) make it as short as time is. Writes a JSON
for each run and figures to `examples/results/variance_parameterizations`; what is there
already is not run again. `--smoke` shrinks all of it to seconds; `--dataset digits`
needs no data set.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

RECIPES = {
    "Diag-D": kvv.recipes.diag_d,
    "Diag-I": kvv.recipes.diag_i,
    "Iso-D": kvv.recipes.iso_d,
    "Iso-I": kvv.recipes.iso_i,
}
# Which patterns a parameterisation can express (P1, Table 3, underlined).
EXPRESSED = {
    "Diag-D": ("spatial-conditional", "spatial", "conditional", "uniform"),
    "Diag-I": ("spatial", "uniform"),
    "Iso-D": ("conditional", "uniform"),
    "Iso-I": ("uniform",),
}
PATTERNS = ("spatial-conditional", "spatial", "conditional", "uniform")
NOISE = (0.01, 0.1)
# P1, Table 1, by log10 variance. Its smoothness is the definition's divided by L = 8.
CRITERIA = "mse", "kl", "posterior_variance", "mi_bound", "gap_1e-2", "gap_1e-3"
CRITERIA += ("smoothness / 8",)
PAPER_SWEEP = {
    0.0: (52.74, 0.00, 1.00, 0.03, 6.31e-5, 6.35e-6, 3.97e-4),
    -0.1: (18.03, 9.39, 9.56e-2, 9.7, 1.05, 0.108, 6.76),
    -0.2: (15.15, 10.93, 6.48e-2, 12.5, 1.30, 0.135, 8.34),
    -0.3: (13.08, 12.54, 4.36e-2, 16.0, 1.51, 0.157, 9.72),
    -0.4: (11.38, 14.13, 3.01e-2, 20.6, 1.77, 0.184, 11.4),
    -0.5: (10.18, 15.30, 2.14e-2, 26.3, 1.99, 0.208, 12.8),
    -0.6: (9.16, 16.72, 1.55e-2, 33.2, 2.16, 0.227, 14.0),
    -0.7: (8.25, 18.05, 1.11e-2, 42.3, 2.31, 0.244, 15.0),
    -0.8: (7.72, 19.27, 8.21e-3, 52.9, 2.40, 0.254, 15.6),
    -0.9: (7.13, 20.55, 5.97e-3, 64.9, 2.43, 0.257, 15.8),
    -1.0: (6.70, 21.75, 4.45e-3, 82.3, 2.57, 0.272, 16.7),
}
DETERMINISTIC_CRITERIA = "mse", "gap_1e-2", "gap_1e-3", "smoothness / 8"
PAPER_DETERMINISTIC = {
    0.0: (5.95, 74.6, 25.3, 743),
    -0.1: (5.69, 69.1, 22.5, 682),
    -0.2: (5.38, 63.4, 20.7, 637),
    -0.3: (5.37, 58.1, 17.9, 578),
    -0.4: (5.31, 58.2, 15.5, 540),
    -0.5: (5.26, 53.1, 12.9, 474),
    -0.6: (5.14, 48.9, 11.8, 442),
    -0.7: (5.17, 45.5, 10.1, 398),
    -0.8: (5.06, 43.2, 9.15, 371),
    -0.9: (4.98, 39.2, 7.83, 329),
    -1.0: (5.01, 35.3, 6.61, 289),
}
CONSTANT_CRITERIA = "mse", "kl", "mi_bound", "gap_1e-2", "gap_1e-3", "smoothness / 8"
PAPER_CONSTANT = {  # P1, Table E.8, by log10 posterior variance, each second row
    1.0: (52.74, 26.79, 8.0e-3, 6.20e-6, 6.15e-7, 3.81e-5),
    0.8: (22.96, 134.83, 8.5e1, 2.03e-2, 2.03e-3, 1.27e-1),
    0.6: (19.30, 132.61, 1.2e2, 2.87e-2, 2.87e-3, 1.80e-1),
    0.4: (15.91, 128.96, 1.9e2, 3.94e-2, 3.94e-3, 2.47e-1),
    0.2: (13.50, 122.07, 2.8e2, 5.16e-2, 5.16e-3, 3.23e-1),
    0.0: (11.71, 112.50, 3.6e2, 6.79e-2, 6.80e-3, 4.26e-1),
    -0.2: (10.23, 103.87, 4.2e2, 8.69e-2, 8.70e-3, 5.46e-1),
    -0.4: (9.12, 93.86, 5.2e2, 1.12e-1, 1.12e-2, 7.05e-1),
    -0.6: (8.26, 83.68, 5.9e2, 1.42e-1, 1.43e-2, 8.94e-1),
    -0.8: (7.55, 74.75, 7.1e2, 1.80e-1, 1.80e-2, 1.13),
    -1.0: (7.05, 66.14, 7.6e2, 2.28e-1, 2.30e-2, 1.45),
}
SWEEPS = {  # by encoding
    "stochastic": (CRITERIA, PAPER_SWEEP),
    "deterministic": (DETERMINISTIC_CRITERIA, PAPER_DETERMINISTIC),
    "constant": (CONSTANT_CRITERIA, PAPER_CONSTANT),
}


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    x, y = load(options)
    if options.part == "noise":
        noise(options, x, y)
    else:
        sweep(options, x)


def parse():
    parser = _runs.parser(__doc__, __file__)
    parser.add_argument("--part", default="noise", choices=("noise", "sweep"))
    _runs.add_data(parser, "mnist", ("mnist", "digits"))
    parser.add_argument("--encoding", default="stochastic", choices=SWEEPS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, help="the first so many; default: all")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--units", type=int, default=1024)
    parser.add_argument("--first-epochs", type=int, help="of Diag-D, by Iso-I")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--log-variances",
        nargs="+",
        type=float,
        metavar="LOG10",
        help="of P1's table; default: all",
    )
    parser.add_argument(
        "--expressed", action="store_true", help="only the cells that P1 underlines"
    )
    parser.add_argument("--epsilon", type=float, default=1e-6, help="of Diag-D")
    parser.add_argument("--models", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--noise", nargs="+", type=float, default=NOISE, metavar="S2")
    options = parser.parse_args()
    known = list(SWEEPS[options.encoding][1])
    options.log_variances = options.log_variances or known
    if not set(options.log_variances) <= set(known):
        parser.error(f"--log-variances must be among {known}")
    if options.first_epochs is None:
        options.first_epochs = options.epochs // 2
    if options.smoke:
        options.epochs, options.first_epochs, options.expressed = 2, 1, True
        options.log_variances = options.log_variances[::5]
    return options


def load(options):
    """Images in [0, 1], and labels."""
    (x, y), _ = _runs.load(options.dataset, options)
    x = _runs.floats(x)
    options.images = 256 if options.smoke else options.images
    return x[: options.images], y[: options.images]


def backbone(x, settings, **options):
    """P1's network; for the digits and a smoke run a small one."""
    if x.shape[1] < 28 or len(x) < 1000:
        return kvv.backbones.mlp
    sizes = {"channels": settings["channels"], "units": settings["units"]}
    return functools.partial(kvv.backbones.infogan, **sizes, **options)


def fit(vae, x, settings, epochs):
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    history = vae.fit(x, batch_size=settings["batch_size"], epochs=epochs, verbose=0)
    curves = {f"train_{name}": history.history.get(name) for name in ("loss", "kl")}
    return {name: curve for name, curve in curves.items() if curve is not None}


def settings_of(options, **more):
    return {
        "dataset": options.dataset,
        "images": options.images,
        "epochs": options.epochs,
        "channels": options.channels,
        "units": options.units,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "seed": options.seed,
        "smoke": options.smoke,
        **more,
    }


# --------------------------------------------------------------------------------------
# Known noise


def noise(options, x, y):
    cells = [("none", 0.0, name) for name in options.models]
    for pattern in PATTERNS:
        for variance in options.noise:
            for name in options.models:
                if pattern in EXPRESSED[name] or not options.expressed:
                    cells.append((pattern, variance, name))
    # What a parameterisation can express comes first.
    cells.sort(key=lambda cell: cell[0] != "none" and cell[0] not in EXPRESSED[cell[2]])
    if options.smoke:
        cells = cells[:6]
    results = {}
    for pattern, variance, name in cells:
        settings = settings_of(
            options,
            pattern=pattern,
            noise_variance=variance,
            latent_dim=16,
            model=name,
            first_epochs=options.first_epochs if name == "Diag-D" else 0,
        )
        if options.epsilon != 1e-6:
            settings["epsilon"] = options.epsilon
        file = f"{options.dataset}_{name}_{pattern}_{variance:g}_seed{options.seed}"

        def run(settings):
            return regions(settings, x, y)

        results[pattern, variance, name] = _runs.once(
            options.output_dir, file, settings, run
        )
    report_noise(results)
    draw_noise(results, options)


def regions(settings, x, y):
    """Mean of the estimated variance over P1's four regions, on the training set."""
    if settings["pattern"] != "none":
        x = kvv.datasets.noisy_regions(
            x, y, settings["pattern"], settings["noise_variance"], seed=settings["seed"]
        )[0]

    def make(model):
        vae = RECIPES[model](
            x.shape[1:],
            settings["latent_dim"],
            backbone=backbone(x, settings),
            seed=settings["seed"],
        )
        if model == "Diag-D" and "epsilon" in settings:
            vae.likelihood.variance_model.epsilon = settings["epsilon"]
        return vae

    vae = make(settings["model"])
    if settings["first_epochs"]:
        first = make("Iso-I")
        fit(first, x, settings, settings["first_epochs"])
        _runs.hand_on(first, vae)
    losses = fit(vae, x, settings, settings["epochs"] - settings["first_epochs"])
    vae.calibrate(x)
    small = (y <= 4)[:, None, None, None]
    upper = (np.arange(x.shape[1]) < x.shape[1] // 2)[:, None, None]
    masks = small & upper, small & ~upper, ~small & upper, ~small & ~upper
    found = kvv.metrics.region_variance(
        vae, x, dict(zip(REGIONS, masks, strict=True)), seed=settings["seed"]
    )
    return {**found, **losses}


REGIONS = ("SU", "SL", "BU", "BL")
NOISY = {
    "uniform": REGIONS,
    "spatial": ("SU", "BU"),
    "conditional": ("SU", "SL"),
    "spatial-conditional": ("SU",),
}


def excess(results, pattern, variance, name):
    """Estimates of the noise: see the docstring above; without a clean region, one."""
    noisy = NOISY[pattern]
    clean = [region for region in REGIONS if region not in noisy]

    def mean(key, regions):
        return np.mean([results[key][region] for region in regions])

    noised, original = (pattern, variance, name), ("none", 0.0, name)
    by_data = mean(noised, noisy) - mean(original, noisy)
    if not clean:
        return by_data, by_data, by_data
    by_region = mean(noised, noisy) - mean(noised, clean)
    own = mean(original, noisy) - mean(original, clean)
    return by_region, by_data, by_region - own


def report_noise(results):
    titles = "noisy - clean", "of s2", "noisy - without", "of s2"
    titles += "noisy - clean less own", "of s2", "expressed"
    rows = [["pattern", "s2", "model", *REGIONS, *titles]]
    for (pattern, variance, name), numbers in results.items():
        cells = [f"{numbers[region]:.4f}" for region in REGIONS]
        row = [pattern, f"{variance:g}", name, *cells]
        if pattern != "none":
            for difference in excess(results, pattern, variance, name):
                row += [f"{difference:.4f}", f"{difference / variance:.3f}"]
            row.append("yes" if pattern in EXPRESSED[name] else "no")
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    print("\nEstimated variance by region (S: digits 0 to 4, B: 5 to 9; U, L: halves)")
    _runs.table(rows)


def draw_noise(results, options):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
    for marker, name in zip("os^D", RECIPES, strict=True):
        points = [
            (PATTERNS.index(key[0]), excess(results, *key)[2] / key[1])
            for key in results
            if key[2] == name and key[0] in EXPRESSED[name]
        ]
        if not points:  # in a smoke run
            continue
        shift = 0.12 * (list(RECIPES).index(name) - 1.5)
        places, ratios = np.array(points).T
        axes.plot(places + shift, ratios, marker, label=name)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.axhspan(0.85, 1.15, color="0.9", zorder=0)
    axes.set_xticks(range(len(PATTERNS)), PATTERNS)
    axes.set_ylabel("noise found / s2")
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(options.output_dir / f"{options.dataset}_noise.png", dpi=90)


# --------------------------------------------------------------------------------------
# The sweep


def sweep(options, x):
    criteria, paper = SWEEPS[options.encoding]
    constant = options.encoding == "constant"
    swept = f"log10 {'posterior ' if constant else ''}variance"
    rows = [[swept]]
    for name in criteria:
        rows[0] += [name, "P1"]
    results = {}
    for log_variance in options.log_variances:
        settings = settings_of(
            options,
            log_variance=log_variance,
            latent_dim=8,
            encoding=options.encoding,
        )
        file = f"{options.dataset}_{options.encoding}_fixed{log_variance:g}"

        def run(settings):
            return sweep_run(settings, x)

        numbers = _runs.once(
            options.output_dir, f"{file}_seed{options.seed}", settings, run
        )
        results[log_variance] = numbers
        rows.append([f"{log_variance:.1f}"])
        for name, printed in zip(criteria, paper[log_variance], strict=True):
            rows[-1] += [f"{numbers[name]:.3g}", f"{printed:.3g}"]
    print(
        "\nOn the first 10,000 training images; mse, kl and the bound at a draw of z,"
    )
    print("gaps and smoothness at the means, the latter by one probe an image")
    _runs.table(rows)
    draw_sweep(results, paper, criteria, swept, options)


def sweep_run(settings, x):
    latent_dim, seed = settings["latent_dim"], settings["seed"]
    swept = 10.0 ** settings["log_variance"]
    parts = {
        "stochastic": {
            "variance": swept,
            "posterior": kvv.posteriors.IsotropicGaussian(latent_dim),
        },
        "deterministic": {
            "variance": swept,
            "posterior": kvv.posteriors.Deterministic(latent_dim),
            "regularizers": [kvv.regularizers.LatentNorm()],
        },
        "constant": {
            "posterior": kvv.posteriors.ConstantGaussian(latent_dim, swept),
        },
    }[settings["encoding"]]
    constant = settings["encoding"] == "constant"
    recipe = kvv.recipes.iso_i if constant else kvv.recipes.vae
    vae = recipe(
        x.shape[1:],
        latent_dim,
        backbone=backbone(x, settings, batch_norm=False, kernel_size=4),
        seed=seed,
        **parts,
    )
    losses = fit(vae, x, settings, settings["epochs"])
    x = x[:10_000]
    numbers = vae.evaluate(x, batch_size=1000, verbose=0, return_dict=True)
    numbers["gap_1e-2"] = kvv.metrics.expected_gap(vae, x, 1e-2, seed=seed)
    numbers["gap_1e-3"] = kvv.metrics.expected_gap(vae, x, 1e-3, seed=seed)
    smoothness = kvv.metrics.local_smoothness(vae, x, num_probes=1, seed=seed)
    numbers["smoothness / 8"] = float(smoothness) / latent_dim
    if not vae.posterior.deterministic:
        numbers["posterior_variance"] = np.mean(vae.encode(x[:1]).variance)
        bound = kvv.metrics.mutual_information_bound(vae, x, seed=seed)
        numbers["mi_bound"] = bound.left_out
        numbers["mi_bound_included"] = bound.included
    return {**numbers, **losses}


def draw_sweep(results, paper, criteria, swept, options):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(criteria), figsize=(2.6 * len(criteria), 2.6), layout="constrained"
    )
    for i, (axis, name) in enumerate(zip(axes, criteria, strict=True)):
        ours = [numbers[name] for numbers in results.values()]
        printed = [paper[log_variance][i] for log_variance in results]
        axis.plot(list(results), ours, "o-", label="ours")
        axis.plot(list(results), printed, "s--", label="P1, 200 epochs")
        axis.set(xlabel=swept, title=name.replace("_", " "))
        if name not in ("mse", "kl"):
            axis.set_yscale("log")
    axes[0].legend(frameon=False, fontsize=7)
    path = options.output_dir / f"{options.dataset}_{options.encoding}_sweep.png"
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
