import pytest

from gptkit.checkpoints.layout import tensor_shapes
from gptkit.model.config import NAMED_SIZES

from .makers import config

VARIANTS = {
    "plain": {},
    "untied": {"tied": False},
    "no biases": {"bias": False},
    "no bias of queries": {"qkv_bias": False},
    "narrow": {"n_inner": 5},
    "bigram": {
        "n_layer": 0,
        "positions": "none",
        "final_norm": False,
        "tied": False,
        "n_embd": 17,
        "n_head": 1,
    },
}


def count(shapes):
    total = 0
    for shape in shapes.values():
        product = 1
        for size in shape:
            product *= size
        total += product
    return total


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_shapes_hold_as_many_numbers_as_the_config_counts(changes):
    sizes = config(**changes)
    assert count(tensor_shapes(sizes)) == sizes.n_params()


def test_gpt2_has_the_known_count():
    assert count(tensor_shapes(NAMED_SIZES["gpt2"])) == 124_439_808


def test_bigram_is_two_tables():
    assert set(tensor_shapes(config(**VARIANTS["bigram"]))) == {"wte.weight", "lm_head.weight"}
