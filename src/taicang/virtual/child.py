"""The process of one rank: the device is put in place, the program runs, what it did is written down."""

from __future__ import annotations

import faulthandler
import gc
import io
import os
import runpy
import sys
from pathlib import Path
from typing import cast

from taicang.virtual.later import hasten
from taicang.virtual.spec import Enough, Missing, read
from taicang.virtual.watch import ASKED


def main(path: str) -> int:
    """Run the job in the file ``path``; the status is the program's."""
    job = read(Path(path))
    faulthandler.enable()
    for each in (sys.stdout, sys.stderr):  # ranks share them: a line is written whole, PYTHONUNBUFFERED or not
        cast(io.TextIOWrapper, each).reconfigure(line_buffering=True, write_through=False)
    stands = Path(job.out, f"stands-{job.rank}").open("w")  # noqa: SIM115  # open while the process lives
    faulthandler.register(ASKED, stands, all_threads=False)
    gc.disable()  # nothing of what is imported goes away
    hasten()
    from taicang.virtual.session import Session

    session = Session(job)
    gc.freeze()
    gc.enable()
    status = 0
    failure = ""
    sys.argv = [job.script, *job.arguments]
    sys.path[0] = str(Path(job.script).resolve().parent)
    try:
        runpy.run_path(job.script, run_name="__main__")
    except Enough:
        pass
    except Missing as error:
        Path(job.out, f"missing-{job.rank}").write_text(" ".join(map(str, error.ranks)))
        os._exit(1)
    except SystemExit as error:
        code = error.code
        if code not in (None, 0) and not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
        status = code if isinstance(code, int) else 0 if code is None else 1
    except BaseException as error:  # whatever ends the program is shown as Python shows it
        from taicang.virtual.ends import refused, show

        if said := refused(error, Path(job.script)):
            Path(job.out, f"refused-{job.rank}").write_text(said)
            os._exit(2)
        show(error)
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
        if type(error).__name__ == "OutOfMemoryError":
            failure = str(error)
    session.finish(failure)
    sys.stdout.flush()
    sys.stderr.flush()
    gc.disable()
    os._exit(status)  # the device's tables outlive nothing that a program may do at its exit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
