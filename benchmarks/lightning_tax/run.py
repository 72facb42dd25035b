"""Goal 6: the CPU time of `fit` over that of the bare loop, on the same clips, in interleaved rounds.

    python benchmarks/lightning_tax/run.py

Both sides do for every batch of 16-frame clips: gradients (vectorised and pipelined Sideways), AdamW, the schedule.
`fit` adds Lightning's loops, the loader, and our logging of figures every ten batches; no logger writes them.
"""

import json
import platform
import statistics
import time
from pathlib import Path

from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from lightning import LightningDataModule, Trainer, seed_everything  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from app.comparison.formats import markdown_table  # noqa: E402
from app.comparison.provenance import code_version  # noqa: E402
from app.environment import cpu_model  # noqa: E402
from app.noise import without_noise  # noqa: E402
from lightning_modules.action_recognition import ActionRecognition  # noqa: E402
from lightning_modules.execution import clip_gradients  # noqa: E402
from lightning_modules.optimisation import set_gradients  # noqa: E402

BATCHES, ROUNDS, CLIPS, FRAMES, SIZE = 40, 7, 8, 16, 32
ROWS = {"sideways vectorised": "vectorised", "sideways pipelined": "pipelined"}
HERE = Path(__file__).parent


class Clips(LightningDataModule):
    """The same batches for both sides, ready in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = [
            {
                "video": torch.rand(CLIPS, FRAMES, 3, SIZE, SIZE),
                "label": torch.arange(CLIPS) % 4,
                "length": torch.full((CLIPS,), FRAMES),
            }
            for _ in range(BATCHES)
        ]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)


class Clock(Callback):
    """CPU time from the first batch to the end of the epoch: start-up is not a tax on batches."""

    def on_train_epoch_start(self, *_: object) -> None:
        self.start = time.process_time()

    def on_train_epoch_end(self, *_: object) -> None:
        self.ms = 1000 * (time.process_time() - self.start)


def model(executor: str) -> ActionRecognition:
    seed_everything(0, verbose=False)
    return ActionRecognition(num_classes=4, wiring="concat", executor=executor)


def cpu_ms_of_fit(executor: str, data: Clips) -> float:
    """Return the CPU time of `fit` in ms a batch, start-up left out."""
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=10, limit_val_batches=0,
    )  # fmt: skip
    module, clock = model(executor), Clock()
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    return clock.ms / BATCHES


def cpu_ms_of_loop(executor: str, data: Clips) -> float:
    """Return the CPU time of the bare loop in ms a batch."""
    module = model(executor)
    optimizer = torch.optim.AdamW(module.network.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=BATCHES + 1)
    start = time.process_time()
    for batch in data.batches:
        result = clip_gradients(
            module.network,
            batch["video"],
            batch["label"],
            rule=module.rule,
            executor=executor,
            lengths_B=batch["length"],
        )
        set_gradients(module.network, result.gradients)
        optimizer.step()
        schedule.step()
    return 1000 * (time.process_time() - start) / BATCHES


def main() -> None:
    """Measure both sides in turns and write results.md and results.json."""
    torch.set_num_threads(1)
    data, rows = Clips(), []
    with without_noise(quiet=True):
        times = {name: ([], []) for name in ROWS}
        for number in range(ROUNDS + 1):
            for name, executor in ROWS.items():
                pair = cpu_ms_of_fit(executor, data), cpu_ms_of_loop(executor, data)
                if number:  # the first round warms up
                    for found, value in zip(times[name], pair, strict=True):
                        found.append(value)
    for name, (fit, loop) in times.items():
        ratio = statistics.median(f / b for f, b in zip(fit, loop, strict=True))
        rows.append([name, f"{statistics.median(fit):.1f}", f"{statistics.median(loop):.1f}", f"{ratio:.3f}"])
    header = ("row", "fit, CPU ms / batch", "loop, CPU ms / batch", "fit / loop (median of rounds)")
    about = (
        f"Commit {code_version()}; Python {platform.python_version()}, torch {torch.__version__}; {cpu_model()}; one "
        f"thread, {ROUNDS} rounds of {BATCHES} batches of {CLIPS} clips, {FRAMES} frames {SIZE}x{SIZE}, "
        "small CNN concat."
    )
    met = all(float(row[-1]) <= 1.05 for row in rows)
    goal = f"Goal: at most 1.05: {'met' if met else 'missed'}."
    text = "\n\n".join(["# What Lightning costs", "    python benchmarks/lightning_tax/run.py", about,
                        markdown_table(header, rows).strip(), goal]) + "\n"  # fmt: skip
    (HERE / "results.md").write_text(text)
    (HERE / "results.json").write_text(json.dumps({"about": about, "times_ms": times}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
