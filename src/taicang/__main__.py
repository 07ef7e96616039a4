"""``python -m taicang``, and the command ``taicang``."""

import signal
import sys
import threading
from contextlib import suppress


def main() -> None:
    """Run the command; who interrupts it while it is loaded is not shown where that was."""
    sys.unraisablehook = _struck_again
    try:
        from taicang.app.main import main as command  # noqa: PLC0415

        command()
    except (KeyboardInterrupt, RuntimeError) as error:
        # Python up to 3.11 makes the latter of Ctrl-C while a class is made
        if not isinstance(error.__cause__ if isinstance(error, RuntimeError) else error, KeyboardInterrupt):
            raise
        sys.stderr.write("taicang: interrupted\n")
        sys.exit(130)
    except EOFError as error:
        removed = _without_cut(error)
        if not removed:
            raise
        sys.stderr.write(f"taicang: {removed} compiled files were cut short, as by a full disk; run it again\n")
        sys.exit(2)


def _struck_again(lost: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C that fell into a finalizer, where Python drops every exception: strike again a moment later."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    thread = threading.main_thread().ident
    for wait_s in (0.005 * 2.0**each for each in range(12)):
        # a signal to the thread itself, which ends a wait in the system too
        again = threading.Timer(wait_s, signal.pthread_kill, [thread, signal.SIGINT])
        again.daemon = True
        try:
            with suppress(RuntimeError):  # Python is on its way out: there is nothing left to interrupt
                again.start()
        except KeyboardInterrupt:  # on a busy machine it may strike before this is over, to be dropped again
            continue
        return


def _without_cut(error: EOFError) -> int:
    """Remove the compiled modules, of ours and beside the one that failed, that end too early; how many they were.

    Python puts such a file in place as if it were whole when the disk fills while it is written, and fails at it for
    ever after.
    """
    import marshal  # noqa: PLC0415
    from importlib.util import cache_from_source  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    failed = trace.tb_frame.f_locals.get("bytecode_path") if trace else None
    if not failed:
        return 0
    ours = (Path(cache_from_source(str(each))) for each in Path(__file__).parent.rglob("*.py"))
    removed = 0
    for each in {*Path(failed).parent.glob("*.pyc"), *ours}:
        if not each.exists():
            continue
        try:
            marshal.loads(each.read_bytes()[16:])
        except (EOFError, ValueError, TypeError):
            each.unlink()
            removed += 1
    return removed


if __name__ == "__main__":
    main()
