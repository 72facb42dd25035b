from lightning_modules.compat import ensure_torchvision

ensure_torchvision()
