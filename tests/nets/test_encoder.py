"""What reads single observations: as Stable-Baselines3 reads them, bit for bit."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN

from metagym.nets.encoder import RowEncoder, encoder_class_of

FIRST, LAST = (spaces.Box(0, 255, shape, np.uint8) for shape in ((3, 40, 36), (40, 36, 3)))
VECTORS = {
    "bits": spaces.MultiBinary(3),
    "field": spaces.MultiDiscrete([2, 3]),
    "kind": spaces.Discrete(4),
    "matrix": spaces.Box(-1, 1, (2, 2)),
}
ENTRIES = spaces.Dict(VECTORS | {"image": FIRST})


def make(space, kind=None, kwargs=None, *, normalize_images=True):
    th.manual_seed(0)
    return RowEncoder(space, kind, kwargs, normalize_images)


def batch(space, size=5):
    space.seed(0)
    rows = [space.sample() for _ in range(size)]
    if not isinstance(space, spaces.Dict):
        return th.as_tensor(np.stack(rows))
    return {name: th.as_tensor(np.stack([row[name] for row in rows])) for name in space}


@pytest.mark.parametrize(
    ("space", "kind"),
    [(ENTRIES, CombinedExtractor), (FIRST, NatureCNN), (spaces.Box(-1, 1, (3,)), FlattenExtractor)],
)
def test_the_extractor_of_a_space_is_sb3s(space, kind):
    assert encoder_class_of(space) is kind


def test_features_are_to_the_bit_those_of_sb3():
    encoder, rows = make(ENTRIES), batch(ENTRIES)
    th.manual_seed(0)
    extractor = CombinedExtractor(ENTRIES)
    assert th.equal(encoder(rows), extractor(preprocess_obs(rows, ENTRIES)))
    assert encoder.features_dim == 256 + 3 + 5 + 4 + 4
    assert isinstance(encoder.features_dim, int)


def test_an_image_is_divided_by_255_and_its_channels_come_first():
    seen = []
    for space in (FIRST, LAST):
        encoder = make(space)
        encoder.reader.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        image = batch(FIRST)
        encoder({"observation": image if space is FIRST else image.movedim(1, -1)})
    assert th.equal(seen[0], batch(FIRST) / 255)
    assert th.equal(seen[0], seen[1])
    assert th.equal(make(FIRST)({"x": batch(FIRST)}), make(LAST)({"x": batch(FIRST).movedim(1, -1)}))


def test_images_that_are_normalised_already_stay_as_they_are():
    space = spaces.Dict(image=spaces.Box(0, 1, (3, 36, 36)), place=spaces.Box(-1, 1, (2,)))
    encoder = make(space, kwargs={"cnn_output_dim": 8}, normalize_images=False)
    assert isinstance(encoder.reader.extractors["image"], NatureCNN)
    rows = batch(space)
    expected = encoder.reader.extractors["image"](rows["image"])
    assert th.equal(encoder(rows)[:, :8], expected)
    assert make(space).features_dim == 3 * 36 * 36 + 2  # SB3 reads floats as vectors


def test_pictures_too_small_for_convolutions_are_read_as_vectors():
    space = spaces.Dict(small=spaces.Box(0, 255, (5, 4, 3), np.uint8))
    encoder, rows = make(space), batch(space)
    assert th.equal(encoder(rows), rows["small"].flatten(1) / 255)
    assert encoder.features_dim == 60


def test_discrete_numbers_are_one_hot_wherever_they_start():
    space = spaces.Dict(field=spaces.MultiDiscrete([2, 3], start=[1, -1]), kind=spaces.Discrete(3, start=5))
    rows = {"field": th.tensor([[1, 1], [2, -1]]), "kind": th.tensor([5, 7])}
    expected = [[1, 0, 0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0, 1]]
    assert make(space)(rows).tolist() == expected
