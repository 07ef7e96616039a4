"""A few bytes that stand for very many, and files in the encodings of other systems."""

import gzip
import io
import shlex
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hostile_files

from taicang import reading
from taicang.interop import chakra
from taicang.virtual.capture import save


def archive(path):
    with tarfile.open(path, "w:xz") as made:
        entry = tarfile.TarInfo("chunk-1-trace.csv")
        entry.size = 1 << 21
        made.addfile(entry, io.BytesIO(b"0" * entry.size))
    return "trace", "info", path


def arrays(path):
    save(hostile_files.capture(), path)
    np.savez_compressed(path / "rank-0.npz", work=np.zeros(1 << 18, np.int64))
    return "reprice", path, "--on", "hgx-h100"


def nodes(path):
    path.write_bytes(gzip.compress(b"\0" * (1 << 21)))
    return "fabric", "run", path, "--on", "hgx-h100"


@pytest.mark.parametrize(("make", "name"), [(archive, "c.tar.xz"), (arrays, "capture"), (nodes, "w.et.gz")])
def test_what_unpacks_to_more_than_is_read_is_refused(make, name, taicang, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LINE", 1 << 20)
    monkeypatch.setattr(reading, "DOCUMENT", 1 << 20)
    monkeypatch.setattr(chakra, "MOST_NODES", 1 << 10)
    code, _, said = taicang(*make(tmp_path / name))
    assert (code, said.count("\n")) == (2, 1)
    assert "longer than" in said or "more than" in said


def test_few_bytes_of_very_many_values_are_refused(taicang, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "VALUES", 1000)
    for text in ("[" + "[]," * 1000 + "[]]", "[" * 1001, '{"a":' * 1001, "[" + "1," * 1001 + "1]"):
        (tmp_path / "v.json").write_text(text)
        code, _, said = taicang("view", tmp_path / "v.json", "--html", tmp_path / "v.html")
        assert (code, said.count("\n")) == (2, 1)
        assert "more than 1,000 values" in said


def test_a_generous_limit_takes_no_memory(tmp_path):
    for data in (b"x" * 3, gzip.compress(b"x" * 3)):
        (tmp_path / "f").write_bytes(data)
        assert reading.data(tmp_path / "f", most=1 << 60, packed=True) == b"xxx"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_question_in_the_encoding_of_another_shell(encoding, taicang, tmp_path):
    file, text = tmp_path / "q.yaml", "ask: infer\nmodel: llama-3.1-8b\non: hgx-h100\ntp: 1\nbatch: 4\nmode: agg\n"
    answers = []
    for made in (text.encode(), text.replace("\n", "\r\n").encode(encoding)):
        file.write_bytes(made)
        answers.append(taicang("ask", file, "--json"))
    assert answers[0] == answers[1] or (encoding == "utf-16-le" and answers[1][0] == 2)  # without a mark nobody knows


def test_a_workload_cut_in_its_gzip_is_told(taicang, tmp_path):
    whole, file = gzip.compress(hostile_files.SIMAI.encode()), tmp_path / "w.txt.gz"
    for at in range(2, len(whole), 3):
        file.write_bytes(whole[:at] + b"\xff\xff\xff" + whole[at + 3 :])
        code, _, said = taicang("fabric", "run", file, "--on", "hgx-h100")
        assert code in (0, 2)
        assert "Traceback" not in said


NESTED = {
    "journal.jsonl": ("{0}\n", "sweep query {1} 'select 1'"),
    "a.json": ("{0}", "check {1}/a.csv llama-3.1-8b --on hgx-h100"),
    "m.txt": (":::MLLOG {0}\n", "check {1}/m.txt llama-3.1-8b --on hgx-h100"),
    "chunk-0-dataset.json": ("{0}", "trace info {1}"),
    "t.jsonl": ("{0}\n", "trace info {1}/t.jsonl"),
    "q.json": ("{0}", "ask {1}/q.json"),
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("opened", ["[", '{"a":', "[1,"])
def test_what_is_nested_without_end_is_told(name, opened, taicang, tmp_path):
    written, words = NESTED[name]
    (tmp_path / "a.csv").write_text("Performance Parameters,Stage,Average\nE2EL,total,12 ms\nTTFT,total,1 ms\n")
    (tmp_path / "chunk-0-trace.csv").write_text("0,1,1,Poisson,1\n")
    (tmp_path / name).write_text(written.format(opened * 50_000))
    code, _, said = taicang(*shlex.split(words.format("", tmp_path)))
    assert (code, said.count("\n")) == (2, 1), said
