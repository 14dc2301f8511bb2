"""Who may import whom inside the package: low layers know nothing of high ones."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "keras_vae_variance"

CORE = {"types", "ops", "running", "data", "checks"}
PARTS = CORE | {"variances", "likelihoods", "posteriors", "priors", "regularizers"}
MIXINS = {"fitting", "inference", "saving", "steps", "distribute"}
MODELS = PARTS | MIXINS | {"export", "vae"}
ALLOWED = {
    **dict.fromkeys(CORE, CORE),
    "variances": CORE,
    "likelihoods": CORE | {"variances"},
    **dict.fromkeys(["posteriors", "priors", "regularizers"], CORE),
    **dict.fromkeys(MIXINS, CORE),
    "steps": CORE | {"distribute"},
    "saving": CORE | {"export"},
    "layered": CORE | {"inference"},
    # It gets the model as an argument; `Saving.export` calls it.
    "export": PARTS,
    "vae": MODELS - {"vae"},
    "training": MODELS,
    "hierarchical": MODELS | {"layered"},
    "futures": CORE | {"inference", "export"},
    "sequence": MODELS | {"futures"},
    "callbacks": MODELS | {"plots"},
    "recipes": MODELS | {"training", "hierarchical", "sequence", "backbones"},
    # These get a model as an argument.
    "backbones": {"types", "ops"},
    **dict.fromkeys(["samplers", "metrics", "plots"], CORE),
    # A composition itself.
    "samplers.second_stage": PARTS | {"vae", "backbones"},
    "datasets": {"data", "checks"},
}
SIBLINGS = {
    "backbones": {"heads", "layers", "winograd"},
    "datasets": {"base", "handwritten", "images"},
    "likelihoods": {"base", "levels"},
    "metrics": {"base", "features", "likelihood", "mixtures", "regions"},
    "ops": {"backend"},
    "plots": {"base", "rows"},
    "samplers": {"base", "expectation_maximization", "mixtures"},
}


def imported(source, module):
    """Dotted names, without the package's, that `module` imports from the package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = [PACKAGE.name, *module.split(".")]
            start = here[: len(here) - node.level] if node.level else []
            start += node.module.split(".") if node.module else []
            names = [[*start, alias.name] for alias in node.names]
        else:
            continue
        yield from (".".join(name[1:]) for name in names if name[0] == PACKAGE.name)


def violations(source, module):
    """What `module` (as "vae" or "samplers.base") imports and must not."""
    family, _, name = module.partition(".")
    allowed = ALLOWED.get(module, ALLOWED[family])
    for target in imported(source, module):
        unit, _, rest = target.partition(".")
        if name and unit == family:
            sibling = rest.split(".")[0]
            if sibling not in SIBLINGS.get(family, {"base"}):
                yield target
        elif unit not in allowed:
            yield target


def modules():
    """Every module but the `__init__`s, which gather what their folder exports."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("module", list(modules()))
def test_imports_only_lower_layers(module):
    source = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text()
    assert module.partition(".")[0] in ALLOWED, "say in ALLOWED what it may import"
    assert list(violations(source, module)) == []


@pytest.mark.parametrize(
    "source, module",
    [
        ("from .vae import VAE", "ops"),
        ("from . import vae as model", "data"),
        ("from .. import vae", "metrics.frechet"),
        ("from ..likelihoods.gaussian import Gaussian", "variances.fixed"),
        ("from .fixed import Fixed", "variances.learned"),
        ("from . import fixed", "variances.learned"),
        ("from keras_vae_variance.variances import Fixed", "variances.learned"),
        ("from keras_vae_variance import vae", "samplers.prior"),
        ("import keras_vae_variance as kvv", "training"),
        ("import keras, keras_vae_variance.vae", "plots.images"),
        ("def f():\n    from ..running import RunningAverage", "backbones.mlp"),
    ],
)
def test_finds_a_forbidden_import(source, module):
    assert list(violations(source, module))


@pytest.mark.parametrize(
    "source, module",
    [
        ("import keras\nfrom keras import ops", "variances.fixed"),
        ("from .base import Variance\nfrom .. import ops, types", "variances.fixed"),
        ("from keras_vae_variance.backbones import heads", "backbones.mlp"),
        ("from ..vae import VAE", "samplers.second_stage"),
    ],
)
def test_leaves_a_lawful_import(source, module):
    assert not list(violations(source, module))
