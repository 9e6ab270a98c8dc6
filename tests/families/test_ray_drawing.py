"""Workers of a Ray cluster draw what one process draws."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event

import psutil
import pytest
import torch
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.errors import ServerFailed
from erasediff.families import family_of, open_pipeline
from erasediff.families.resuming import resumable
from erasediff.families.sharing import Places, at_once

ASKED, SEEDS = [f"a {colour} star" for colour in ("red", "green", "blue") for _ in range(3)], list(range(9))
HOW = {"steps": 2, "batch_size": 2}
ALONE = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.mark.unit
def test_without_a_cluster_nothing_is_changed():
    places, family = Places(), family_of(tiny_stable_diffusion())
    assert places.number == 1 and places.drawing(family) is family


class Elsewhere:
    """Draws one number a picture. A batch is done only after the next of its three: they have to be drawn at once."""

    def __init__(self):
        self.denoiser, self.image_shape = torch.nn.Linear(1, 1), (1, 1, 1)
        self.done = {first: Event() for first in range(0, len(SEEDS), 2)}

    def sample(self, prompts, seeds, *, batch_size=2, **how):
        first = seeds[0]
        if first % 6 < 4 and first + 2 in self.done:
            assert self.done[first + 2].wait(timeout=60)
        self.done[first].set()
        return torch.tensor(seeds)[:, None]


@pytest.mark.unit
def test_batches_that_are_drawn_at_once_come_in_their_order_and_are_kept_one_by_one(tmp_path):
    drawn = at_once(resumable(Elsewhere(), tmp_path, "model"), 3).sample(ASKED, SEEDS)
    assert drawn[:, 0].tolist() == SEEDS
    assert len(list(tmp_path.iterdir())) == 5  # of two pictures, the last of one


@pytest.mark.unit
def test_a_cluster_without_ray_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ServerFailed, match="take the extra ray, or name none"):
        Places(cluster="10.0.0.1:6379")


@pytest.mark.unit
def test_a_cluster_that_does_not_answer_is_one_line():
    pytest.importorskip("ray", reason="needs the extra system: ray")
    with pytest.raises(ServerFailed, match="no Ray cluster at ray://127.0.0.1:1 .*refused.*start it, or name none"):
        Places(cluster="ray://127.0.0.1:1")


def draw_on_ray(folder):
    """Draw, and once more after all workers were killed; nothing that is kept is drawn again."""
    torch.set_num_threads(1)
    family, places = family_of(open_pipeline(folder / "model")), Places(cluster="local")
    spread = places.drawing(family, lambda own: resumable(own, folder / "kept", "model"))
    torch.save((places.number, spread.sample(ASKED, SEEDS, **HOW)), folder / "first.pt")
    kept = {path: path.stat().st_mtime_ns for path in (folder / "kept").iterdir()}
    workers = [p for p in psutil.process_iter() if p.cmdline() and p.cmdline()[0] in ("ray::IDLE", "ray::_draw")]
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            os.kill(worker.pid, signal.SIGKILL)
    more = spread.sample([*ASKED, *ASKED[:2]], [*SEEDS[:8], 8, 20, 21], **HOW)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    torch.save((len(workers), more), folder / "second.pt")


@pytest.mark.system
@pytest.mark.slow
def test_workers_of_ray_draw_what_one_process_draws_also_after_they_were_killed(tmp_path):
    """In a network of its own: Ray may listen on every interface."""
    pytest.importorskip("ray", reason="needs the extra system: ray")
    if not shutil.which("unshare") or subprocess.run([*ALONE, "ip", "link"], capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace, and iproute2")
    tiny_stable_diffusion().save_pretrained(tmp_path / "model")
    command = 'ip link set lo up && exec "$@"'
    subprocess.run(
        [*ALONE, "bash", "-c", command, "bash", sys.executable, __file__, str(tmp_path)],
        check=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
    )
    torch.set_num_threads(1)
    family = family_of(open_pipeline(tmp_path / "model"))
    number, first = torch.load(tmp_path / "first.pt", weights_only=True)
    workers, second = torch.load(tmp_path / "second.pt", weights_only=True)
    assert number == os.cpu_count() and workers > 0
    assert torch.equal(first, family.sample(ASKED, SEEDS, **HOW))
    assert torch.equal(second, family.sample([*ASKED, *ASKED[:2]], [*SEEDS, 20, 21], **HOW))


if __name__ == "__main__":
    draw_on_ray(Path(sys.argv[1]))
