"""What layers do with layers."""

__all__ = ["build_once"]


def build_once(layer, shape):
    """Builds `layer` for `shape` unless loading it from a file has done so already."""
    if not layer.built:
        layer.build(tuple(shape))
