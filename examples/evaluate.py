"""All that can be measured of a saved model, on one page.

    python examples/quickstart.py
    python examples/evaluate.py quickstart_output/vae.keras --dataset digits
    python examples/evaluate.py vae.keras --dataset mnist --data-dir DIR \\
        --classifier mnist_classifier.keras --outliers fashion_mnist

Reads a model that `vae.save` wrote and a data set, and writes numbers with their errors
and the protocol of each: as a table of text, as JSON, and as one page of HTML with its
figures inside. The mixture is fitted to the training set; all else is measured on the
first `--images` test images. `--data-file` takes an .npz in place of a data set, with
`x_train`, `x_test` and, where there are labels, `y_test`. Distances between sets of
images need features: `--classifier` of `train_classifier.py`, `--squeezenet`,
`--inception` (Keras downloads the weights, if no file of them is named), or the
`--inception-2015` that alone makes it an FID. Detection of anomalies needs
`--outliers`.

What needs a density is left out for a deterministic posterior, and calibration for a
likelihood of levels. `--smoke` trains a tiny model on the digits and measures that.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import base64
import functools
import html
import io
import json
import pathlib
import warnings
from typing import NamedTuple

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

FEW = 500  # images for what takes the decoder's Jacobian
DATASETS = ("digits", "mnist", "fashion_mnist")


class Row(NamedTuple):
    section: str
    name: str
    value: float
    error: float | None
    protocol: str


def main():
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    x_train, x_test, y_test = load(options.dataset, options, options.data_file)
    vae = (
        smoke_model(x_train, options.recipe)
        if options.smoke
        else keras.models.load_model(options.model)
    )
    mixture = kvv.samplers.GaussianMixture(options.components)
    mixture.fit(vae, x_train, seed=options.seed)

    rows = []
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        for measure in (likelihoods, latents, smoothness, calibration, distances):
            rows += measure(vae, mixture, x_test, options)
        rows += anomalies(vae, x_test, options)
    # The library says where a number is not what it looks like.
    notes = sorted(
        {str(note.message) for note in notes if note.category is UserWarning}
    )
    figures = draw(vae, mixture, x_test, y_test, options)
    report(vae, len(x_test), rows, figures, notes, options)


def parse():
    parser = _runs.parser(__doc__, __file__)
    parser.add_argument("model", nargs="?", help="a .keras file")
    _runs.add_data(parser, "digits", DATASETS, file="an .npz with x_train and x_test")
    parser.add_argument("--classifier", help="of train_classifier.py, for distances")
    parser.add_argument("--squeezenet", help="an .h5, for distances of colour images")
    parser.add_argument(
        "--inception", nargs="?", const="imagenet", help="of Keras, or an .h5 of it"
    )
    parser.add_argument("--inception-2015", help="classify_image_graph_def.pb")
    parser.add_argument("--outliers", choices=DATASETS, help="what is anomalous")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--components", type=int, default=32)
    parser.add_argument("--weights", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="learned_variance", help="of --smoke")
    options = parser.parse_args()
    if options.data_file:
        options.dataset = pathlib.Path(options.data_file).stem
    if options.smoke:
        options.images, options.components, options.weights = 64, 2, 5
        options.outliers = options.dataset
    elif options.model is None:
        parser.error("name a model, or pass --smoke")
    return options


def load(dataset, options, data_file=None):
    """Training and test images, and the labels of the latter or None."""
    if data_file:
        with np.load(data_file) as data:
            labels = data["y_test"][: options.images] if "y_test" in data else None
            return data["x_train"], data["x_test"][: options.images], labels
    (x_train, _), (x_test, y_test) = _runs.load(dataset, options)
    return x_train, x_test[: options.images], y_test[: options.images]


def smoke_model(x, recipe):
    vae = getattr(kvv.recipes, recipe)(x.shape[1:], 2, backbone=kvv.backbones.mlp)
    vae.compile(keras.optimizers.Adam(1e-3))
    vae.fit(x, epochs=2, verbose=0)
    return vae


def row(section, name, value, protocol):
    """Of a number, an `Estimate`, or an array of numbers by example."""
    if isinstance(value, np.ndarray) and value.ndim:
        value = kvv.metrics.Estimate.of(value)
    return Row(
        section, name, float(value), getattr(value, "standard_error", None), protocol
    )


# --------------------------------------------------------------------------------------
# What is measured


def likelihoods(vae, mixture, x, options):
    section, rows = "Likelihood (nats)", []
    logs = vae.evaluate(x, batch_size=256, verbose=0, return_dict=True)
    rows.append(row(section, "squared error", logs["mse"], "a sum over pixels, z ~ q"))
    if "variance" in logs:
        rows.append(row(section, "variance", logs["variance"], "mean over pixels"))
    if vae.posterior.deterministic:
        return rows
    for name, values in vae.elbo(x, seed=options.seed).items():
        values = np.asarray(values, np.float64)
        rows.append(row(section, name, values, "one draw of z an image"))
    for name, sampler in (("prior", None), ("mixture", mixture)):
        values, errors = kvv.metrics.log_likelihood(
            vae, x, options.weights, sampler, options.seed, return_errors=True
        )
        protocol = f"{options.weights} importance weights, p(z) the {name}"
        protocol += f"; an image is known to {np.mean(errors):.2g}, on average"
        rows.append(row(section, f"log likelihood, {name}", values, protocol))
    values = kvv.metrics.log_evidence(vae, x[:FEW])
    protocol = f"Laplace approximation (P4, Eq. 26), {len(values)} images"
    rows.append(row(section, "log evidence", values, protocol))
    in_bits = _runs.bits_per_dimension(vae, x, options.seed)
    if in_bits is not None:
        protocol = (
            "of the levels, by the ELBO, on dequantised images where p is a density"
        )
        rows.append(row(section, "bits per dimension", in_bits, protocol))
    return rows


def latents(vae, mixture, x, options):
    section, rows = "Latent space", []
    metrics, seed = kvv.metrics, options.seed
    active = metrics.active_units(vae, x).count
    protocol = f"of {vae.latent_dim}, variance of the code above 0.01"
    rows.append(row(section, "active dimensions", active, protocol))
    value = metrics.kl_to_prior(mixture, vae, seed=seed)
    protocol = f"mixture of {options.components} on the training set, 10 x 10,000 draws"
    rows.append(row(section, "KL(mixture || prior)", value, protocol))
    if not vae.posterior.deterministic:
        protocol = f"q(z) of these {len(x)} images: at most about {np.log(len(x)):.2f}"
        value = metrics.mutual_information(vae, x, seed=seed)
        rows.append(row(section, "I(x; z)", value, protocol))
        value = metrics.marginal_kl(vae, x, seed=seed)
        protocol = "KL less I(x; z): too large where that is at its most"
        rows.append(row(section, "KL(q(z) || p(z))", value, protocol))
        value = metrics.mutual_information_bound(vae, x, seed=seed).left_out
        protocol = "upper bound, each image's own code left out (P1, Eq. D.1)"
        rows.append(row(section, "I(x; z), bound", value, protocol))
    return rows


def smoothness(vae, mixture, x, options):
    section, x = "Smoothness of the decoder", x[:FEW]
    gap = kvv.metrics.expected_gap(vae, x, 1e-2, seed=options.seed)
    value = kvv.metrics.local_smoothness(vae, x, seed=options.seed)
    return [
        row(
            section, "expected gap", gap, f"variance 1e-2 (P1, Eq. 5), {len(x)} images"
        ),
        row(section, "|dm/dz|^2", value, f"exact, at the codes of {len(x)} images"),
    ]


def calibration(vae, mixture, x, options):
    if vae.likelihood.discrete:
        return []
    section = "Calibration of the variance"
    found = kvv.metrics.calibration(vae, x, seed=options.seed)
    protocol = "z ~ q, over all pixels"
    rows = [
        row(section, "stddev of the z-scores", found.stddev, f"1 is right; {protocol}"),
        row(
            section,
            "calibration error",
            found.error,
            "19 central intervals, 0 is right",
        ),
    ]
    levels = (0.5, 0.9, 0.95)
    shares = kvv.metrics.coverage(vae, x, levels, seed=options.seed)
    for level, share in shares.items():
        rows.append(row(section, f"coverage of {level:.0%}", share, protocol))
    return rows


def distances(vae, mixture, x, options):
    features = extractor(options)
    if features is None:
        return []
    section, rows, seed = f"Distances by {features.name}", [], options.seed
    real = _runs.floats(x)
    other = np.random.default_rng(seed).permutation(len(x))
    sets = {
        "prior": means(vae, len(x), None, seed),
        "mixture": means(vae, len(x), mixture, seed),
        "reconstructions": np.asarray(vae.reconstruct(x)["mean"]),
        "interpolations": kvv.metrics.interpolate(vae, x, x[other], 0.5),
    }
    protocol = f"{len(x)} images of each, means of the decoder"
    for name, images in sets.items():
        images = np.clip(images, 0.0, 1.0)
        distance = kvv.metrics.frechet_distance(real, images, features)
        label = "FID" if distance.label == "FID" else "Frechet distance"
        rows.append(row(section, f"{label}, {name}", distance, protocol))
        if name in ("prior", "mixture"):
            value = kvv.metrics.kernel_distance(real, images, features, seed=seed)
            rows.append(row(section, f"kernel distance, {name}", value, protocol))
            for kind, value in (
                kvv.metrics.precision_recall(real, images, features)._asdict().items()
            ):
                rows.append(row(section, f"{kind}, {name}", value, "3 neighbours"))
    return rows


def extractor(options):
    features = kvv.metrics.features
    if options.classifier:
        return features.penultimate(keras.models.load_model(options.classifier))
    if options.squeezenet:
        return features.squeezenet(options.squeezenet)
    if options.inception:
        return features.inception_v3(options.inception)
    if options.inception_2015:
        return features.Inception2015(options.inception_2015)
    return None


def means(vae, count, sampler, seed):
    parts = [
        np.asarray(vae.generate(min(500, count - i), sampler, seed=seed + i)["mean"])
        for i in range(0, count, 500)
    ]
    return np.concatenate(parts)


def anomalies(vae, x, options):
    if options.outliers is None:
        return []
    from sklearn.metrics import roc_auc_score

    if options.outliers == options.dataset:  # turned upside down
        outliers, protocol = x[:, ::-1], "against these images upside down"
    else:
        outliers = load(options.outliers, options)[1]
        protocol = f"against {options.outliers}"
    kinds = ["reconstruction"]
    if not vae.posterior.deterministic:
        kinds += ["elbo", "log_likelihood"]
    anomalous = np.repeat([False, True], [len(x), len(outliers)])
    rows = []
    for kind in kinds:
        scores = [
            kvv.metrics.anomaly_scores(vae, images, kind, seed=options.seed)
            for images in (x, outliers)
        ]
        area = roc_auc_score(anomalous, np.concatenate(scores))
        rows.append(row("Anomalies", f"ROC AUC, {kind}", area, protocol))
    return rows


# --------------------------------------------------------------------------------------
# Figures


def draw(vae, mixture, x, labels, options):
    plots, seed = kvv.plots, options.seed
    figures = {
        "Reconstructions and samples, each with the standard deviation of its pixels": (
            plots.overview(
                x[:10],
                {name: t[:10] for name, t in vae.reconstruct(x[:10]).items()},
                {
                    "prior": vae.generate(10, seed=seed),
                    "mixture": vae.generate(10, sampler=mixture, seed=seed),
                },
            )
        ),
        "Samples of the mixture": plots.samples(
            means(vae, 60, mixture, seed), columns=12
        ),
    }
    ratios = np.linspace(0, 1, 7)
    first, last = x[:4], x[4:8]
    paths = [kvv.metrics.interpolate(vae, first, last, float(r)) for r in ratios]
    figures["Interpolations between codes"] = plots.interpolations(
        np.stack(paths, axis=1), ends=np.stack([first, last], axis=1), ratios=ratios
    )
    codes = np.asarray(vae.encode(x[:1000]).mean)
    labels = None if labels is None else labels[:1000]
    if vae.latent_dim == 2:
        figures["Codes of the test images"] = plots.latent_scatter(codes, labels)
        zeros = np.zeros((1, 2), "float32")
        prior = vae.prior(
            zeros, zeros + 1.0, training=False
        )  # that of a calibrated one
        mean, variance = (np.asarray(t)[0] for t in prior)
        figures["The decoder over the prior"] = plots.manifold(
            vae.generate, prior_mean=mean, prior_variance=variance
        )
        densities = {"mixture": mixture.log_prob}
        if not vae.posterior.deterministic:
            aggregate = kvv.samplers.AggregatePosterior().fit(vae, x)
            densities = {"aggregate posterior": aggregate.log_prob, **densities}
        densities["prior"] = functools.partial(normal, mean=mean, variance=variance)
        farthest = max(
            np.abs(codes).max(), np.abs(mean).max() + 3 * variance.max() ** 0.5
        )
        figures["Log densities"] = plots.latent_density(
            densities, limits=(-1.1 * farthest, 1.1 * farthest)
        )
    else:
        perplexity = min(30.0, len(codes) / 4)
        figures["Codes of the test images"] = plots.tsne(
            codes, labels, perplexity=perplexity
        )
    if not vae.likelihood.discrete:
        figures["Calibration of the variance"] = plots.calibration(
            kvv.metrics.calibration(vae, x, seed=seed)
        )
    return figures


def normal(z, mean, variance):
    """Log density of a Gaussian of independent dimensions."""
    terms = np.square(z - mean) / variance + np.log(2 * np.pi * variance)
    return -0.5 * np.sum(terms, axis=1)


# --------------------------------------------------------------------------------------
# The report


def report(vae, count, rows, figures, notes, options):
    print(f"\n{options.model or 'smoke model'} on {count} test images")
    cells = [["", "", "standard error", "protocol"]]
    for i, entry in enumerate(rows):
        if i == 0 or entry.section != rows[i - 1].section:
            cells.append([entry.section, "", "", ""])
        cells.append([f"  {entry.name}", number(entry.value), *tail(entry)])
    _runs.table(cells)
    for note in notes:
        print(f"Note: {note}")
    variance = getattr(vae.likelihood, "variance_model", None)
    part = "" if variance is None else type(variance).__name__
    description = {
        "likelihood": f"{type(vae.likelihood).__name__}({part})",
        "posterior": type(vae.posterior).__name__,
        "parameters": vae.count_params(),
        "latent dimensions": vae.latent_dim,
    }
    record = {
        "model": pathlib.Path(options.model or "smoke").name,
        "dataset": options.dataset,
        "images": count,
        "seed": options.seed,
        "versions": _runs.versions(),
        "description": description,
        "notes": notes,
        "rows": [entry._asdict() for entry in rows],
    }
    path = options.output_dir / "report.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    path = options.output_dir / "report.html"
    path.write_text(page(record, rows, figures), encoding="utf-8")
    print(f"Written to {options.output_dir}: report.json, report.html")


def number(value):
    return f"{value:.5g}"


def tail(entry):
    error = "" if entry.error is None else f"{entry.error:.2g}"
    return [error, entry.protocol]


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em;
       padding: 0 1em; color: #222; }
table { border-collapse: collapse; width: 100%; }
td { padding: .15em .7em; border-bottom: 1px solid #ddd; vertical-align: top; }
th { text-align: left; padding: 1em .7em .2em; border-bottom: 2px solid #888;
     white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 2em 0; } img { max-width: 100%; } figcaption { color: #555; }
.note { background: #fff4d6; padding: .5em 1em; }
"""


def page(record, rows, figures):
    """One HTML file, with nothing outside of it."""
    escape = html.escape
    description = "; ".join(f"{k}: {v}" for k, v in record["description"].items())
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{escape(record['model'])}</title><style>{STYLE}</style>",
        f"<h1>{escape(record['model'])} on {escape(record['dataset'])}</h1>",
        f"<p>{record['images']} test images, seed {record['seed']}. "
        f"{escape(description)}.</p>",
        *(f"<p class='note'>{escape(note)}</p>" for note in record["notes"]),
        "<table>",
    ]
    section = None
    for entry in rows:
        if entry.section != section:
            section = entry.section
            titles = "<th class='number'>value<th class='number'>standard error"
            titles += "<th>protocol"
            parts.append(f"<tr><th>{escape(section)}{titles}")
        error, protocol = tail(entry)
        parts.append(
            f"<tr><td>{escape(entry.name)}<td class='number'>{number(entry.value)}"
            f"<td class='number'>{error}<td>{escape(protocol)}"
        )
    parts.append("</table>")
    for caption, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        data = base64.b64encode(buffer.getvalue()).decode()
        parts.append(
            f"<figure><img alt='{escape(caption)}' src='data:image/png;base64,{data}'>"
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "\n".join([*parts, "</html>"]) + "\n"


if __name__ == "__main__":
    main()
