"""The demo: its input, its measurements, and the whole of it on a small stack."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from sharena.demo import images, measure
from sharena.demo.progress import Progress

pytest.importorskip("scipy")
Image = pytest.importorskip("PIL.Image")


def test_the_whole_demo(run_python, tmp_path):
    rng = np.random.default_rng(5)
    np.save(tmp_path / "in.npy", rng.integers(0, 999, (5, 60, 70), dtype=np.uint16))
    out = tmp_path / "out"
    done = run_python(
        "-m", "sharena", "demo", tmp_path / "in.npy", "--output", out, "--workers", 2
    )
    assert done.returncode == 0, done.stderr
    assert "5 planes of 60 x 70 uint16" in done.stdout
    assert "all results equal the single process's, bit for bit" in done.stdout
    rows = {}
    for line in done.stdout.splitlines():
        if line.endswith("MB") and line.count(".") >= 2:
            name, seconds, sent, peak, _, beyond, _ = line.split()
            rows[name] = (
                float(seconds),
                int(sent.replace(",", "")),
                float(peak),
                float(beyond),
            )
    assert list(rows) == ["sharena", "pickling", "multiprocessing.shared_memory"]
    plane = 60 * 70 * 2
    assert rows["pickling"][1] > 2 * 5 * plane  # there and back
    assert rows["sharena"][1] < 5 * 1000
    assert all(peak > 10 and beyond < peak - 10 for _, _, peak, beyond in rows.values())
    with Image.open(out / "sharena-demo.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    # 60 x 70 pixels, each shown as 9 x 9, in the grey scale of the plane before
    plane = np.load(tmp_path / "in.npy")[2]
    shown = np.interp(plane, (plane.min(), plane.max()), (0, 255)).repeat(9, 0).repeat(9, 1)
    assert np.abs(pixels[30 : 30 + 540, 12 : 12 + 630] - shown).max() < 2
    after = pixels[30 : 30 + 540, 654 : 654 + 630]
    assert after.std() < 0.7 * shown.std()  # filtered
    assert (pixels[600:] < 60).any()  # there is text


def test_what_cannot_be_read_is_said(run_python, tmp_path):
    for name, content in (("x.txt", b"hello"), ("x.npy", b"hello"), ("x.tif", b"hello")):
        (tmp_path / name).write_bytes(content)
        done = run_python("-m", "sharena", "demo", tmp_path / name)
        assert done.returncode == 2
        assert name in done.stderr
        assert "Traceback" not in done.stderr
    done = run_python("-m", "sharena", "demo", tmp_path / "missing.npy")
    assert done.returncode == 2
    assert "missing.npy" in done.stderr


def test_folders_of_images(tmp_path):
    for number, (size, mode) in enumerate([((40, 30), "L"), ((80, 60), "RGB")]):
        Image.new(mode, size, 100 + number).save(tmp_path / f"{number}.png")
    stack = images.load(tmp_path)
    assert stack.shape == (4, 30, 40)
    (tmp_path / "empty").mkdir()
    with pytest.raises(images.InputError, match="no image"):
        images.load(tmp_path / "empty")


def test_tiff_stacks(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    stack = np.arange(3 * 20 * 30, dtype=np.uint16).reshape(3, 20, 30)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack")
    np.testing.assert_array_equal(images.load(tmp_path / "s.tif"), stack)


def test_axes_before_the_last_two_are_planes(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 20, 30)))
    assert images.load(tmp_path / "a.npy").shape == (6, 20, 30)
    np.save(tmp_path / "a.npy", np.zeros((20, 30, 3)))
    assert images.load(tmp_path / "a.npy").shape == (3, 20, 30)
    for wrong in (np.zeros(5), np.zeros((0, 3, 3)), np.zeros((3, 3), bool)):
        np.save(tmp_path / "a.npy", wrong)
        with pytest.raises(images.InputError):
            images.load(tmp_path / "a.npy")


def test_the_built_in_stack_is_of_photographs():
    pytest.importorskip("skimage")
    stack = images.load(None)
    assert stack.ndim == 3
    assert len(stack) >= 30
    assert stack.dtype == np.float32
    assert 0 <= stack.min() < stack.max() <= 1
    assert all(plane.std() > 0.01 for plane in stack)
    bad = (stack == 0) | (stack == 1)
    assert all(plane.mean() > images.BAD * 0.9 for plane in bad)


def test_progress_counts_what_it_writes(monkeypatch, capsys):
    progress = Progress("x")
    progress.follow(range(3), 3)
    assert progress.written == 0  # no terminal, no bar
    monkeypatch.setattr(progress, "_shown", True)
    assert list(progress.over(iter("ab"), 2)) == ["a", "b"]
    err = capsys.readouterr().err
    assert len(err) == progress.written
    first, second = err.split("\r")[1:]
    assert re.search(r"] 1/2 +\d+\.\d/s +\d+\.\d s left", first)
    assert re.search(r"] 2/2 +\d+\.\d/s done +\n$", second)


def test_progress_tells_the_time_left(monkeypatch, capsys):
    clock = iter([100.0, 102.0, 104.0, 106.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock, 106.0))
    progress = Progress("x")
    monkeypatch.setattr(progress, "_shown", True)
    progress.follow(range(1), 5)
    assert "1/5    0.5/s   8.0 s left" in capsys.readouterr().err


HOLDER = r"""
import mmap, os, sys
descriptor = os.memfd_create("sharena:test")
os.ftruncate(descriptor, 32 << 20)
os.posix_fallocate(descriptor, 0, 32 << 20)
memory = mmap.mmap(descriptor, 32 << 20)
for page in range(0, 8 << 20, 4096):
    memory[page] = 1
child = os.fork()
for page in range(0, 8 << 20, 4096):
    memory[page]
os.write(1, b"ready\n")
sys.stdin.read()
"""


def test_memory_counts_shared_and_unmapped_pages_once():
    """32 MiB committed, 8 MiB of it mapped by two processes: 32 MiB and two Pythons."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "ready\n"
        assert child.stdout.readline() == "ready\n"
        assert len(measure.family(child.pid)) == 2
        used = measure.memory(child.pid) / (1 << 20)
        child.stdin.close()
    assert 32 < used < 32 + 2 * 20, used


def test_bytes_written_counts_pipes():
    receiving, sending = os.pipe()
    before = measure.bytes_written([os.getpid()])
    os.write(sending, b"x" * 1000)
    assert measure.bytes_written([os.getpid()]) - before == 1000
    os.close(receiving)
    os.close(sending)
