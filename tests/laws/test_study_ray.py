"""The same study on a real local Ray of two workers, one of which is killed midway."""

import os
import signal

import pytest

from taicang.app.study_points import served as evaluate
from taicang.search import workers

ray = pytest.importorskip("ray", reason="Ray is an extra")


def test_a_ray_worker_that_is_killed_costs_no_point(tmp_path, monkeypatch):
    mark = str(tmp_path / "mark")

    def row_of(task, _):  # defined here, so that it travels by value
        index, point = task
        if index == 5 and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"point": index, **point, **evaluate(point)}

    base = {"model": "llama-3.1-8b", "on": "hgx-h100", "tp": 1, "mode": "agg"}
    tasks = [(i, base | {"batch": i + 1}) for i in range(20)]
    expected = [{"point": index, **point, **evaluate(point)} for index, point in tasks]
    monkeypatch.setattr(workers, "row_of", row_of)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        rows = sorted(workers.on_ray(tasks, None, evaluate), key=lambda row: row["point"])
    finally:
        ray.shutdown()
    assert os.path.exists(mark)
    assert rows == expected
