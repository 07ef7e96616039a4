"""Ranks that wait for what never comes: found by what their processes do, and by where in the program they stand."""

from __future__ import annotations

import linecache
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

ASKED = signal.SIGRTMAX - 2
"""The signal on which a rank writes down where it stands; programs use others for themselves."""
EVERY_S = 0.5
"""Between two looks."""
IDLE_S = 10.0
"""All ranks wait if none of them did anything for so long."""
BUSY = 0.04
"""Of a core: a thread that looks for its peers again and again takes less."""
LONGEST_S = 5.0
"""That a rank is waited for to write it down."""
AWAKE = 0.5
"""Of all looks: ranks that work are hardly ever all asleep."""
ELSEWHERE = ("pdb.py", "bdb.py", "cmd.py", "code.py", "getpass.py", "socket.py", "ssl.py", "subprocess.py")
"""Modules in which a program waits for a person, the network or another program: none of our business."""


class Watch:
    """Looks at processes from time to time; ``idle`` once they all have waited long enough."""

    def __init__(self, processes: Sequence[int]) -> None:
        self.processes = processes
        self.looks: list[tuple[float, float, bool]] = []

    def idle(self) -> bool:
        """Whether nothing was done in the last seconds, by the processes or by any that they started."""
        now = time.monotonic()
        if self.looks and now - self.looks[-1][0] < EVERY_S:
            return False
        used = [_used(process) for process in self.processes]
        self.looks.append((now, sum(each[0] for each in used), any(each[1] for each in used)))
        begin = self.looks[0]
        if now - begin[0] < IDLE_S:
            return False
        awake = sum(each[2] for each in self.looks) / len(self.looks)
        spent_s = self.looks[-1][1] - begin[1]
        still = awake < AWAKE and spent_s < BUSY * len(self.processes) * (now - begin[0])
        self.looks = [] if still else self.looks[len(self.looks) // 2 :]
        return still


def _used(process: int) -> tuple[float, bool]:
    """Seconds of the processor that a process and its descendants took, and whether one of them takes more now."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        children = [int(each) for path in Path(f"/proc/{process}/task").glob("*/children")
                    for each in path.read_text().split()]  # fmt: skip
    except OSError:  # ended meanwhile
        return 0.0, True
    found = [_used(each) for each in children]
    spent_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent_s + sum(each[0] for each in found), fields[0] in "RD" or any(each[1] for each in found)


def where(process: int, path: Path, script: Path) -> str:
    """Ask a rank where it stands: ``file:line`` of the program; nothing where it waits for somebody else's answer."""
    os.kill(process, ASKED)
    begun = time.monotonic()
    # frame by frame, the program's own last: on a busy machine the first bytes are not all
    while " in <module>" not in (text := path.read_text()) and time.monotonic() - begun < LONGEST_S:
        time.sleep(0.05)
    found = re.findall(r'File "(.+)", line (\d+) in', text)
    if not found:
        return script.name
    innermost, line = found[0]
    if Path(innermost).name in ELSEWHERE or re.search(r"\binput\(|stdin", linecache.getline(innermost, int(line))):
        return ""
    home = f"{script.resolve().parent}/"
    mine = next((each for each in found if os.path.abspath(each[0]).startswith(home)), (script.name, ""))
    return ":".join(filter(None, (os.path.abspath(mine[0]).removeprefix(home), mine[1])))
