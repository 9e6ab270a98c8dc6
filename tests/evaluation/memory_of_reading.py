"""Prints the most anonymous memory that is held while so many pictures are read and measured, in bytes; run apart."""

import re
import sys
import threading
import time
from pathlib import Path

import torch

from erasediff.evaluation.numbers import numbers_of
from erasediff.evaluation.protocol import Plan
from erasediff.evaluation.reading import Reader
from erasediff.metrics import distance, pictures

SIDE, CONCEPTS = 32, ("a", "b", "c", "d")
# As small as the counts here are.
pictures.HELD, distance.ROWS, distance.COLUMNS = 2**20, 128, 256


class Judge:
    concepts, image_shape, fingerprint = CONCEPTS, (3, SIDE, SIDE), "judge"

    def read(self, images):
        features = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return torch.eye(4)[(features.sum(1) * 1e4).long() % 4], features


def drawn(count):
    for batch in range(count // 50):
        yield torch.rand(50, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(batch)) * 2 - 1


def anonymous():
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def most_held(count):
    """Above what was held before."""
    reader, most, done, before = Reader(Judge(), Plan(HELD_OUT, ["a"], training=HELD_OUT)), 0, False, anonymous()

    def watch():
        nonlocal most
        while not done:
            most = max(most, anonymous())
            time.sleep(0.001)

    watching = threading.Thread(target=watch)
    watching.start()
    numbers_of([reader.read_all(drawn(count), [c for c in CONCEPTS for _ in range(count // 4)])], 0, 2)
    done = True
    watching.join()
    return most - before


HELD_OUT = next(drawn(50)).repeat(3, 1, 1, 1) + torch.randn(150, 3, SIDE, SIDE) / 10
most_held(400)  # what is loaded once
print(*(most_held(int(count)) for count in sys.argv[1:]))
