"""P3's experiments on learned sharpness: points of the plane, and a sphere.

    python examples/learned_sharpness.py
    python examples/learned_sharpness.py --part sphere

Part `plane` (Table 1, Figs. 3, 4 and 8 to 10; the default): residual networks of 4
blocks of 200 units and 2 latents on the curve with three regions of noise that
`datasets.Plane` defines, batches of 100 fresh points, stddevs that start at 1, and for
each seed

    fixed s     a fixed stddev s                                       (F-VAE)
    scalar      one learned stddev                                     (LS-VAE, Eq. 10)
    vector      stddevs that the decoder gives                         (LV-VAE, Eq. 11)
    bounded     the same, clipped softly at 0.3 from above
    start 0.1   the same, without a bound, from stddevs of about 0.1 on
    two-stage   the same after half of the steps with one learned stddev
    final       fixed at the value that `scalar` of this seed ended at (F*-VAE)
    schedule    fixed at each step at the value that `scalar` had then (App. A.2)

P3 prints ELBOs without the constant `log 2 pi` (1.838 nats above ours), and so does
this script: fixed 1.0 -1.14, 0.3 -0.063, 0.1 0.773, 0.043 0.335, 0.03 0.141, 0.01
-0.961; scalar (0.043) 1.26, vector 1.62, means of 10 runs. Optimizer and length are not
given (here the learned one is `exp(10 p / 2)` of its parameter p, P3's may move more
slowly), and the data are known from a figure alone, so that the order is what can be
compared; here it is Adam, whose rate falls from 1e-3 to 1e-5. No model exceeds the
`E[log p(x)]` of the true density, which is printed beside. Trained from the start, the
vector stays at stddevs near 1 in some regions, or everywhere: where the stddev is large
the mean gets no gradient. A bound from above or a first stage leads it out; `--steps`
and `--noise`, a factor of the data's noise, say whether length or less contrast do.

Part `sphere` (Theorem 1, Fig. 2): points of a sphere of radius R in R^D. A decoder of a
fixed stddev above R / sqrt(D) gives the centre alone; below it leaves the centre.

Writes a JSON for each run and figures to `examples/results/learned_sharpness`; what is
there already is not run again. A run of part `plane` takes about a minute on one core.
`--smoke` shrinks all of it to seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

LOG_2_PI = float(np.log(2 * np.pi))
EPOCHS = 50  # parts of a run, for its curves; no point comes twice
PAPER = {
    "fixed 1": -1.14,
    "fixed 0.3": -0.063,
    "fixed 0.1": 0.773,
    "fixed 0.043": 0.335,
    "fixed 0.03": 0.141,
    "fixed 0.01": -0.961,
    "scalar": 1.26,
    "vector": 1.62,
    "final": 0.335,
    "schedule": 1.26,
}


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if options.part == "plane":
        plane(options)
    else:
        sphere(options)


def parse():
    parser = _runs.parser(__doc__, __file__)
    parser.add_argument("--part", default="plane", choices=("plane", "sphere"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--latent-dim", type=int, default=2)
    parser.add_argument("--noise", type=float, default=1.0, help="factor of the data's")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    options.test_points = 20_000
    options.dims, options.ratios = (2, 8), (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
    if set(REPLAYS) & set(options.methods) and "scalar" not in options.methods:
        parser.error(f"{' and '.join(REPLAYS)} replay scalar: name it in --methods too")
    # What is replayed comes first.
    options.methods.sort(key=list(METHODS).index)
    if options.smoke:
        options.seeds, options.steps, options.test_points = 1, EPOCHS, 100
        options.methods = ["fixed 0.3", "scalar", "schedule"]
        options.dims, options.ratios = (2,), (0.5, 1.5)
    return options


# --------------------------------------------------------------------------------------
# The plane


def compiled(recipe, settings, stages=1, **more):
    vae = recipe(
        (2,),
        settings["latent_dim"],
        backbone=kvv.backbones.residual_mlp,
        mean_activation=None,
        seed=settings["seed"],
        **more,
    )
    # The rate falls, so that what is compared is not the noise of the last steps.
    rate = keras.optimizers.schedules.CosineDecay(
        settings["learning_rate"], settings["steps"] // stages, alpha=0.01
    )
    vae.compile(keras.optimizers.Adam(rate))
    return vae


def data(settings):
    """P3's curve, where asked for with another noise."""
    factor = settings.get("noise", 1.0)
    return kvv.datasets.Plane([factor * s for s in kvv.datasets.Plane().stddevs])


def fresh_points(settings):
    """Arguments of `fit` that read each of `steps * 100` points once."""
    x, _ = data(settings).sample(100 * settings["steps"], seed=settings["seed"])
    return {
        "x": x,
        "batch_size": 100,
        "steps_per_epoch": settings["steps"] // EPOCHS,
        "verbose": 0,
    }


def fixed(stddev):
    def train(settings):
        vae = compiled(kvv.recipes.vae, settings, variance=stddev**2)
        return vae, vae.fit(**fresh_points(settings), epochs=EPOCHS), {}

    return train


def scalar(settings):
    vae = compiled(kvv.recipes.l_vae_scalar, settings)
    record = kvv.callbacks.VarianceHistory()
    history = vae.fit(**fresh_points(settings), epochs=EPOCHS, callbacks=[record])
    return vae, history, {"variance": record.variance}


def vector(settings):
    vae = compiled(kvv.recipes.l_vae_vector, settings)
    return vae, vae.fit(**fresh_points(settings), epochs=EPOCHS), {}


def bounded(settings):
    bounds = (None, 0.3**2)
    vae = compiled(kvv.recipes.l_vae_vector, settings, bounds=bounds)
    return vae, vae.fit(**fresh_points(settings), epochs=EPOCHS), {}


def start(settings):
    vae = compiled(kvv.recipes.l_vae_vector, settings)
    # The head gives the log variance.
    vae.decoder.get_layer("raw_variance").bias.assign([np.log(0.1**2)] * 2)
    return vae, vae.fit(**fresh_points(settings), epochs=EPOCHS), {}


def two_stage(settings):
    vae = compiled(kvv.recipes.l_vae_vector, settings, stages=2)
    vae, history = kvv.fit_two_stage(
        vae,
        **fresh_points(settings),
        epochs=(EPOCHS // 2, EPOCHS // 2),
        tolerance=None,
        floor_fraction=0.0,
        stage1=kvv.variances.Learned(initial=1.0),
    )
    return vae, history, {}


def final(settings):
    return fixed(settings["variance"][-1] ** 0.5)(settings)


def schedule(settings):
    vae = compiled(kvv.recipes.vae, settings, variance=1.0)
    replay = kvv.callbacks.VarianceSchedule(settings["variance"])
    return vae, vae.fit(**fresh_points(settings), epochs=EPOCHS, callbacks=[replay]), {}


METHODS = {
    **{f"fixed {s:g}": fixed(s) for s in (1.0, 0.3, 0.1, 0.043, 0.03, 0.01)},
    "scalar": scalar,
    "vector": vector,
    "bounded": bounded,
    "start 0.1": start,
    "two-stage": two_stage,
    "final": final,
    "schedule": schedule,
}
REPLAYS = ("final", "schedule")


def plane(options):
    # Records of the usual noise are older than the option.
    noise = {} if options.noise == 1.0 else {"noise": options.noise}
    true = data(noise)
    x_test, _ = true.sample(options.test_points, seed=10**6)
    bound = true.log_prob(x_test).mean() + LOG_2_PI
    results = {method: [] for method in options.methods}
    for seed in range(options.seeds):
        for method in options.methods:
            settings = {
                "method": method,
                "steps": options.steps,
                "learning_rate": 1e-3,
                "latent_dim": options.latent_dim,
                "seed": seed,
                "points": options.test_points,
                **noise,
            }
            name = f"plane{options.latent_dim}_{method}_seed{seed}".replace(" ", "")

            # What `final` and `schedule` replay is the `scalar` of the same seed.
            replayed = results["scalar"][-1]["variance"] if method in REPLAYS else None
            run = functools.partial(plane_run, x_test=x_test, replayed=replayed)
            numbers = _runs.once(options.output_dir, name, settings, run)
            results[method].append(numbers)
    print("\nELBO + log 2 pi on fresh points, nats, mean +- deviation over seeds")
    rows = [["method", "P3", "ours", "kl", "stddev"]]
    for method, runs in results.items():
        rows.append(
            [
                method,
                PAPER.get(method, ""),
                _runs.spread([run["elbo"] for run in runs]),
                _runs.spread([run["kl"] for run in runs]),
                _runs.spread([run["stddev"] for run in runs]),
            ]
        )
    _runs.table([*rows, ["E log p(x)", "", f"{bound:.3f}", "", ""]])
    if len(results) > 1:  # figures compare
        draw_points(results, x_test, options)
        draw_curves(results, options)


def plane_run(settings, x_test, replayed):
    vae, history, more = METHODS[settings["method"]]({**settings, "variance": replayed})
    if settings["seed"] == 0:
        more = {**more, **points(vae, x_test)}
    return {**evaluate(vae, x_test), **curves(history), **more}


def evaluate(vae, x_test):
    """The ELBO in P3's unit."""
    terms = vae.elbo(x_test, num_samples=5, seed=0)
    variance = np.asarray(vae.reconstruct(x_test[:1000])["variance"])
    return {
        "elbo": np.mean(terms["elbo"]) + LOG_2_PI,
        "kl": np.mean(terms["kl"]),
        "stddev": np.sqrt(variance).mean(),
    }


def points(vae, x_test):
    """Reconstructions, and samples with their means, for the figure."""
    latent = vae.encode(x_test[:1000], sample=True, seed=1)
    generated = vae.generate(1000, noise=True, seed=2)
    return {
        "reconstructions": np.round(np.asarray(vae.decode(latent.sample)["mean"]), 3),
        "samples": np.round(np.asarray(generated["sample"]), 3),
        "means": np.round(np.asarray(generated["mean"]), 3),
    }


def curves(history):
    names = "reconstruction", "kl"
    return {f"train_{name}": history.history[name] for name in names}


def draw_points(results, x_test, options):
    """P3, Fig. 4: reconstructions on the data, and samples with their means."""
    import matplotlib.pyplot as plt

    wanted = ("fixed 1", "fixed 0.3", "fixed 0.1", "fixed 0.01", "scalar", "final")
    wanted += ("vector", "bounded", "two-stage", "schedule")
    shown = [method for method in wanted if results.get(method)]
    figure, axes = plt.subplots(
        2,
        len(shown) + 1,
        figsize=(2 * len(shown) + 2, 4),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    axes[0, 0].set(title="data", xlim=(-3, 3), ylim=(-1.6, 1.6))
    axes[0, 0].plot(*x_test[:1000].T, ".", markersize=1)
    axes[1, 0].set_axis_off()
    for (above, below), method in zip(axes.T[1:], shown, strict=True):
        numbers = results[method][0]
        above.set_title(method)
        above.plot(*x_test[:1000].T, ".", markersize=1)
        above.plot(*np.transpose(numbers["reconstructions"]), ".", markersize=1)
        below.plot(*np.transpose(numbers["samples"]), ".", markersize=1, color="C2")
        below.plot(*np.transpose(numbers["means"]), ".", markersize=1, color="C1")
    axes[0, 1].set_ylabel("reconstructions")
    axes[1, 1].set_ylabel("samples, means")
    figure.savefig(options.output_dir / "plane_points.png", dpi=80)


def draw_curves(results, options):
    """P3, Figs. 8 to 10: both losses along training, and the learned stddev."""
    import matplotlib.pyplot as plt

    wanted = ("final", "scalar", "schedule", "two-stage")
    shown = [method for method in wanted if results.get(method)]
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    steps = np.linspace(0, options.steps, EPOCHS + 1)[1:]
    styles = ("-", "--", ":", "-.")
    for method, style in zip(shown, styles, strict=False):
        numbers = results[method][0]
        # Without the constant, as P3 has it.
        axes[0].plot(steps, np.array(numbers["train_reconstruction"]) - LOG_2_PI, style)
        axes[1].plot(steps, numbers["train_kl"], style, label=method)
    axes[0].set(xlabel="step", ylabel="reconstruction (nats)", ylim=(-6, 8))
    axes[1].set(xlabel="step", ylabel="kl (nats)")
    axes[1].legend(frameon=False)
    for run in results.get("scalar", ()):
        axes[2].semilogy(np.sqrt(run["variance"]), linewidth=0.8)
    axes[2].set(xlabel="step", ylabel="learned stddev, each seed")
    figure.savefig(options.output_dir / "plane_curves.png", dpi=80)


# --------------------------------------------------------------------------------------
# The sphere


def sphere(options):
    rows = [["D", "stddev sqrt(D) / R", "kl", "|m(z)| / R", "optimum of Eq. 8"]]
    results = {}
    for dim in options.dims:
        for ratio in options.ratios:
            settings = {
                "dim": dim,
                "ratio": ratio,
                "steps": min(options.steps, 5000),
                "learning_rate": 1e-3,
                "seed": 0,
            }
            name = f"sphere_dim{dim}_ratio{ratio:g}"
            numbers = _runs.once(options.output_dir, name, settings, sphere_run)
            results[dim, ratio] = numbers
            best = best_radius(dim, dim**0.5 / ratio)
            rows.append(
                [
                    dim,
                    f"{ratio:g}",
                    f"{numbers['kl']:.4f}",
                    f"{numbers['radius']:.3f}",
                    f"{best / (dim**0.5 / ratio):.3f}",
                ]
            )
    print("\nA fixed stddev on the sphere of radius R in R^D; 0 above 1")
    _runs.table(rows)
    draw_sphere(results, options)


def sphere_run(settings):
    dim = settings["dim"]
    vae = kvv.recipes.vae(
        (dim,),
        dim,
        variance=settings["ratio"] ** 2 / dim,  # of radius 1
        backbone=kvv.backbones.mlp,
        mean_activation=None,
        seed=settings["seed"],
    )
    rate = keras.optimizers.schedules.CosineDecay(
        settings["learning_rate"], settings["steps"], alpha=0.01
    )
    vae.compile(keras.optimizers.Adam(rate))
    x = kvv.datasets.hypersphere(100 * settings["steps"], dim, seed=0)
    vae.fit(x, batch_size=100, verbose=0)
    x_test = kvv.datasets.hypersphere(10_000, dim, seed=1)
    latent = vae.encode(x_test, sample=True, seed=0)
    mean = np.asarray(vae.decode(latent.sample)["mean"])
    return {
        "kl": np.mean(vae.elbo(x_test, seed=0)["kl"]),
        # At draws of z, where Theorem 1 has the decoder's means.
        "radius": np.sqrt(np.mean(np.sum(np.square(mean), axis=1))),
    }


def log_density(dim, radius, mean_radius):
    """log p(x) of Eq. 8 up to a constant, for |x| = R and means at r, over stddev.

    The integral is a Bessel function: with k = r R, exp(-r^2 / 2) I_n(k) / k^n where
    n = D / 2 - 1.
    """
    from scipy.special import gammaln, ive

    order = dim / 2 - 1
    k = np.maximum(radius * mean_radius, 1e-8)
    at_zero = -order * np.log(2) - gammaln(order + 1)
    bessel = np.log(ive(order, k)) + k - order * np.log(k)
    return -0.5 * np.square(mean_radius) + np.where(k > 1e-6, bessel, at_zero)


def best_radius(dim, radius):
    """The r / stddev that maximises Eq. 8, by a grid."""
    grid = np.linspace(0, 1.2 * radius, 4001)
    return grid[np.argmax(log_density(dim, radius, grid))]


def draw_sphere(results, options):
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    grid = np.linspace(0.01, 5, 300)
    density = log_density(2, grid[None, :], grid[:, None])
    density = np.exp(density - density.max(axis=0))
    left.pcolormesh(grid, grid, density, cmap="viridis", rasterized=True)
    left.plot(grid, [best_radius(2, radius) for radius in grid], "w--", linewidth=1)
    left.set(xlabel="R / stddev", ylabel="r / stddev", title="p(x), D = 2 (Fig. 2)")
    for dim, marker in zip(options.dims, "os", strict=False):
        ratios = np.linspace(0.4, 1.6, 121)
        best = [best_radius(dim, dim**0.5 / t) * t / dim**0.5 for t in ratios]
        (line,) = right.plot(ratios, best, label=f"optimum, D = {dim}")
        points = [(t, r["radius"]) for (d, t), r in results.items() if d == dim]
        right.plot(*np.transpose(points), marker, color=line.get_color(), label="VAE")
    right.axvline(1.0, color="black", linewidth=0.8)
    right.set(xlabel="stddev sqrt(D) / R", ylabel="radius of the decoder's means / R")
    right.legend(frameon=False)
    figure.savefig(options.output_dir / "sphere.png", dpi=90)


if __name__ == "__main__":
    main()
