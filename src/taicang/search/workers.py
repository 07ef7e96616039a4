"""Who evaluates the points of a study: this process, a pool of processes, or a Ray cluster.

A worker that dies costs its own point, which another takes over. Workers end with the process that started them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import active_children, get_context, parent_process
from typing import Any, TypeAlias

from taicang.errors import InvalidInput, NotModelled
from taicang.search.evaluate import Evaluate, failed

Task: TypeAlias = tuple[int, Mapping[str, Any]]
Row: TypeAlias = dict[str, Any]
AHEAD = 4
"""Points in flight per worker."""
DEATHS = 3
"""Times that a pool may break without finishing a point in between, and a point may kill its worker."""


def row_of(task: Task, evaluate: Evaluate) -> Row:
    """The row of a point: its number, its values and what they give."""
    index, point = task
    return {"point": index, **point, **evaluate(point)}


def local(tasks: Iterable[Task], workers: int, evaluate: Evaluate) -> Iterator[Row]:
    """Rows as they finish, from ``workers`` processes (one: in this one)."""
    if workers == 1:
        yield from (row_of(task, evaluate) for task in tasks)
        return
    left, deaths = dict(tasks), 0
    while left:
        try:
            with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
                for row in _flow(pool, list(left.items()), workers * AHEAD, evaluate):
                    del left[row["point"]]
                    deaths = 0
                    yield row
        except BrokenProcessPool:
            deaths += 1
            if deaths == DEATHS:  # one of the points in flight kills whoever takes it: each gets a worker of its own
                for task in list(left.items())[: workers * AHEAD]:
                    yield _alone(task, evaluate)
                    del left[task[0]]
                deaths = 0


def _alone(task: Task, evaluate: Evaluate) -> Row:
    with ProcessPoolExecutor(1, get_context("spawn"), _end_with_parent) as pool:
        try:
            return pool.submit(row_of, task, evaluate).result()
        except BrokenProcessPool:
            return _killed(task)
        except BaseException:
            _stop()
            raise


def _killed(task: Task) -> Row:
    return {"point": task[0], **task[1], **failed("crashed: the process that evaluated it died")}


def _stop() -> None:
    """End this process's workers now: what they are at is lost, and done again by who goes on."""
    for worker in active_children():
        worker.terminate()


def _end_with_parent() -> None:
    """Make this worker end when its parent does, even where the parent was killed and could not say so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback of its own
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent,), daemon=True).start()


def _outlive(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _flow(pool: ProcessPoolExecutor, tasks: list[Task], ahead: int, evaluate: Evaluate) -> Iterator[Row]:
    waiting = iter(tasks)
    flying = {pool.submit(row_of, task, evaluate) for _, task in zip(range(ahead), waiting, strict=False)}
    try:
        while flying:
            finished, flying = wait(flying, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
                flying |= {pool.submit(row_of, task, evaluate) for _, task in zip(range(1), waiting, strict=False)}
    except BaseException:  # stopped early: without workers only the pool's own thread is waited for
        _stop()
        pool.shutdown(cancel_futures=True)
        raise


def cluster() -> Any:
    """Ray. Raises ``NotModelled`` without it."""
    try:
        return import_module("ray")
    except ImportError:
        raise NotModelled("--workers ray needs Ray: pip install 'taicang[ray]'") from None


def on_ray(tasks: Iterable[Task], address: str | None, evaluate: Evaluate) -> Iterator[Row]:
    """Rows as they finish on a Ray cluster (``address``: none starts one here). Raises ``NotModelled`` without Ray."""
    ray = cluster()
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError as error:
        raise InvalidInput(" ".join(str(error).split()), where="--address") from None
    remote = ray.remote(max_retries=DEATHS)(row_of)
    waiting = iter(tasks)
    room = int(ray.cluster_resources().get("CPU", 1)) * AHEAD
    flying = {remote.remote(task, evaluate): task for _, task in zip(range(room), waiting, strict=False)}
    while flying:
        for reference in ray.wait(list(flying))[0]:
            task = flying.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.WorkerCrashedError:
                yield _killed(task)
            flying |= {remote.remote(task, evaluate): task for _, task in zip(range(1), waiting, strict=False)}
