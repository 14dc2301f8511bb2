"""Codes of the data as points, coloured by class."""

import numpy as np

from .base import CLASSES, array, check_points

__all__ = ["latent_scatter", "principal_components", "tsne"]

# Inches, for the axes, and points (1/72 inch), for a class's name.
_SIZE, _FONT = 3.6, 10


def latent_scatter(z, labels=None, limits=None, title=None):
    """Codes in a latent space of two dimensions, coloured by class.

    A tag in a class's colour stands where that class is densest, so that the figure
    can be read without telling all the colours apart. It is the class's name, or for
    names of more than 3 characters a number; a legend explains it, and names classes
    that have no place for a tag.

    Args:
        z: latents of shape `(n, 2)`: posterior means or draws.
        labels: the class of each, integers or strings of shape `(n,)`, or None. The
            colours of more than 10 classes repeat.
        limits: lowest and highest latent, of both dimensions; None takes in all of `z`.
        title: text above the figure, or None.

    Returns:
        A figure with one axes.

    Raises:
        ValueError: on other shapes, on values that are not finite, on labels that are
            no classes and on limits out of order.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> y = np.repeat([0, 1], 50)
    >>> z = 3.0 * y[:, None] + np.random.default_rng(0).normal(size=(100, 2))
    >>> figure = plots.latent_scatter(z, y)
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['0', '1']
    """
    z = check_points("z", z, 2)
    labels = _check_labels(labels, len(z))
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"`limits` must increase. Received: limits={limits}")
    figure, axes = _draw(z, labels, limits, title)
    axes.set_xlabel("latent 1")
    axes.set_ylabel("latent 2")
    return figure


def principal_components(z, labels=None, title=None):
    """Codes of any dimension along the two directions in which they vary most.

    Unlike `tsne` it is linear and takes no time: pictures of one model at different
    stages of its training compare. The axes say what share of the variance of the codes
    they show.

    Args:
        z: latents of shape `(n, latent_dim)`, with at least 2 dimensions.
        labels: as for `latent_scatter`.
        title: text above the figure, or None.

    Returns:
        A figure with one axes.

    Raises:
        ValueError: as for `latent_scatter`, and on latents of one dimension.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> z = np.array([[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> figure = plots.principal_components(z)
    >>> figure.axes[0].get_xlabel()
    'principal component 1 (96 %)'
    """
    z = check_points("z", z)
    if z.shape[1] < 2:
        raise ValueError(
            f"`z` must have at least 2 dimensions. Received: z of shape {z.shape}"
        )
    labels = _check_labels(labels, len(z))
    z = z - z.mean(axis=0)
    values, directions = np.linalg.eigh(z.T @ z)
    directions = directions[:, :-3:-1]
    # The sign is free: the largest part of each is positive.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, [0, 1]])
    figure, axes = _draw(z @ directions, labels, None, title)
    shares = values[:-3:-1] / (values.sum() or 1.0)
    for i, name in enumerate((axes.set_xlabel, axes.set_ylabel)):
        name(f"principal component {i + 1} ({100 * shares[i]:.0f} %)")
    return figure


def tsne(z, labels=None, samples=None, perplexity=30.0, title=None):
    """Codes of any dimension in a plane, by t-SNE, coloured by class.

    P1, Figs. D.4 and J.6, with draws of the prior among the codes. Neighbours stay
    neighbours, but distances, sizes and densities of what lies apart mean nothing; the
    axes have no unit. scikit-learn computes it, from a start by principal components,
    so that nothing is random but for very many dimensions. A thousand codes take a few
    seconds, and the time grows somewhat faster than their number.

    L. van der Maaten, G. Hinton, Visualizing Data using t-SNE, 2008.

    Args:
        z: latents of shape `(n, latent_dim)`.
        labels: as for `latent_scatter`.
        samples: further latents of shape `(m, latent_dim)`, such as draws of a sampler,
            embedded along with the codes and drawn as crosses, or None.
        perplexity: number of neighbours that count for each point, below `n + m`.
        title: text above the figure, or None.

    Returns:
        A figure with one axes.

    Raises:
        ValueError: as for `latent_scatter`, and on a perplexity that is too high.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> y = np.repeat([0, 1], 20)
    >>> z = 9.0 * y[:, None] + np.random.default_rng(0).normal(size=(40, 5))
    >>> figure = plots.tsne(z, y, perplexity=10)  # doctest: +SKIP
    >>> figure.savefig("tsne.png")  # doctest: +SKIP
    """
    z = check_points("z", z)
    labels = _check_labels(labels, len(z))
    both = z
    if samples is not None:
        both = np.concatenate([z, check_points("samples", samples, z.shape[1])])
    if not 0 < perplexity < len(both):
        raise ValueError(
            f"`perplexity` must lie between 0 and the {len(both)} latents. "
            f"Received: perplexity={perplexity}"
        )
    # Imported here: it is slow, and importing the package must not need it.
    from sklearn.manifold import TSNE

    plane = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(both)
    figure, axes = _draw(plane[: len(z)], labels, None, title, plane[len(z) :])
    axes.set_xlabel("t-SNE 1")
    axes.set_ylabel("t-SNE 2")
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def _check_labels(labels, count):
    if labels is None:
        return None
    labels = array(labels) if hasattr(labels, "dtype") else np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "biuUSO":
        raise ValueError(
            "`labels` must be one class, an integer or a string, for each of the "
            f"{count} latents. Received: labels of shape {labels.shape} and type "
            f"{labels.dtype}"
        )
    return labels


def _draw(z, labels, limits, title, samples=()):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE + 0.8, _SIZE + 0.8), layout="compressed")
    axes = figure.subplots()
    classes, index = [None], np.zeros(len(z), int)
    if labels is not None:
        classes, index = np.unique(labels, return_inverse=True)
    colours = [CLASSES[i % len(CLASSES)] for i in range(len(classes))]
    # In an order of its own, so that no class covers another.
    order = np.random.default_rng(0).permutation(len(z))
    axes.scatter(
        *z[order].T,
        s=np.clip(12000 / len(z), 1.5, 16),
        c=[colours[i] for i in index[order]],
        linewidths=0,
        alpha=0.8,
        rasterized=True,  # in a PDF: a point each would make it slow
    )
    if len(samples):
        axes.scatter(
            *samples.T,
            s=10,
            marker="x",
            color="black",
            linewidths=0.6,
            label="samples",
            rasterized=True,
        )
        figure.legend(loc="outside lower center", frameon=False, markerscale=2)
    low, high = _square(z, samples) if limits is None else np.tile(limits, (2, 1)).T
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    if labels is not None:
        inside = np.all((z >= low) & (z <= high), axis=1)
        _tag(figure, z[inside], index[inside], [str(c) for c in classes], colours)
    figure.suptitle(title)
    return figure, axes


def _square(*points):
    """The corners of a square about all the points, with a margin."""
    points = np.concatenate([p for p in points if len(p)])
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.54 * max(*(high - low), 1e-6)
    return (low + high) / 2 - half, (low + high) / 2 + half


def _tag(figure, z, index, names, colours):
    """Writes the name of each class among its points, or a number, with a legend."""
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D

    axes = figure.axes[0]
    low, high = axes.get_xlim()
    longest = max(map(len, names))
    tags = names if longest <= 3 else [str(i) for i in range(len(names))]
    places = _tag_places(z, index, tags, (high - low) / _SIZE / 72)
    if tags is not names:
        names = [f"{tag} {name}" for tag, name in zip(tags, names, strict=True)]
    if tags is not names or len(places) < len(np.unique(index)):
        figure.legend(
            [Line2D([], [], color=c, marker="o", linestyle="") for c in colours],
            names,
            loc="outside right center",
            frameon=False,
        )
        figure.set_figwidth(figure.get_figwidth() + 0.7 + 0.08 * longest)
    for i, place in places.items():
        light = np.dot(to_rgb(colours[i]), (0.299, 0.587, 0.114)) > 0.5
        axes.text(
            *place,
            tags[i],
            ha="center",
            va="center",
            fontsize=_FONT,
            fontweight="bold",
            color="black" if light else "white",
            bbox={
                "boxstyle": "round,pad=0.2",
                "facecolor": colours[i],
                "edgecolor": "white",
                "linewidth": 1.0,
            },
        )


def _tag_places(z, index, tags, unit):
    """Where the tag of each class stands, for those that find a place.

    Of a class's points whose tag would touch no other, it is the one around which its
    class is densest, times its share of all that is there.

    Args:
        z: points, `(n, 2)`.
        index: the class of each.
        tags: text for each class.
        unit: size of a typographic point in the units of `z`.
    """
    if len(z) > 1000:
        chosen = np.random.default_rng(0).choice(len(z), 1000, replace=False)
        z, index = z[chosen], index[chosen]
    widths = [(0.7 * len(tag) + 1.0) * _FONT * unit for tag in tags]
    height = 2.0 * _FONT * unit
    squared = np.sum((z[:, None] - z[None]) ** 2, axis=-1)
    near = np.exp(-0.5 * squared / (1.2 * _FONT * unit) ** 2)
    places = {}
    for i in np.unique(index):
        own = z[index == i]
        score = near[index == i][:, index == i].sum(axis=1) ** 2
        score /= near[index == i].sum(axis=1)
        for j, place in places.items():
            x, y = np.abs(own - place).T
            score[(x < (widths[i] + widths[j]) / 2) & (y < height)] = -np.inf
        if np.isfinite(score).any():
            places[int(i)] = own[np.argmax(score)]
    return places
