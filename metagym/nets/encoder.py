"""What reads one observation, before a memory or a window of them is read."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import TensorDict
from torch import nn
from typing_extensions import override

from metagym.wrappers.flat import SMALLEST_IMAGE

__all__ = ["RowEncoder", "encoder_class_of"]


def encoder_class_of(space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    """SB3's extractor for a space: `CombinedExtractor` of a Dict, `NatureCNN` of an image, else `FlattenExtractor`."""
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor


class RowEncoder(nn.Module):
    """Reads single observations that are no vectors.

    It does what SB3 does to observations before they reach an extractor, which SB3 cannot do to windows of them:
    images are divided by 255 and their channels moved to the front, discrete numbers become one-hot. Pictures that are
    too small to be images (less than 36 pixels one way) are read as vectors.

    Args:
        row_space: of one observation, a Dict or an image.
        encoder_class: what reads it; default: `encoder_class_of` its space.
        encoder_kwargs: its keywords.
        normalize_images: divide images by 255; if not, any Box of three axes is an image, as in SB3.

    Attributes:
        features_dim: width of the result.
    """

    def __init__(
        self,
        row_space: spaces.Space[Any],
        encoder_class: type[BaseFeaturesExtractor] | None,
        encoder_kwargs: dict[str, Any] | None,
        normalize_images: bool,
    ) -> None:
        super().__init__()
        self.normalize_images = normalize_images
        self._is_dict = isinstance(row_space, spaces.Dict)
        self._spaces: dict[str, spaces.Space[Any]] = (
            dict(row_space.spaces) if isinstance(row_space, spaces.Dict) else {"": row_space}
        )
        self._layouts = {name: _layout_of(space, normalize_images) for name, space in self._spaces.items()}
        prepared = {name: self._prepared_space(name, space) for name, space in self._spaces.items()}
        seen: spaces.Space[Any] = spaces.Dict(prepared) if self._is_dict else prepared[""]
        kind = encoder_class or encoder_class_of(seen)
        own = {} if normalize_images or not issubclass(kind, NatureCNN | CombinedExtractor) else _NORMALIZED
        self.reader = kind(seen, **own | (encoder_kwargs or {}))
        self.features_dim = int(self.reader.features_dim)  # SB3 has NumPy's, for MultiDiscrete entries

    @override
    def forward(self, rows: TensorDict) -> th.Tensor:
        """Features (M, `features_dim`) of observations, a dict of (M, ...); an image is its only entry."""
        if not self._is_dict:
            (row,) = rows.values()
            rows = {"": row}
        prepared = {name: self._prepared(name, rows[name], space) for name, space in self._spaces.items()}
        features: th.Tensor = self.reader(prepared if self._is_dict else prepared[""])
        return features

    def _prepared_space(self, name: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
        """What `_prepared` makes of a space, for the extractor to see."""
        layout = self._layouts[name]
        if layout is _NUMBERS or layout is _FIRST:
            return space
        assert isinstance(space, spaces.Box)
        if layout is _LAST:
            low, high = np.moveaxis(space.low, -1, 0), np.moveaxis(space.high, -1, 0)
            return spaces.Box(low, high, dtype=space.dtype.type)
        scale = np.float32(255 if self.normalize_images else 1)
        low, high = (bound.flatten().astype(np.float32) / scale for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32)

    def _prepared(self, name: str, rows: th.Tensor, space: spaces.Space[Any]) -> th.Tensor:
        """Observations (M, ...) as an extractor of SB3's gets them."""
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            rows = rows - th.as_tensor(space.start, device=rows.device)
        prepared = preprocess_obs(rows, space, self.normalize_images)
        assert isinstance(prepared, th.Tensor)
        layout = self._layouts[name]
        if layout is _SMALL:
            return prepared.flatten(1)
        return prepared.movedim(-1, 1) if layout is _LAST else prepared


_NORMALIZED = {"normalized_image": True}
_NUMBERS, _SMALL, _FIRST, _LAST = "numbers", "a small picture", "an image, channels first", "an image, channels last"


def _layout_of(space: spaces.Space[Any], normalize_images: bool) -> str:
    if not isinstance(space, spaces.Box) or not is_image_space(space, normalized_image=not normalize_images):
        return _NUMBERS
    if sorted(space.shape)[1] < SMALLEST_IMAGE:
        return _SMALL
    return _FIRST if is_image_space_channels_first(space) else _LAST
