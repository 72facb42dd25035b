"""Repairs for torchvision and pytorchvideo that must run before `import lightning`.

A torchvision wheel built for CUDA beside a CPU build of torch cannot load its compiled extension: `import torchvision`
then fails with "operator torchvision::nms does not exist", and torchmetrics, so lightning, fails with it. The Python
parts (transforms, models) need only the operators' schemas. pytorchvideo 0.1.5 also imports a module that torchvision
has since renamed.
"""

import importlib.util
import sys
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# torch drops a library's operators when the Library object dies, so it is kept here for the life of the process.
_kept_alive: list[torch.library.Library] = []


def torchvision_extension_loads() -> bool:
    """Return whether torchvision's compiled operators load beside this torch (True where torchvision is absent)."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    if hasattr(torch.ops.torchvision, "nms"):
        return not _kept_alive
    libraries = sorted(Path(spec.origin).parent.glob("_C*.so")) + sorted(Path(spec.origin).parent.glob("_C*.pyd"))
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


def ensure_torchvision() -> None:
    """Declare the operator schemas that `import torchvision` needs, only where its extension does not load."""
    if _kept_alive or torchvision_extension_loads():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS.values():
        library.define(schema)
    _kept_alive.append(library)


def ensure_pytorchvideo() -> None:
    """Alias `torchvision.transforms.functional_tensor`, which `pytorchvideo.transforms` imports by its old name."""
    ensure_torchvision()
    old, new = "torchvision.transforms.functional_tensor", "torchvision.transforms._functional_tensor"
    if old not in sys.modules and importlib.util.find_spec(new) is not None:
        sys.modules[old] = importlib.import_module(new)
