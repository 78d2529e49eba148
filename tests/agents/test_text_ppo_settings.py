"""Settings of text PPO that cannot work, and two of its figures by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rlhf_gym.agents.text.masked import masked_mean
from rlhf_gym.agents.text.metrics import distinct_n, explained_variance
from rlhf_gym.agents.text.settings import TextPPOSettings
from rlhf_gym.errors import ConfigError


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"vf_learning_rate": 0.0},
        {"target_kl": 0.0},
        {"batch_size": 24, "n_minibatches": 5},
        {"temperature": 0.0},
        {"learning_rate": math.nan},
        {"gae_lambda": 1.1},
        {"kl_coef": -0.1},
        {"missing_eos": "drop"},
        {"lr_decay": "cosine"},
        {"micro_batch_size": 0},
    ],
)
def test_a_setting_out_of_range_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=list(change)[-1]):
        TextPPOSettings(**change)


def test_distinct_n_counts_ngrams_within_completions() -> None:
    # Of 3 4 3 and 3: two of four tokens are distinct, both of the two pairs.
    assert distinct_n([[3, 4, 3], [3]], 1) == 0.5
    assert distinct_n([[3, 4, 3], [3]], 2) == 1.0
    assert math.isnan(distinct_n([[3]], 2))


def test_explained_variance_by_hand() -> None:
    mask = torch.tensor([[True, True, True, False]])
    returns = torch.tensor([[0.0, 3.0, 6.0, 99.0]])  # variance 6
    values = torch.tensor([[1.0, 3.0, 5.0, -9.0]])  # residuals -1, 0, 1: variance 2/3
    assert explained_variance(values, returns, mask) == pytest.approx(1 - 2 / 3 / 6)
    assert math.isnan(explained_variance(values, torch.ones(1, 4), mask))
    assert masked_mean(returns, mask).item() == 3.0
