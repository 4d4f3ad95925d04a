"""Reading whole data sets: for tests of the readers."""

from collections.abc import Iterator

from upfusion_core.data.views import MultiViewDataset, PosedViews
from upfusion_core.support.errors import UpFusionError


def readable(dataset: MultiViewDataset) -> Iterator[PosedViews]:
    """Every object that can be read, once and in order, with all its views; the data set counts the others."""
    for index in range(len(dataset)):
        try:
            yield dataset[index]
        except UpFusionError:
            continue  # noted in `skipped`
