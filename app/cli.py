"""The command `skip-sideways`: finds the subcommand's module and shows errors without a traceback.

Nothing heavy is imported here: `skip-sideways --help` and an unknown subcommand answer at once.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Callable

TRAINER_COMMANDS = {
    "fit": "train a network on videos, or a memory on long streams",
    "validate": "score a checkpoint on the validation clips",
    "test": "score a checkpoint on the test clips",
    "predict": "write a checkpoint's predictions: classes or numbers to a table, frames to a folder",
}
OTHER_COMMANDS = {
    "compare": "run a grid of rules, wirings, folds and seeds, and write its table",
    "sweep": "search an experiment's settings: samplers, pruners, several objectives; resumable",
    "bench": "time training steps and inference ticks, and measure memory",
    "probes": "measure sketched gradients' errors on a network's own data, and suggest a number of probes",
    "dashboard": "compare runs in the browser, on this machine only",
    "data": "index videos, verify them, list what is missing or broken",
    "doctor": "check this machine: versions, decoder, run store, devices, disk",
}
COMMANDS = {**TRAINER_COMMANDS, **OTHER_COMMANDS}
DEBUG_VARIABLE = "SKIP_SIDEWAYS_DEBUG"
FAILED, INTERRUPTED, TERMINATED = 2, 130, 143


def help_text() -> str:
    """Return the top-level help: every subcommand with one line."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    return (
        "usage: skip-sideways COMMAND [options]\n\n"
        "Train video networks without blocking: Sideways, Skip-Sideways, greedy modules, and honest controls.\n\n"
        f"commands:\n{rows}\n\n"
        "first run:   skip-sideways fit --data MovingDigits --model.wiring concat --model.gradient_edges newest "
        "--model.lr 6e-3\n"
        "memory:      skip-sideways fit --data CuedVideo --model LongMemory\n"
        "rules:       --model.rule sideways, greedy, greedy_frame, backprop_frame, backprop_shifted, backprop\n"
        "             of LongMemory: memup, truncated_backprop, full_backprop\n"
        "all options: skip-sideways COMMAND --help\n"
        "             skip-sideways fit --model.help ActionRecognition (FutureFrames, LongMemory);\n"
        "             skip-sideways fit --data.help MovingDigits\n"
        f"tracebacks:  {DEBUG_VARIABLE}=1 skip-sideways COMMAND ..."
    )


def unknown_command(name: str) -> str:
    """Return the error for a subcommand that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    guess = f" Did you mean `skip-sideways {near[0]}`?" if near else ""
    return f"there is no command {name!r}; expected one of {', '.join(COMMANDS)}.{guess}"


def command(name: str) -> Callable[[list[str]], int]:
    """Return the function `(argv) -> exit status` behind a subcommand."""
    if name in TRAINER_COMMANDS:
        from app.trainer_cli import run_subcommand

        return lambda argv: run_subcommand(name, argv)
    return importlib.import_module(f"app.{name}").main


def main(argv: list[str] | None = None) -> int:
    """Run `skip-sideways` with `argv` (default: the command line) and return the exit status.

    0 for success, 2 for an error that the user can mend, 130 and 143 where Ctrl-C and SIGTERM ended the run.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return 0 if argv else FAILED
    if argv[0] not in COMMANDS:
        return fail(unknown_command(argv[0]))
    try:
        return command(argv[0])(argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:
        if type(stop).__name__ == "SIGTERMException":  # Lightning's; it would exit with 0
            return TERMINATED
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning has ended the run and exits
            return INTERRUPTED
        raise
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return fail(user_message(error))
    except Exception as error:
        # Named by text: Lightning's own misuse error, and ours of a stage, would have to be imported to be named.
        if os.environ.get(DEBUG_VARIABLE) or type(error).__name__ not in ("MisconfigurationException", "StageError"):
            raise
        return FAILED if getattr(error, "told_elsewhere", False) else fail(str(error))


def user_message(error: BaseException) -> str:
    """Return an error's text, without what the option parser wraps around a class's own error."""
    text = str(error) or type(error).__name__
    if "Union subtypes" in text:
        from app.parser import plain_message

        return plain_message(text)
    if "specified number of total steps" in text:  # torch's OneCycleLR
        return (
            f"The checkpoint's learning-rate schedule ends before this run does ({text}). Go on with the same "
            "--trainer.max_epochs or --trainer.max_steps, or train with --model.schedule constant from the start."
        )
    return text


def fail(message: str) -> int:
    """Print the message on standard error and return the status for it: one line, or a list with its lines kept."""
    listed = "\n  " in message  # as our own lists are set: two spaces before each item
    text = "\n".join(line.rstrip() for line in message.splitlines()) if listed else " ".join(message.split())
    print(f"skip-sideways: error: {text}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
