"""P2's decoders on a sequence model, SVG with a learned prior (P2, Section 5).

    python examples/video.py --steps 6000            # moving digits, 16x16
    python examples/video.py --dataset frey --data-file FILE.npz --steps 800 \\
        --schedule constant                          # 32x32
    python examples/video.py --dataset mnist --data-dir DIR --frames dcgan --steps 60000
    python examples/video.py --dataset bair --data-dir DIR --frames vgg --steps 120000

The first two are small runs for a CPU: DCGAN networks of 16 channels, 64 features and
64 units in the LSTMs, 2 frames of condition and 6 to predict. The last two have the
published networks (64x64 frames, 128 features, 256 units) and take a GPU; they were not
run.

Decoders: unit variance with the KL at a weight of 1e-4, and at SVG's own, whose code
sets its beta of 1e-4 beside the mean of the squares, not half of their sum: 1e-4 D / 2
of frames of D numbers; a shared variance, the optimal one, and the optimal one of each
image. P2, Table 2, is of BAIR at 64x64; what must hold here is that the calibrated
decoders have the better bound on `-log p` at equal training. The bound is at weight 1,
of all frames from the second on, given those before. "beta" is the same model's at the
variance that its weight stands for (P2, Section 3.1), which calibrates it afterwards.
The per-image one's, whose variance is a function of `x`, is in brackets: it bounds
nothing.

The best of many samples is SVG's measure; coverage is the share of pixels in the
predicted 90 % interval, at the first and at the last frame.

Writes a JSON for each run and figures to `examples/results/video`; what is there
already is not run again. `--smoke` shrinks all of it to seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

SIZES = {  # side, channels, features, units, latents, batch
    "digits": (16, 16, 64, 64, 8, 32),
    "frey": (32, 16, 64, 64, 8, 16),
    "mnist": (64, 64, 128, 256, 10, 100),
    "bair": (64, 64, 128, 256, 64, 16),
}
DECODERS = {  # the variance, and the weight of the KL for frames of so many numbers
    "unit, beta 1e-4": (lambda: kvv.variances.Fixed(1.0), lambda size: 1e-4),
    "unit, SVG's beta": (
        lambda: kvv.variances.Fixed(1.0),
        lambda size: 1e-4 * size / 2,
    ),
    "shared": (kvv.variances.Learned, lambda size: 1.0),
    "optimal": (kvv.variances.MaximumLikelihood, lambda size: 1.0),
    "per-image": (
        lambda: kvv.variances.MaximumLikelihood(per_example=True),
        lambda size: 1.0,
    ),
}


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    x_train, x_test = load(options)
    print(f"{options.dataset}: {x_train.shape} to train, {len(x_test)} to test")
    results = {}
    for name in options.decoders:
        settings = {
            "decoder": name,
            "dataset": options.dataset,
            "frames": options.frames,
            "steps": options.steps,
            "learning_rate": options.learning_rate,
            "n_past": 2,
            "sizes": SIZES[options.dataset],
            "num_samples": options.num_samples,
            "seed": options.seed,
            "smoke": options.smoke,
        }
        if options.schedule == "cosine":
            settings["schedule"] = options.schedule
        if options.dataset in ("digits", "mnist"):
            settings["sequences"] = len(x_train)
        words = name.replace(",", "").replace("'", "").replace(" ", "_")
        file = f"{options.dataset}_{words}_seed{options.seed}"

        def run(settings, name=name):
            return train(DECODERS[name], settings, x_train, x_test)

        results[name] = _runs.once(options.output_dir, file, settings, run)
    report(results, x_test)
    draw(results, x_test, options)


def parse():
    parser = _runs.parser(__doc__, __file__)
    _runs.add_data(parser, "digits", SIZES, file="an .npz of frey")
    parser.add_argument("--frames", default="dcgan", choices=("dcgan", "vgg"))
    parser.add_argument("--decoders", nargs="+", default=list(DECODERS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--schedule",
        default="cosine",
        choices=("cosine", "constant"),
        help="of the learning rate; the records of frey are of the constant one",
    )
    parser.add_argument("--num-samples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.smoke:
        options.steps, options.num_samples = 2, 2
        options.decoders = ["unit, beta 1e-4", "optimal"]
    return options


def load(options):
    """Sequences to train and to test with, uint8, `(n, time, height, width, c)`."""
    side, length = SIZES[options.dataset][0], 8
    if options.dataset == "bair":
        halves = _runs.load("bair_robot_pushing_small", options)
        return halves[0][0][:, :12], halves[1][0][:, :12]
    if options.dataset == "frey":
        x = _runs.archive(options.data_file)
        # A later part of the video, and no frame in both.
        train = kvv.datasets.windows(x[:1700], length, stride=2)
        test = kvv.datasets.windows(x[1700:], length, stride=length)
    else:
        digits = {"num_digits": 1}
        halves = _runs.load(options.dataset, options)
        if options.dataset == "mnist":
            digits = {"num_digits": 2}
            length = 15
        train, test = (
            kvv.datasets.moving_digits(
                n, length, side, images=half[0], seed=seed, **digits
            )
            for half, n, seed in zip(halves, (16_000, 128), (0, 1), strict=True)
        )
    if options.smoke:
        train, test = train[:32], test[:4]
    return train, test


def train(decoder, settings, x_train, x_test):
    variance, weight = decoder
    _, channels, features, units, latent_dim, batch_size = settings["sizes"]
    likelihood = kvv.likelihoods.Gaussian(variance())
    networks = kvv.backbones.svg(
        x_train.shape[2:],
        latent_dim,
        likelihood,
        frames=settings["frames"],
        features=features,
        units=units,
        channels=channels,
    )
    past = settings["n_past"]
    vae = kvv.SequenceVAE(
        *networks,
        kvv.posteriors.DiagonalGaussian(latent_dim),
        likelihood,
        n_past=past,
        n_future=x_train.shape[1] - past,
        regularizers=[kvv.regularizers.KL(weight(np.prod(x_train.shape[2:])))],
        seed=settings["seed"],
    )
    steps = max(settings["steps"] // 2, 1)
    rate = settings["learning_rate"]
    if "schedule" in settings:
        rate = keras.optimizers.schedules.CosineDecay(rate, 2 * steps)
    vae.compile(keras.optimizers.Adam(rate))
    history = vae.fit(
        x_train,
        batch_size=batch_size,
        epochs=2,
        steps_per_epoch=steps,
        verbose=0,
    )
    seed = settings["seed"]
    terms = {name: np.mean(v) for name, v in vae.elbo(x_test, seed=seed).items()}
    evaluated = vae.evaluate(x_test, batch_size=batch_size, verbose=0, return_dict=True)
    number = settings["num_samples"]
    best = kvv.metrics.best_of_samples(vae, x_test[:32], number, seed=seed)
    coverage = kvv.metrics.horizon_coverage(vae, x_test, num_samples=number, seed=seed)
    futures = vae.predict_frames(x_test[:3], num_samples=3, seed=seed)
    return {
        "nll_bound": -terms["elbo"],
        "reconstruction": terms["reconstruction"],
        "kl": terms["kl"],
        "mse": evaluated["mse"],
        "variance": evaluated["variance"],
        "train_loss": history.history["loss"],
        "ssim": best.ssim.mean(axis=0),
        "psnr": best.psnr.mean(axis=0),
        "coverage": coverage,
        "parameters": vae.count_params(),
        "futures": np.round(np.asarray(futures["mean"])[..., 0], 2),
    }


def report(results, x_test):
    print("\nBounds on -log p of the frames from the second on; best of the futures")
    rows = [
        ["decoder", "nll", "beta", "kl", "mse", "variance", "SSIM", "PSNR", "coverage"]
    ]
    for name, run in results.items():
        nll = f"{run['nll_bound']:.0f}"
        rows.append(
            [
                name,
                f"({nll})" if name == "per-image" else nll,
                equivalent(run, name, x_test) if name.startswith("unit") else "",
                f"{run['kl']:.1f}",
                f"{run['mse']:.2f}",
                f"{run['variance']:.5f}",
                f"{np.mean(run['ssim']):.3f}",
                f"{np.mean(run['psnr']):.2f}",
                f"{run['coverage'][0]:.2f} to {run['coverage'][-1]:.2f}",
            ]
        )
    _runs.table(rows)


def equivalent(run, name, x_test):
    """The bound with the variance that the weight of the KL stands for."""
    frame, frames = np.prod(x_test.shape[2:]), x_test.shape[1] - 1
    v = DECODERS[name][1](frame)
    constant = 0.5 * frame * frames * np.log(2 * np.pi * v)
    squares = run["reconstruction"] - 0.5 * frame * frames * np.log(2 * np.pi)
    return f"{squares / v + constant + run['kl']:.0f}"


def draw(results, x_test, options):
    """Figures as P2's 2 and 7: true frames, and three futures below them."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(results), 1, figsize=(8, 1.75 * len(results)), layout="constrained"
    )
    truth = x_test[:3, ..., 0] / 255.0
    for axis, (name, run) in zip(np.atleast_1d(axes), results.items(), strict=True):
        futures = np.array(run["futures"])
        past = truth[:, : truth.shape[1] - futures.shape[2]]
        blocks = []
        for i in range(len(truth)):
            rows = [truth[i], *([*past[i], *future[i]] for future in futures)]
            blocks.append(np.concatenate([np.concatenate(list(r), 1) for r in rows]))
        line = np.ones((blocks[0].shape[0], 2))
        picture = [part for block in blocks for part in (block, line)]
        axis.imshow(np.clip(np.concatenate(picture[:-1], 1), 0, 1), cmap="gray")
        axis.set_title(f"{name}: true frames, and three futures", fontsize=9)
        axis.set_axis_off()
    figure.savefig(options.output_dir / f"{options.dataset}_futures.png", dpi=72)
    plt.close(figure)

    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    for axis, key in zip(axes, ("ssim", "psnr", "coverage"), strict=True):
        for name, run in results.items():
            axis.plot(np.arange(len(run[key])) + 1, run[key], "o-", label=name)
        axis.set(xlabel="predicted frame", ylabel=key)
    axes[2].axhline(0.9, color="black", linewidth=0.5)
    axes[0].legend(frameon=False, fontsize=7)
    figure.savefig(options.output_dir / f"{options.dataset}_horizon.png", dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
