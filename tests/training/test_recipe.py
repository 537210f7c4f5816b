"""Recipes: what they may say, what is refused with its line, and where files are looked for."""

from __future__ import annotations

import pytest

from gptkit.errors import ConfigError
from gptkit.model.config import NAMED_SIZES
from gptkit.training import recipe as recipes
from gptkit.training.recipe import read_recipe
from tests.training.fakes import RECIPE, tiny, write_recipe


@pytest.mark.parametrize("name", recipes.bundled())
def test_bundled_recipes_are_valid(name, tmp_path):
    recipe = read_recipe(name)
    assert recipe.output.name == name
    assert recipe.model_config(100).block_size > 1


def test_what_a_recipe_leaves_out_has_a_default(tmp_path):
    recipe = tiny(tmp_path)
    assert recipe.settings.training.dtype == "float32"
    assert recipe.settings.output.keep_state is True
    assert read_recipe(str(tmp_path / "tiny.yaml")).output.as_posix() == "out/tiny"


def test_dropout_sets_all_three_and_one_may_differ(tmp_path):
    config = tiny(tmp_path, "model.attn_dropout=0.0").model_config(7)
    assert (config.embd_dropout, config.attn_dropout, config.resid_dropout) == (0.1, 0.0, 0.1)


def test_a_named_size_takes_the_tokenizers_vocabulary(tmp_path):
    config = tiny(tmp_path, "model={size: gpt2, block_size: 64}").model_config(99)
    assert config == NAMED_SIZES["gpt2"].model_copy(update={"vocab_size": 99, "block_size": 64})


def test_a_vocabulary_may_be_padded_but_not_cut(tmp_path):
    recipe = tiny(tmp_path, "model.vocab_size=64")
    assert recipe.model_config(50).vocab_size == 64
    with pytest.raises(ConfigError, match=r"vocab_size 64 is below the tokenizer's 65"):
        recipe.model_config(65)


def test_numbers_in_powers_of_ten_are_numbers(tmp_path):
    assert tiny(tmp_path).settings.training.learning_rate == 0.01


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_steps: 20", "max_step: 20", r"tiny.yaml:5: unknown key 'max_step'"),
        ("n_head: 2", "n_hed: 2", r"tiny.yaml:3: unknown key 'n_hed'"),
        ("n_head: 2", "n_head: 3", r"tiny.yaml:3: .*n_head 3 does not divide n_embd 16"),
        ("n_layer: 1", "size: gpt9", r"tiny.yaml:3: unknown size 'gpt9'"),
        ("learning_rate: 1e-2", "learning_rate: .nan", r"tiny.yaml:8: .*finite"),
        ("learning_rate: 1e-2", "learning_rate: '1e-2'", r'tiny.yaml:8: .*text "1e-2"'),
        ("{text: words.txt}", "{}", r"tiny.yaml:1: .*either text or sources"),
        ("{text: words.txt}", "{sources: [{rows: x}]}", r"tiny.yaml:1: .*rows need a template"),
        ("{text: words.txt}", "{sources: [{k: [0, 3]}]}", r"tiny.yaml:1: .*one of text, conv"),
        ("{char: {}}", "{char: {}, bpe: {}}", r"tiny.yaml: .*tokenizer is one name"),
        ("micro_batch_size: 4", "micro_batch_size: 0", r"tiny.yaml:6: .*0 is below 1"),
    ],
)
def test_mistakes_name_their_line(tmp_path, monkeypatch, old, new, message):
    monkeypatch.chdir(tmp_path)
    assert old in RECIPE
    write_recipe(tmp_path, RECIPE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_recipe("tiny.yaml")


def test_an_unknown_recipe_is_told_with_the_names_there_are():
    with pytest.raises(ConfigError) as caught:
        read_recipe("bigramm")
    assert str(caught.value).startswith("no recipe bigramm: neither a file nor one of bigram, ")
    assert caught.value.hint == "did you mean 'bigram'?"


def test_files_are_found_beside_the_recipe_then_in_the_data_folder(tmp_path, monkeypatch):
    recipe = tiny(tmp_path)
    corpora = tmp_path / "corpora"
    (corpora / "more").mkdir(parents=True)
    for name in ("words.txt", "more/b.txt", "more/a.txt"):
        (corpora / name).write_text("x")
    monkeypatch.setenv("GPTKIT_DATA", str(corpora))
    assert recipe.find("words.txt") == [tmp_path / "words.txt"]
    assert recipe.find("more/*.txt") == [corpora / "more/a.txt", corpora / "more/b.txt"]
    with pytest.raises(ConfigError) as caught:
        recipe.find("nope.txt")
    assert str(tmp_path) in str(caught.value) and str(corpora) in str(caught.value)
    monkeypatch.delenv("GPTKIT_DATA")
    with pytest.raises(ConfigError) as caught:
        recipe.find("nope.txt")
    assert caught.value.hint == "GPTKIT_DATA names the folder of corpora; it is not set"
    monkeypatch.chdir(corpora)
    with pytest.raises(ConfigError) as caught:
        recipe.find("more/a.txt")
    assert caught.value.hint == f"the working directory has it: give {corpora / 'more/a.txt'}"


def test_an_absolute_path_that_is_missing_is_not_looked_for_in_the_data_folder(tmp_path):
    recipe = tiny(tmp_path)
    (tmp_path / "more[1]").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "more[1]" / name).write_text("x")
    with pytest.raises(ConfigError) as caught:
        recipe.find(str(tmp_path / "mode/a.txt"))
    assert "GPTKIT_DATA" not in f"{caught.value} {caught.value.hint}"
    assert str(caught.value).endswith(f": no file '{tmp_path}/mode/a.txt'")
    assert caught.value.hint == f"{tmp_path} exists, what follows it does not"
    one, two = (tmp_path / "more[1]" / name for name in ("a.txt", "b.txt"))
    assert recipe.find(str(one)) == [one]
    assert recipe.find(f"{tmp_path}/more*/*.txt") == [one, two]
