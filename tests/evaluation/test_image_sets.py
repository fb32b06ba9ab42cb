from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from tiny import draw_images

from fsgen.data.images import load_images
from fsgen.data.streaming import open_images
from fsgen.errors import Code
from fsgen.evaluation import accumulators, image_sets
from fsgen.models import model as models
from fsgen.sampling import sampler

CPU = torch.device("cpu")


def whole(images, batch, most=1000):
    return torch.cat(list(images.batches(batch, most)))


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_a_model_is_its_seeds_as_8_bit_pictures(tiny, batch):
    images = image_sets.sample_set(models.load_model(tiny), "name", "subject", range(4, 9), 0.7, CPU)
    assert torch.equal(whole(images, batch), sampler.load(tiny, device="cpu").sample(5, 4, 0.7))
    assert torch.equal(whole(images, batch, most=2), whole(images, 5)[:2])
    assert (images.n, images.resolution, images.channels) == (5, 16, 3)


def test_what_is_looked_at_is_named_exactly(tiny):
    model = models.load_model(tiny)
    keys = {
        image_sets.sample_set(model, "name", "source", seeds, truncation, CPU).key
        for seeds in (range(4), range(5), range(1, 5)) for truncation in (0.7, 1.0)
    }  # fmt: skip
    assert len(keys) == 6


@pytest.mark.parametrize("batch", [2, 30])
def test_flipped_reals_are_half_of_them_by_the_seed_whatever_the_batch(tmp_path, batch):
    stream = open_images(draw_images(tmp_path, 30))
    plain = whole(image_sets.file_set(stream, "real", "real", 16, 3, "crop"), batch)
    flipped = image_sets.file_set(stream, "real", "real", 16, 3, "crop", flip=5)
    found = whole(flipped, batch)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(found, plain, strict=True)]
    assert 8 < sum(mirrored) < 22
    assert all(torch.equal(a, b) for a, b, m in zip(found, plain, mirrored, strict=True) if not m)
    assert torch.equal(found, whole(flipped, 7)) and torch.equal(found[:4], whole(flipped, batch, most=4))
    other = image_sets.file_set(stream, "real", "real", 16, 3, "crop", flip=6)
    assert not torch.equal(found, whole(other, batch)) and other.key != flipped.key


def test_images_of_a_folder_are_taken_at_the_size_of_the_first(tmp_path):
    draw_images(tmp_path, 3)
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(tmp_path / "z.png")
    images = image_sets.open_evaluated(tmp_path, None, "crop", lambda line: None)
    assert (images.n, images.resolution) == (4, 20)
    assert torch.equal(whole(images, 2), load_images(tmp_path, 20).pixels) and images.stream.resized == 1
    assert image_sets.open_evaluated(tmp_path, 2, "crop", lambda line: None).n == 2
    with refused(Code.TOO_FEW, tmp_path / "z.png"):
        image_sets.open_evaluated(tmp_path / "z.png", None, "crop", lambda line: None)


def test_thumbnails_are_small_and_small_pictures_stay():
    rng = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (2, 3, 64, 64), generator=rng).to(torch.uint8)
    assert torch.equal(accumulators.thumbnails(small), small)
    large = small.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(accumulators.thumbnails(large), small.repeat_interleave(2, 2).repeat_interleave(2, 3))
