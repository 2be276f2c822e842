"""Every metric by its name, as configs/metric/ and the command line call it."""

from types import ModuleType

from attnvis.metrics import boxes, faithfulness, fixations, pop_out, regions, segmentation
from attnvis.metrics.metric import Metric

__all__ = ["METRICS"]

MODULES: tuple[ModuleType, ...] = (fixations, regions, boxes, segmentation, pop_out, faithfulness)
METRICS: dict[str, Metric] = {
    name: getattr(module, name) for module in MODULES for name in module.__all__ if name.islower()
}
