import pytest

from gptkit.chat.settings import ChatSettings
from gptkit.decoding.chain_source import from_preset
from gptkit.decoding.request import typed
from gptkit.errors import ConfigError, UnknownName
from gptkit.plugin_api import Sampler, hookimpl, param
from tests.chat.talk import registry
from tests.fakes import ByteTokenizer, byte_config


class Parch(Sampler):
    """Two parameters."""

    name = "parch"
    phase = "penalty"
    multiplier = param(0.0, ge=0, off=0.0, help="how much")
    base = param(1.75, ge=1, help="how fast")

    def apply(self, logits, p, rows):
        return logits


class Module:
    @staticmethod
    @hookimpl
    def gptkit_samplers():
        yield Parch


def settings(**given):
    made = ChatSettings(registry(Module), **{"seed": 1, **given})
    made.fit(byte_config(ByteTokenizer(), block_size=512))
    return made


def chain(made):
    return " ".join(map(str, made.chain))


@pytest.mark.parametrize(
    ("line", "then"),
    [
        ("temperature 0.7", "temperature=0.7 top_p=0.9 sample"),
        ("temperature=0.7", "temperature=0.7 top_p=0.9 sample"),
        ("top_p off", "top_p=off sample"),
        ("top_k 5", "top_k=5 top_p=0.9 sample"),
        ("greedy", "top_p=0.9 greedy"),
        ("parch multiplier=0.8,base=2", "parch:multiplier=0.8,base=2.0 top_p=0.9 sample"),
        ("parch multiplier=0.8 base=2", "parch:multiplier=0.8,base=2.0 top_p=0.9 sample"),
        ("parch:multiplier=0.8", "parch:multiplier=0.8,base=1.75 top_p=0.9 sample"),
        ("parch {multiplier: 0.8}", "parch:multiplier=0.8,base=1.75 top_p=0.9 sample"),
        ("parch 0.8", "parch:multiplier=0.8,base=1.75 top_p=0.9 sample"),
    ],
)
def test_a_stage_is_set_in_the_chain_that_is_in_force(line, then):
    made = settings(items=[{"top_p": 0.9}])
    made.set(line)
    assert chain(made) == then


def test_a_parameter_that_is_not_named_keeps_its_value():
    made = settings(items=[{"parch": {"multiplier": 0.8, "base": 3.0}}])
    made.set("parch base=2")
    assert chain(made) == "parch:multiplier=0.8,base=2.0 sample"


def test_one_picker_takes_the_place_of_the_other_and_back():
    made = settings(items=["greedy"])
    made.set("sample")
    assert chain(made) == "sample"


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("top_p 1.5", ConfigError, "top_p: 1.5 is above 1"),
        ("temperature nan", ConfigError, "nan"),
        ("temperature 0,7", ConfigError, "'0,7' is not a number"),
        ("parch factor=1", ConfigError, "'factor=1' is not a number"),
        ("parch:factor=1", ConfigError, "no parameter 'factor'"),
        ("greedy 1", ConfigError, "greedy takes no value"),
        ("max_new_tokens off", ConfigError, "max_new_tokens can't be off"),
        ("max_new_tokens 513", ConfigError, "513 is above 512"),
        ("tokens [9999]", ConfigError, "tokens: 9,999 is no token of the model, which has 261"),
        ("tokens [-1]", ConfigError, "tokens: -1 is below 0"),
        ("max_new_tokens -1", ConfigError, "-1 is below 0"),
        ("seed", ConfigError, "seed needs a value"),
        ("seed -1", ConfigError, "seed: -1 is below 0"),
        ("seed 9223372036854775808", ConfigError, "seed"),
        ("on_overflow shrink", ConfigError, "none of drop_oldest, keep_system_and_examples"),
        ("strings [1]", ConfigError, "1 is not text"),
        ('strings [""]', ConfigError, "must not be empty"),
        ('strings ["a', ConfigError, "/set strings:1"),
        ("temprature 1", UnknownName, "unknown setting or sampler 'temprature'"),
    ],
)
def test_a_wrong_value_is_refused_and_changes_nothing(line, error, words):
    made = settings(items=[{"top_p": 0.9}])
    before = [setting for setting in made.listing()]
    with pytest.raises(error) as caught:
        made.set(line)
    assert words in str(caught.value)
    assert list(made.listing()) == before


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("temprature", "did you mean 'temperature'?"),
        ("max_tokens", "did you mean 'max_new_tokens'?"),
        ("overflow", "did you mean 'on_overflow'?"),
        ("system", "write /system TEXT"),
        ("zzz", "/set alone lists what there is"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name, hint):
    with pytest.raises(UnknownName) as caught:
        settings().set(f"{name} 1")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("line", "stop"),
    [
        ("max_new_tokens 40", {"max_new_tokens": 40}),
        ("max_time_s 2", {"max_new_tokens": 256, "max_time_s": 2.0}),
        ("stop You:", {"max_new_tokens": 256, "strings": ["You:"]}),
        ('stop "\\n"', {"max_new_tokens": 256, "strings": ["\n"]}),
        ('strings ["\\n", "You:"]', {"max_new_tokens": 256, "strings": ["\n", "You:"]}),
        ("tokens 7", {"max_new_tokens": 256, "tokens": [7]}),
    ],
)
def test_when_an_answer_ends_can_be_set_and_set_off(line, stop):
    made = settings()
    made.set(line)
    assert made.stop_block() == stop
    name = list(stop)[-1]
    assert made.stop_from[name] == "/set"
    if name in ("strings", "tokens"):
        made.set(f"{name} off")
        assert made.stop_block() == {"max_new_tokens": 256}


def test_every_value_knows_where_it_came_from():
    made = settings(items=[{"top_p": 0.9}], stop={"max_new_tokens": typed("40")})
    made.set("temperature 0.5")
    assert made.chain_from == {"top_p": "command line", "sample": "default", "temperature": "/set"}
    assert made.stop_from == {"max_new_tokens": "command line"}
    assert (made.seed_from, made.system_from) == ("command line", "default")
    assert settings(seed=None).seed_from == "drawn"


def test_a_recommended_chain_serves_where_the_user_named_none():
    made = settings()
    made.recommend(({"temperature": 0.7}, "greedy"))
    assert chain(made) == "temperature=0.7 greedy"
    assert made.chain_from == {"temperature": "model", "greedy": "model"}
    for named in ({"items": ["greedy"]}, {"shorthands": {"top_k": "4"}}):
        made = settings(**named)
        before = made.chain
        made.recommend(({"temperature": 0.7},))
        assert made.chain == before
        assert "model" not in made.chain_from.values()


def test_the_default_length_gives_way_to_a_small_context_and_an_asked_one_does_not():
    small = byte_config(ByteTokenizer(), block_size=64)
    made = ChatSettings(registry())
    made.fit(small)
    assert made.stops.max_new_tokens == 64
    with pytest.raises(ConfigError, match="100 is above 64, the model's context"):
        ChatSettings(registry(), stop={"max_new_tokens": typed("100")}).fit(small)


def test_the_listing_has_value_and_range_of_everything():
    made = settings(items=[{"temperature": 0.7}])
    listed = {setting.name: setting for setting in made.listing()}
    assert listed["temperature"].value == "0.7"
    assert listed["temperature"].span == "at least 0 and at most 100"
    assert listed["top_p"].value == "-"
    assert listed["sample"].value == "on"
    assert listed["parch"].span == "at least 0; also base"
    assert listed["max_new_tokens"].value == "256"
    assert listed["on_overflow"].span.startswith("drop_oldest, keep_")
    assert listed["seed"].value == "1"


# Whole chains -------------------------------------------------------------------------------------


def listed(made, name):
    return next(one.value for one in made.listing() if one.name == name)


def test_a_preset_is_set_as_a_whole_and_changed_by_what_follows():
    made = settings(items=[{"top_k": 5}])
    assert listed(made, "preset") == "-"
    assert made.set("preset nanogpt") == "preset nanogpt: temperature=0.8 top_k=200 sample"
    assert chain(made) == "temperature=0.8 top_k=200 sample"
    made.set("top_k 9")
    assert chain(made) == "temperature=0.8 top_k=9 sample"
    assert listed(made, "preset") == "nanogpt"
    assert made.chain_from == {
        "temperature": "preset nanogpt",
        "top_k": "/set",
        "sample": "preset nanogpt",
    }
    with pytest.raises(ConfigError, match="preset: 'hg' is none of hf, llama.cpp"):
        made.set("preset hg")
    assert chain(made) == "temperature=0.8 top_k=9 sample"


def test_a_whole_chain_from_the_command_line_is_not_replaced_by_a_recommendation():
    whole = from_preset("nanogpt", registry())
    made = settings(whole_chain=whole, items=[{"top_k": 9}])
    made.recommend([{"top_p": 0.5}])
    assert chain(made) == "temperature=0.8 top_k=9 sample"
    assert made.chain_from == {
        "temperature": "preset nanogpt",
        "top_k": "command line",
        "sample": "preset nanogpt",
    }
