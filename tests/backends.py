"""Gradients and compiled functions of Keras code, on whatever backend is at work."""

import keras
from keras import ops

BACKEND = keras.backend.backend()

# By which means functions are compiled beside eager mode.
COMPILERS = {"tensorflow": ("graph", "xla"), "jax": ("xla",), "torch": ()}[BACKEND]


def arrays(structure):
    """All tensors and variables of a structure in NumPy."""
    return keras.tree.map_structure(ops.convert_to_numpy, structure)


def value_and_gradients(function, model):
    """A scalar `function()` and its gradients in NumPy; None for weights out of it."""
    variables = model.trainable_variables
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = function()
        gradients = tape.gradient(value, variables)
    elif BACKEND == "jax":
        import jax

        rest = model.non_trainable_variables
        both = [*variables, *rest]

        def scalar(trainable, others):
            value, state = _stateless(function, both, [*trainable, *others])
            return value, (value, state)

        values = [v.value for v in variables], [v.value for v in rest]
        gradients, (value, state) = jax.jit(jax.grad(scalar, has_aux=True))(*values)
        _assign(both, state)
        # JAX has no None: what is out of the function has a gradient of 0.
        gradients = [g if ops.any(g != 0) else None for g in gradients]
    else:
        for variable in variables:
            variable.value.grad = None
        value = function()
        value.backward()
        gradients = [v.value.grad for v in variables]
    return arrays(value), [g if g is None else arrays(g) for g in gradients]


def compiled(function, variables, compiler):
    """`function` of one structure of arrays, which may assign the variables."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=compiler == "xla")
    import jax

    @jax.jit
    def pure(values, data):
        return _stateless(lambda: function(data), variables, values)

    def run(data):
        result, state = pure([v.value for v in variables], data)
        _assign(variables, state)
        return result

    return run


def _stateless(function, variables, values):
    """What `function()` returns and assigns, for JAX, which follows no assignments."""
    pairs = list(zip(variables, values, strict=True))
    with keras.StatelessScope(pairs, collect_losses=True) as scope:
        result = function()
    return result, [scope.get_current_value(v) for v in variables]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
