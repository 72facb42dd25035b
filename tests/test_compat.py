"""The torchvision repair: in fresh processes, because it must act before the first import."""

import subprocess
import sys
import textwrap

import pytest
import torch

from lightning_modules import compat


def run_python(code, repository):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)


def test_pytorchvideo_and_lightning_import_after_our_package(repository):
    done = run_python(
        """
        from lightning_modules.compat import ensure_pytorchvideo
        ensure_pytorchvideo()
        ensure_pytorchvideo()
        import pytorchvideo.data, pytorchvideo.models.x3d, pytorchvideo.transforms
        from torchvision.transforms import functional_tensor
        import lightning, torchmetrics, torchvision
        from torchvision.transforms import v2
        import torch
        frame_CHW = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
        assert torch.equal(v2.functional.horizontal_flip(frame_CHW), frame_CHW.flip(-1))
        """,
        repository,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_without_the_repair_a_mismatched_torchvision_breaks_lightning(repository):
    """Tells when the repair may go: where the extension loads the import works without it, and only there."""
    # The file by itself: importing its package would already repair.
    load = """
        import importlib.util
        spec = importlib.util.spec_from_file_location("compat", "lightning_modules/compat.py")
        compat = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compat)
        """
    extension = run_python(load + "print(compat.torchvision_extension_loads())", repository)
    plain = run_python("import lightning", repository)
    assert extension.returncode == 0, extension.stderr
    assert (plain.returncode == 0) == (extension.stdout.strip() == "True"), plain.stderr


def test_a_second_call_declares_nothing_more():
    compat.ensure_torchvision()
    before = list(compat._kept_alive)
    compat.ensure_torchvision()
    assert compat._kept_alive == before


def test_nothing_is_declared_where_the_extension_loads(monkeypatch):
    monkeypatch.setattr(compat, "_kept_alive", [])
    monkeypatch.setattr(compat, "torchvision_extension_loads", lambda: True)
    monkeypatch.setattr(torch.library, "Library", lambda *_: pytest.fail("declared operators that exist"))
    compat.ensure_torchvision()
    assert compat._kept_alive == []


def test_nothing_is_declared_where_torchvision_is_absent(monkeypatch):
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda _: None)
    assert compat.torchvision_extension_loads()
