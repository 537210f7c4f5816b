"""The engine: alone, together, in any order and any slot the tokens are the same."""

import random

import pytest
import torch

from gptkit.decoding.engine import Engine
from gptkit.decoding.prefix import CHUNK, Place, SlotTable
from gptkit.decoding.request import Criterion, Request, Stage, Stops, resolve_chain
from gptkit.errors import ContextOverflow, NonFiniteLogits, PluginError, RequestError
from gptkit.model.config import GPTConfig
from gptkit.model.gpt import GPT
from gptkit.model.reference import ReferenceGPT
from gptkit.plugin_api import Sampler, Stop, StoppingCriterion, param
from gptkit.plugin_host import registry
from gptkit_plugins.stopping.strings import Strings
from tests.fakes import ByteTokenizer, FlatModel, ScriptedModel, byte_config

REGISTRY = registry()
GREEDY = resolve_chain(["greedy"], REGISTRY)
CHAINS = [
    GREEDY,
    resolve_chain([], REGISTRY),
    resolve_chain([{"temperature": 0.8}, {"top_k": 20}, {"top_p": 0.9}], REGISTRY),
    resolve_chain([{"temperature": 1.5}, {"top_k": 5}, {"top_p": 0.9}], REGISTRY),
    resolve_chain([{"top_p": 0.7}, {"temperature": 2.0}], REGISTRY),
]
TOKENIZER = ByteTokenizer(("<end>",))
END = TOKENIZER.special["<end>"]


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(vocab_size=257, block_size=192, n_layer=2, n_head=2, n_embd=32)
    model = GPT(config).init_weights(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)
    return model.eval().requires_grad_(False)


def requests(n, seed=0, new=24):
    rng = random.Random(seed)
    shared = [rng.randrange(256) for _ in range(90)]
    return [
        Request(
            tuple(shared[: rng.choice([0, 70, 90])] + [rng.randrange(256) for _ in range(1 + i)]),
            rng.choice(CHAINS),
            Stops(max_new_tokens=new),
            seed=1000 + i,
        )
        for i in range(n)
    ]


def run(engine, wanted):
    """Return the token ids of each request, run as the engine pleases."""
    ids = {engine.add(request): i for i, request in enumerate(wanted)}
    out = {i: [] for i in ids.values()}
    while engine.busy:
        for id, event in engine.step():
            assert event.error is None
            if event.token_id is not None:
                out[ids[id]].append(event.token_id)
    return [out[i] for i in range(len(wanted))]


def alone(model, request, n_slots=1):
    return [
        e.token_id
        for e in Engine(model, TOKENIZER, n_slots=n_slots).stream(request)
        if e.token_id is not None
    ]


def test_greedy_equals_the_uncached_argmax(model):
    prompt = list(b"hello there")
    got = alone(model, Request(tuple(prompt), GREEDY, Stops(max_new_tokens=30), 0))
    ids = list(prompt)
    for _ in range(30):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert got == ids[len(prompt) :]


def test_tokens_do_not_depend_on_order_neighbours_or_slot(model):
    """Shuffled, alone among empty slots, and with others: the same bits, so the same tokens."""
    wanted = requests(21)
    first = run(Engine(model, TOKENIZER, n_slots=8), wanted)
    for seed in range(3):
        order = list(range(len(wanted)))
        random.Random(seed).shuffle(order)
        again = run(Engine(model, TOKENIZER, n_slots=8), [wanted[i] for i in order])
        assert [again[order.index(i)] for i in range(len(wanted))] == first
    for i in (0, 5, 20):
        assert alone(model, wanted[i], n_slots=8) == first[i]


def test_requests_may_join_between_steps(model):
    wanted = requests(12, seed=4)
    want = run(Engine(model, TOKENIZER, n_slots=8), wanted)
    engine, rng = Engine(model, TOKENIZER, n_slots=8), random.Random(1)
    todo, ids, got = list(enumerate(wanted)), {}, {i: [] for i in range(12)}
    while todo or engine.busy:
        if todo and rng.random() < 0.3:
            i, request = todo.pop(0)
            ids[engine.add(request)] = i
        for id, event in engine.step():
            got[ids[id]].append(event.token_id)
    assert [got[i] for i in range(12)] == want


def test_a_seed_gives_the_same_text_and_another_another(model):
    chain = resolve_chain([{"temperature": 1.2}], REGISTRY)
    texts = [alone(model, Request((65, 66), chain, Stops(20), seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_numpy_backend_gives_the_same_greedy_tokens(model):
    weights = {name: w.numpy() for name, w in model.state_dict().items()}
    request = Request(tuple(b"the quick brown"), GREEDY, Stops(max_new_tokens=25), 0)
    assert alone(ReferenceGPT(model.config, weights), request) == alone(model, request)


def test_more_requests_than_slots_wait_in_order():
    engine = Engine(FlatModel(byte_config(TOKENIZER)), TOKENIZER, n_slots=2)
    ids = [engine.add(Request((1,), GREEDY, Stops(max_new_tokens=3), 0)) for _ in range(5)]
    ended = []
    while engine.busy:
        ended += [id for id, event in engine.step() if event.finish_reason]
    assert ended == ids


def test_a_turn_computes_only_its_new_tokens():
    forward = FlatModel(byte_config(TOKENIZER))
    engine = Engine(forward, TOKENIZER)
    first = tuple(b"first message")
    answer = [e.token_id for e in engine.stream(Request(first, GREEDY, Stops(5), 0))]
    before = forward.n_computed
    *_, last = engine.stream(Request((*first, *answer, 10, 11), GREEDY, Stops(0 + 1), 0))
    assert last.n_reused == len(first) + len(answer) - 1  # the last token was never fed
    assert forward.n_computed - before == 3


def test_who_waits_for_a_shared_prefix_has_reused_it(model):
    engine = Engine(model, TOKENIZER, n_slots=4)
    common, rows = tuple(range(50)), {}
    for i in range(4):
        rows[engine.add(Request((*common, i), GREEDY, Stops(2), 0, n_shared=50))] = []
    while engine.busy:
        for id, event in engine.step():
            rows[id].append(event.n_reused)
    assert list(rows.values()) == [[0, 0], *[[50, 50]] * 3]


def hold(table, tokens):
    """Take a slot, fill it with a prompt that is all prefilled, give it back."""
    place = table.take(tokens)
    table.holds(place.slot, tokens, len(tokens))
    table.give_back(place.slot)
    return place


def test_a_shared_prefix_is_reused_in_whole_chunks_of_prompts():
    table = SlotTable(2, whole_chunks=True)
    prompt = list(range(CHUNK * 2 + 10))
    first = table.take(prompt)
    assert first.n_reused == 0
    table.holds(first.slot, [*prompt, 5, 5, 5], len(prompt))  # the fives were generated
    table.give_back(first.slot)
    assert table.take([*prompt[: CHUNK + 20], 9, 9]) == Place(first.slot, CHUNK)
    assert table.take([1]).slot != first.slot and table.take([1]) is None


def test_a_prefix_in_use_is_copied():
    table = SlotTable(2, whole_chunks=True, copies=True)
    prompt = list(range(CHUNK * 2 + 10))
    first = table.take(prompt)
    table.holds(first.slot, prompt, CHUNK + 30)  # half of it is there by now
    assert table.take(prompt) == Place(1 - first.slot, CHUNK, source=first.slot)


def test_the_longest_unused_slot_goes_first():
    table = SlotTable(3, whole_chunks=False)
    for text in ([1, 1], [2, 2], [3, 3]):
        hold(table, text)
    assert table.take([9]).slot == 0
    assert table.take([3, 3, 4]) == Place(2, 2)


def test_a_whole_cached_prompt_leaves_one_token_to_compute():
    table = SlotTable(1, whole_chunks=False)
    hold(table, [1, 2, 3])
    assert table.take([1, 2, 3]) == Place(0, 2)


def test_a_trunk_stays_until_another_needs_its_slot():
    table = SlotTable(2, 1, whole_chunks=True)
    first, second = tuple(range(40)), tuple(range(50, 90))
    trunk, place = table.take_trunk(first)
    assert place == Place(2) and table.take_trunk(first) == (trunk, None)
    assert trunk.n_users == 2 and table.take_trunk(second) is None
    trunk.n_users = 0
    assert table.take_trunk(first) == (trunk, None)
    trunk.n_users = 0
    other, place = table.take_trunk(second)
    assert other is not trunk and place == Place(2)


def scripted(text, *, block_size=64):
    """Return an engine that says `text` after the prompt <end>, then <end>."""
    config = byte_config(TOKENIZER, block_size)
    forward = ScriptedModel(config, [text], marker=END, end=END)
    return Engine(forward, TOKENIZER, frozenset({END}))


def answer(engine, **stops):
    events = list(engine.stream(Request((END,), GREEDY, Stops(**stops), 0)))
    return "".join(e.text for e in events), events[-1].finish_reason, events


def strings(*texts):
    return (Criterion(Strings, {"strings": texts, "include": False}),)


def test_ends_by_itself_at_eos_and_shows_no_token_for_it():
    text, reason, events = answer(scripted("héllo"))
    assert (text, reason) == ("héllo", "eos")
    assert events[-1].token_id == END


def test_eos_can_be_ignored():
    text, reason, events = answer(scripted("hi"), ignore_eos=True, max_new_tokens=6)
    assert reason == "length" and len(events) == 6


def test_length_cuts_an_emoji_without_a_crash():
    text, reason, _ = answer(scripted("ab🙂"), max_new_tokens=4)
    assert (text, reason) == ("ab\ufffd", "length")


def test_zero_new_tokens_compute_nothing():
    engine = scripted("hello")
    text, reason, events = answer(engine, max_new_tokens=0)
    assert (text, reason, len(events)) == ("", "length", 1)
    assert engine.forward.n_computed == 0


def test_a_stop_string_is_never_shown_in_part():
    engine = scripted("one\nUser: two")
    text, reason, events = answer(engine, criteria=strings("\nUser:"))
    assert (text, reason) == ("one", "stop_string")
    assert [e.text for e in events[:3]] == ["o", "n", "e"]


def test_what_was_held_back_is_let_go_at_any_other_end():
    text, reason, _ = answer(scripted("one\nUse"), criteria=strings("\nUser:"))
    assert (text, reason) == ("one\nUse", "eos")
    text, reason, _ = answer(scripted("one\nUser"), criteria=strings("\nUser:"), max_new_tokens=6)
    assert (text, reason) == ("one\nUs", "length")


def test_context_full_ends_the_sequence():
    _, reason, events = answer(scripted("x" * 100, block_size=10), max_new_tokens=50)
    assert reason == "context"
    assert len(events) == 9


def test_time_ends_the_sequence():
    _, reason, events = answer(scripted("x" * 100), max_new_tokens=50, max_time_s=1e-9)
    assert (reason, len(events)) == ("time", 1)


def test_cancel_keeps_the_half_answer_and_frees_the_slot():
    engine = scripted("one\nUser and more")
    id = engine.add(Request((END,), GREEDY, Stops(criteria=strings("\nUser:")), 0))
    text = "".join(e.text for _ in range(6) for _, e in engine.step())
    event = engine.cancel(id)
    assert (text + event.text, event.finish_reason) == (
        "one\nUser"[: len(text + event.text)],
        "cancelled",
    )
    assert text == "one" and event.text
    assert not engine.busy
    assert answer(engine)[0] == "one\nUser and more"


def test_closing_the_stream_cancels():
    engine = scripted("a long answer")
    events = engine.stream(Request((END,), GREEDY, Stops(), 0))
    next(events)
    events.close()
    assert not engine.busy


def test_a_stream_takes_no_events_from_others():
    engine = scripted("hello")
    engine.add(Request((END,), GREEDY, Stops(), 0))
    with pytest.raises(RequestError, match="the engine is busy"):
        next(engine.stream(Request((END,), GREEDY, Stops(), 0)))


@pytest.mark.parametrize(
    "prompt, error, text",
    [
        ((), RequestError, "prompt is empty"),
        ((1, 400), RequestError, "token id 400"),
        (tuple(range(64)), ContextOverflow, "the prompt has 64 tokens; the model's context is 64"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(prompt, error, text):
    with pytest.raises(error, match=text):
        scripted("x").add(Request(prompt, GREEDY, Stops(), 0))


class Poisoned(FlatModel):
    """Logits of a token 7 in the prompt become NaN at the third step."""

    def logits(self, tokens):
        logits = torch.zeros(self.config.vocab_size)
        logits[tokens[0] + 1] = 5.0
        if tokens[0] == 7 and len(tokens) == 3:
            logits[9] = float("nan")
        return logits


def test_a_row_with_nan_fails_alone_and_says_at_which_step():
    engine = Engine(Poisoned(byte_config(TOKENIZER)), TOKENIZER, n_slots=8)
    ids = {engine.add(Request((n,), GREEDY, Stops(5), 0)): n for n in (5, 7, 9)}
    ended = {}
    tokens = {5: [], 7: [], 9: []}
    while engine.busy:
        for id, event in engine.step():
            tokens[ids[id]].append(event.token_id)
            if event.finish_reason:
                ended[ids[id]] = event
    assert tokens[5] == [6] * 5 and tokens[9] == [10] * 5
    assert isinstance(ended[7].error, NonFiniteLogits)
    assert str(ended[7].error).startswith("logits are not finite at step 3")


class PaddedModel(FlatModel):
    """The ids behind the tokenizer's have the best logits."""

    def logits(self, tokens):
        logits = torch.zeros(self.config.vocab_size)
        logits[257:] = 20.0
        return logits


def test_padded_ids_are_never_picked():
    config = GPTConfig(vocab_size=300, block_size=2048, n_layer=0, n_embd=1)
    engine = Engine(PaddedModel(config), TOKENIZER)
    chain = resolve_chain([{"temperature": 2.0}], REGISTRY)
    events = list(engine.stream(Request((1,), chain, Stops(2000), 3)))
    assert max(e.token_id for e in events) < 257


class Grumpy(Sampler):
    """Fail on rows whose last token is 13."""

    name = "grumpy"
    on = param(False, off=False, help="whether to fail")

    def apply(self, logits, p, rows):
        if any(rows.tokens(row)[-1] == 13 for row in range(rows.R)):
            raise KeyError("thirteen")
        return logits


def test_a_sampler_that_raises_ends_only_the_row_at_fault():
    chain = (Stage("grumpy", Grumpy, {"on": True}), *GREEDY)
    engine = Engine(FlatModel(byte_config(TOKENIZER)), TOKENIZER, n_slots=8)
    ids = {engine.add(Request((n,), chain, Stops(3), 0)): n for n in (12, 13, 14)}
    ended = {}
    while engine.busy:
        for id, event in engine.step():
            if event.finish_reason:
                ended[ids[id]] = event
    assert ended[12].finish_reason == ended[14].finish_reason == "length"
    assert isinstance(ended[13].error, PluginError)
    assert "sampler 'grumpy' failed: KeyError" in str(ended[13].error)


def test_what_a_sampler_writes_to_its_parameters_is_gone_at_the_next_step():
    seen = []

    class Careless(Sampler):
        """Write to its own parameters."""

        name = "careless"
        by = param(0.0, off=0.0, help="nothing")

        def apply(self, logits, p, rows):
            seen.append(p.by.tolist())
            p.by.add_(1.0)
            p.by = None
            return logits

    chain = (Stage("careless", Careless, {"by": 0.5}), *GREEDY)
    list(
        Engine(FlatModel(byte_config(TOKENIZER)), TOKENIZER).stream(
            Request((1,), chain, Stops(3), 0)
        )
    )
    assert seen == [[[0.5]]] * 3


def test_an_engine_may_run_in_inference_mode(model):
    request = requests(3)[2]
    outside = alone(model, request)
    with torch.inference_mode():
        assert alone(model, request) == outside


class Half(FlatModel):
    def step(self, ids, spans, cache, wanted):
        return super().step(ids, spans, cache, wanted).bfloat16()


def test_logits_that_are_bfloat16_or_require_grad_are_as_good():
    """A model in bfloat16 may have such logits, and a stage with learned weights the others."""

    class Learned(Sampler):
        """Scale by a weight that is being learned."""

        name = "learned"

        def apply(self, logits, p, rows):
            return logits * torch.ones((), requires_grad=True)

    config = byte_config(TOKENIZER)
    chain = (Stage("learned", Learned, {}), *resolve_chain([{"top_k": 5}], REGISTRY))
    out = alone(FlatModel(config), Request((1,), chain, Stops(5), 0))
    assert out == alone(FlatModel(config), Request((1,), chain[1:], Stops(5), 0))
    for chain in CHAINS:
        request = Request((1,), chain, Stops(5), 0)
        assert alone(Half(config), request) == alone(FlatModel(config), request)


class Twice(StoppingCriterion):
    """End when a byte comes twice in a row."""

    name = "twice"

    def push(self, state, token_id, data, n_out):
        return data, Stop("twice") if data == state else None


def test_a_criterion_of_a_plugin_ends_with_its_own_word():
    text, reason, _ = answer(scripted("abccd"), criteria=(Criterion(Twice, {}),))
    assert (text, reason) == ("abcc", "twice")


def test_logprobs_are_those_before_the_chain(model):
    prompt = tuple(b"abc")
    chain = resolve_chain([{"temperature": 0.5}, {"top_k": 3}], REGISTRY)
    event = next(Engine(model, TOKENIZER).stream(Request(prompt, chain, Stops(4), 0, logprobs=2)))
    want = model(torch.tensor([prompt]))[0, -1].log_softmax(-1)
    assert event.logprob == pytest.approx(float(want[event.token_id]), abs=1e-5)
    best = want.topk(2)
    assert [a.token_id for a in event.alternatives] == best.indices.tolist()
    assert [a.logprob for a in event.alternatives] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_the_trace_tells_what_each_stage_left(model):
    chain = resolve_chain([{"temperature": 0.5}, {"top_k": 3}], REGISTRY)
    request = Request(tuple(b"abc"), chain, Stops(1), 0, trace=True)
    event = next(Engine(model, TOKENIZER).stream(request))
    probs = (model(torch.tensor([list(b"abc")]))[0, -1] / 0.5).softmax(-1)
    model_, cold, top = event.trace
    assert [s.label for s in event.trace] == ["model", "temperature", "top_k"]
    assert [s.survivors for s in event.trace] == [257, 257, 3]
    best = probs.topk(4)
    kept = float(best.values[:3].sum())
    assert top.removed_mass == pytest.approx(1 - kept, abs=1e-5)
    assert top.best_removed == int(best.indices[3]) and cold.best_removed is None
    p, rank = float(probs[event.token_id]), best.indices.tolist().index(event.token_id) + 1
    assert (top.rank_before, top.rank_after) == (rank, rank)
    assert (top.p_before, top.p_after) == pytest.approx((p, p / kept), abs=1e-5)
    logprobs = probs.double().log()
    assert cold.entropy == pytest.approx(float(-(probs * logprobs).sum()), abs=1e-5)
    assert (
        model_.p_after
        == model_.p_before
        == pytest.approx(float((probs.sqrt() / probs.sqrt().sum())[event.token_id]), abs=1e-5)
    )
