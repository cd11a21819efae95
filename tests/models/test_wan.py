"""Reading Wan's configurations: its authors' and diffusers' alike, and what is refused, by field."""

from __future__ import annotations

import pytest

from shardwright.models import ModelError, catalog_entry, read_config

# The configuration that Wan's authors publish (Wan-AI/Wan2.1-T2V-14B), and diffusers' of the same weights.
WAN = {
    "_class_name": "WanModel",
    "dim": 5120,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "in_dim": 16,
    "model_type": "t2v",
    "num_heads": 40,
    "num_layers": 40,
    "out_dim": 16,
    "text_len": 512,
}
WAN_IN_DIFFUSERS = catalog_entry("wan2.1-t2v-14b").config


def test_wan_is_the_same_in_its_authors_words_and_in_diffusers():
    assert read_config(WAN).runs == read_config(WAN_IN_DIFFUSERS).runs


@pytest.mark.parametrize(
    ("document", "changes", "text"),
    [
        (WAN, {"model_type": "i2v"}, "field model_type must be t2v or ti2v"),
        (WAN, {"num_heads": 48}, "field dim must be a multiple of num_heads 48 but got 5120"),
        (WAN, {"qk_norm": False}, "field qk_norm must be true but got False"),
        (WAN, {"text_len": 0}, "field text_len must be an integer between 1 and"),
        (WAN_IN_DIFFUSERS, {"image_dim": 1280}, "field image_dim must be null"),
        (WAN_IN_DIFFUSERS, {"added_kv_proj_dim": 5120}, "field added_kv_proj_dim must be null"),
        (WAN_IN_DIFFUSERS, {"qk_norm": None}, "field qk_norm must be rms_norm_across_heads but got None"),
        (WAN_IN_DIFFUSERS, {"patch_size": [1, 2]}, "field patch_size must be a list of 3 items"),
        (WAN_IN_DIFFUSERS, {"freq_dim": None}, "field freq_dim is missing"),
    ],
)
def test_a_wan_that_is_not_known_here_is_refused_by_field(document, changes, text):
    with pytest.raises(ModelError) as caught:
        read_config({**document, **changes})
    assert text in str(caught.value)
