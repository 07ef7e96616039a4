"""Tokenizers of models: what a prompt counts, filler of one token a piece, and turns that find the answer before."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_live_endpoint import CHAT, PATHS, World

from taicang.errors import InvalidInput
from taicang.live.answers import Answers
from taicang.live.tokens import Given, Plain, block_ids, opening

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is an extra")
LINE = (
    "time year people way day man thing woman life child world school state family student group country problem hand"
)
WORDS = LINE.split()
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def byte_level(vocab_size, marks=("<|im_start|>", "<|im_end|>")):
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=list(marks), show_progress=False
    )
    made.train_from_iterator(["".join(f" {word}" for word in WORDS)] * 3, trainer)
    return made


def bytes_alone():
    return byte_level(258)


def with_words():
    return byte_level(600)


def some_merges():
    return byte_level(290)


def sentence_pieces():
    """As Llama 2 has them: a blank before all, and it is part of the words."""
    pieces = ["<unk>", *"▁abcdefghijklmnopqrstuvwxyz.,\n", *[f"▁{word}" for word in WORDS], "<|im_start|>"]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -float(len(piece) < 3)) for piece in pieces], 0))
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    made.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.Fuse(), tokenizers.decoders.Strip(" ", 1, 0)]
    )
    return made


MADE = [bytes_alone, some_merges, with_words, sentence_pieces]


def unescaped(text):
    return json.loads(b'"%b"' % text)


@pytest.fixture
def folder(tmp_path):
    def write(made, **settings):
        (tmp_path / "tokenizer.json").write_text(made.to_str())
        if settings:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path

    return write


@pytest.mark.parametrize("make", MADE)
def test_each_piece_of_filler_is_one_token_and_stays_it(folder, make):
    tokenizer = Given(folder(make()))
    answers = Answers(tokenizer, usual=10)
    size = len(tokenizer.words)
    assert size >= 10
    for seed in range(0, size, max(size // 40, 1)):
        said = answers.give("", seed=seed, most=2 * size // 3 + 1, least=0, room=10**6, before="assistant\n")
        ids = said.tokens()
        text = unescaped(said.text(0, said.length))
        assert len(ids) == said.length
        assert tokenizer.encode(f"assistant\n{text}")[-len(ids) :] == ids
        pieces = [unescaped(said.text(i, i + 1)) for i in range(said.length)]
        assert all(pieces)
        assert "".join(pieces) == text


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40), make=st.sampled_from(MADE[:3]))
def test_pieces_are_whole_characters_as_they_become_whole(text, make):
    clean = text.encode("utf-8", "replace").decode()
    tokenizer = Given.__new__(Given)
    tokenizer._read = make()
    pieces = tokenizer.pieces(clean)
    ids = tokenizer.encode(clean)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == clean
    so_far = ""
    for i, piece in enumerate(pieces[:-1]):
        so_far += piece
        decoded = tokenizer.decode(ids[: i + 1])
        assert decoded.rstrip("\ufffd").startswith(so_far.rstrip("\ufffd")), "nothing is said before its last byte"


def test_a_vocabulary_that_nothing_can_be_said_with_is_refused(folder):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, "<unk>"))
    with pytest.raises(InvalidInput, match="no texts that are one token each"):
        _ = Given(folder(made)).words


@pytest.mark.parametrize(
    ("settings", "jinja", "expected"),
    [
        ({"chat_template": CHATML}, None, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        ({"chat_template": [{"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}],
          "bos_token": {"content": "<s>"}}, None, "<s>Hi"),
        ({"chat_template": "no"}, "{{ messages | tojson }}", '[{"role": "user", "content": "Hi"}]'),
        ({}, "{% for m in messages %}{{ m['content'] }}{% break %}{% endfor %}\n", "Hi"),
    ],
)  # fmt: skip
def test_a_template_is_found_where_models_keep_it(folder, settings, jinja, expected):
    pytest.importorskip("jinja2", reason="jinja2 is an extra")
    place = folder(with_words(), **settings)
    if jinja is not None:
        (place / "chat_template.jinja").write_text(jinja)
    assert Given(place).template([{"role": "user", "content": "Hi"}], {}) == expected


@pytest.mark.parametrize(
    "source",
    ["{% for m in messages %}", "{{ raise_exception('no roles') }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
     "{{ messages.append(1) }}", "{{ range(10**9) | list }}", "{{ 1 / 0 }}", "{% include '/etc/passwd' %}"],
)  # fmt: skip
def test_a_template_that_is_broken_or_reaches_out_is_refused(folder, source):
    pytest.importorskip("jinja2", reason="jinja2 is an extra")
    place = folder(with_words(), chat_template=source)
    with pytest.raises(InvalidInput, match="chat template"):
        Given(place).template([{"role": "user", "content": "Hi"}], {})


def talk(still_clock, tokenizer, turns=4, strip=False):
    """A conversation whose answers are sent back: usage of each turn."""

    async def main():
        world = World(still_clock(), tokenizer=tokenizer)
        messages, used = [], []
        for turn in range(turns):
            messages.append({"role": "user", "content": f"Turn {turn}: where is the grain?"})
            body = {**CHAT, "messages": messages, "max_tokens": 50 + turn}
            said = (await world.answer(PATHS["chat"], body)).json
            content = said["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": content.strip() if strip else content})
            used.append(said["usage"])
        return used, world.spent()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("make", "strip"), [*((make, strip) for make in (None, *MADE[:3]) for strip in (False, True)), (MADE[3], False)]
)
def test_the_next_turn_finds_the_answer_before_it(still_clock, folder, make, strip):
    if make is None:
        tokenizer = Plain()
    else:
        pytest.importorskip("jinja2", reason="jinja2 is an extra")
        tokenizer = Given(folder(make(), chat_template=CHATML if strip else CHATML.replace(" | trim", "")))
    used, spent = talk(still_clock, tokenizer, strip=strip)
    assert spent
    assert used[0]["prompt_tokens_details"]["cached_tokens"] == 0
    for before, now in pairwise(used):
        held = before["prompt_tokens"] + before["completion_tokens"] - 1
        assert now["prompt_tokens_details"]["cached_tokens"] == held // 16 * 16


def test_prompts_count_what_the_template_makes_of_them(still_clock, folder):
    pytest.importorskip("jinja2", reason="jinja2 is an extra")
    made = with_words()
    template = tokenizers.processors.TemplateProcessing(single="<|im_end|> $A", special_tokens=[("<|im_end|>", 1)])
    made.post_processor = template
    tokenizer = Given(folder(made, chat_template=CHATML))

    async def main():
        world = World(still_clock(), tokenizer=tokenizer)
        chat = await world.answer(PATHS["chat"], CHAT)
        bare = await world.answer(PATHS["chat"], {**CHAT, "add_generation_prompt": False})
        marked = await world.answer(PATHS["text"], {"model": CHAT["model"], "prompt": " time", "max_tokens": 1})
        plain = await world.answer(
            PATHS["text"], {"model": CHAT["model"], "prompt": " time", "max_tokens": 1, "add_special_tokens": False}
        )
        counted = await world.answer("/tokenize", {"messages": CHAT["messages"]})
        refused = await world.answer(PATHS["chat"], {**CHAT, "chat_template": "x"})
        return [each.json for each in (chat, bare, marked, plain, counted, refused)]

    chat, bare, marked, plain, counted, refused = asyncio.run(main())
    text = tokenizer.template(CHAT["messages"], {})
    assert chat["usage"]["prompt_tokens"] == len(made.encode(text, add_special_tokens=False).ids) == counted["count"]
    assert bare["usage"]["prompt_tokens"] < chat["usage"]["prompt_tokens"]
    assert (marked["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"]) == (2, 1)
    assert refused["error"]["param"] == "chat_template"


@settings(max_examples=100, deadline=None)
@given(prompt=st.text("ab \n.,:1<|>", max_size=40), at=st.integers(0, 4095))
def test_an_answer_begins_so_that_it_is_the_same_read_back(prompt, at):
    plain = Plain()
    text, token = opening(plain, prompt[-64:], at)
    whole = plain.encode(prompt + text + plain.words[(at + 1) % 4096])
    if plain.encode(prompt) == whole[:-2]:
        assert whole[-2:] == [token, plain.word_ids[(at + 1) % 4096]]
    assert block_ids([1, 2, 3], 2) == block_ids([1, 2], 2)
