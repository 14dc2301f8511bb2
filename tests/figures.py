"""What can be asked of every figure."""

import itertools

from matplotlib.backends.backend_agg import RendererAgg


class Recorder(RendererAgg):
    """A renderer that remembers the texts that it drew."""

    def __init__(self, figure):
        super().__init__(*(figure.get_size_inches() * figure.dpi), figure.dpi)
        self.texts = []
        figure.draw(self)

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
        self.texts.append(mtext)


def assert_readable(figure):
    """Asserts that no text covers another or is cut off at the figure's border."""
    recorder = Recorder(figure)
    boxes = [
        (text.get_text(), (text.get_bbox_patch() or text).get_window_extent(recorder))
        for text in recorder.texts
        if text.get_text().strip()
    ]
    assert boxes
    for name, box in boxes:
        # A pixel for the rounding of glyphs.
        inside = box.x0 > -1 and box.y0 > -1
        inside &= box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
        assert inside, f"{name!r} is cut off"
    for (name, box), (other, behind) in itertools.combinations(boxes, 2):
        overlap = box.padded(-1).overlaps(behind.padded(-1))
        assert not overlap, f"{name!r} and {other!r} overlap"


def is_png(figure, path):
    """Whether a figure is written as a picture that is not empty."""
    figure.savefig(path)
    return path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 2000


def drawn(figure, row=0):
    """The numbers behind the picture of a row; gaps are NaN."""
    import numpy as np

    return np.ma.filled(figure.axes[row].images[0].get_array(), np.nan)
