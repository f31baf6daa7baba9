"""Constrained text: whatever the logits, it follows its schema or expression."""

import json
import re
from typing import Literal

import pytest
import torch
from pydantic import BaseModel, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adapterhub.backbones.sources import fetch_backbone
from adapterhub.engine.constraints import MAX_REGEX_BYTES, MAX_SCHEMA_BYTES, ConstraintCompiler
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.engine.sampling.sampler import Sampler
from adapterhub.engine.sampling.state import SamplingState
from adapterhub.errors import EngineError, RequestError

LONGEST = 400


@pytest.fixture(scope="module")
def tokenizer():
    """One token a byte, some longer ones, and two special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    more = ['":', '",', '{"', '"}', "ab", "true", "123", "Ġ{", "Ċ", "ĠĠ"]
    vocabulary = dict.fromkeys([*letters, *more])
    core = Tokenizer(models.BPE({token: place for place, token in enumerate(vocabulary)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|end|>", "<|turn|>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return ConstraintCompiler(tokenizer)


class Address(BaseModel, extra="forbid"):
    street: str = Field(max_length=6)
    number: int = Field(ge=1, le=999)


class Person(BaseModel, extra="forbid"):
    name: str = Field(max_length=5)
    mood: Literal["glad", "sad"]
    addresses: list[Address] = Field(max_length=2)
    score: float | None
    code: str = Field(pattern=r"^[A-Z]{2}[0-9]$")


def generate(compiler, tokenizer, seed, *, width=None, **settings):
    """Sample from random logits until the text is complete; return it."""
    params = SamplingParams(seed=seed, temperature=1.0, max_tokens=LONGEST, **settings)
    constraint = compiler.compile(params)
    sequence = SamplingState(params, eos_ids=(tokenizer.eos_token_id,))
    draw = torch.Generator().manual_seed(seed)
    while True:
        sequence.allowed = constraint.mask()
        logits = torch.randn(1, width or len(tokenizer), generator=draw) * 3
        token = Sampler().sample(logits, [sequence])[0].token
        reason = sequence.append(token)
        constraint.advance(token)
        if reason == "length":
            pytest.fail("the text does not end")
        if reason or constraint.finished:
            assert constraint._matcher.is_accepting()
            return tokenizer.decode(sequence.tokens, skip_special_tokens=True)


@pytest.mark.parametrize("seed", range(10))
def test_random_logits_give_json_of_the_schema(compiler, tokenizer, seed):
    text = generate(compiler, tokenizer, seed, json_schema=Person.model_json_schema())
    assert Person.model_validate_json(text).addresses is not None
    assert list(json.loads(text)) == ["name", "mood", "addresses", "score", "code"]


EXPRESSIONS = [
    r"[a-z]{3,8}",
    r"(yes|no|may be)",
    r"\d{4}-\d{2}-\d{2}",
    r"[äöü東]{1,3}!?",
    r"^abc$",
    r"(?i)hello( world)?",
    r"x?",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_random_logits_give_text_that_matches(compiler, tokenizer, expression):
    for seed in range(5):
        text = generate(compiler, tokenizer, seed, regex=expression)
        assert re.fullmatch(expression, text)


def test_white_space_is_bounded(compiler, tokenizer):
    params = SamplingParams(json_schema={"type": "object", "required": ["a"]})
    constraint = compiler.compile(params)
    blank = tokenizer.convert_tokens_to_ids("Ċ")
    constraint.advance(tokenizer.convert_tokens_to_ids("{"))
    for _ in range(20):
        if not constraint.mask()[blank]:
            return
        constraint.advance(blank)
    pytest.fail("20 lines of nothing")


def test_mask_is_as_wide_as_the_logits(tokenizer):
    params = SamplingParams(regex="[a-z]{2}")
    for width in (len(tokenizer) + 61, len(tokenizer) - 1):
        mask = ConstraintCompiler(tokenizer, vocabulary=width).compile(params).mask()
        assert (mask.shape, mask.dtype) == ((width,), torch.bool)
        assert not mask[len(tokenizer) :].any()
        assert mask[tokenizer.convert_tokens_to_ids("q")]
    compiler = ConstraintCompiler(tokenizer, vocabulary=len(tokenizer) + 61)
    text = generate(compiler, tokenizer, 0, width=len(tokenizer) + 61, regex="[a-z]{2}")
    assert re.fullmatch("[a-z]{2}", text)


def test_end_of_text_is_allowed_only_where_the_text_may_end(compiler, tokenizer):
    constraint = compiler.compile(SamplingParams(regex="ab?"))
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    end = tokenizer.eos_token_id

    def stands():
        mask = constraint.mask()
        accepting = constraint._matcher.is_accepting()
        return accepting, constraint.finished, bool(mask[end]), bool(mask[b])

    assert stands() == (False, False, False, False)
    constraint.advance(a)
    assert stands() == (True, False, True, True)
    constraint.advance(b)
    assert stands() == (True, True, True, False)


def test_every_end_token_of_the_backbone_ends_a_text(tokenizer):
    ends = tokenizer.convert_tokens_to_ids(["<|end|>", "<|turn|>"])
    constraint = ConstraintCompiler(tokenizer, eos_ids=ends).compile(SamplingParams(regex="x?"))
    assert constraint.mask()[ends].all()


def test_token_that_is_not_allowed_is_an_error(compiler, tokenizer):
    constraint = compiler.compile(SamplingParams(regex="ab"))
    with pytest.raises(EngineError, match="is not allowed here"):
        constraint.advance(tokenizer.convert_tokens_to_ids("b"))


def test_answers_of_one_request_have_independent_constraints(compiler, tokenizer):
    params = SamplingParams(regex="ab|cd")
    first, second = compiler.compile(params), compiler.compile(params)
    first.advance(tokenizer.convert_tokens_to_ids("a"))
    assert second.mask()[tokenizer.convert_tokens_to_ids("c")]
    assert not first.mask()[tokenizer.convert_tokens_to_ids("c")]
    assert compiler.compile(params).mask()[tokenizer.convert_tokens_to_ids("c")]


def test_request_without_a_constraint_has_none(compiler):
    assert compiler.compile(SamplingParams()) is None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{", "is not a JSON schema"),
        ("[1]", "is not a JSON schema"),
        ('{"a":' * 5000, "is not a JSON schema"),
        ({"type": "strin"}, "strin"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "http://example.org/schema"}, "http://example.org/schema"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"enum": []}, "Unsatisfiable"),
        ({"$ref": "#"}, "NoExtension"),
        ({"type": "string", "pattern": "(a"}, "unclosed group"),
        ({"enum": ["x" * MAX_SCHEMA_BYTES]}, str(MAX_SCHEMA_BYTES)),
    ],
)
def test_unsupported_schema_is_rejected_at_once(compiler, schema, said):
    with pytest.raises(RequestError) as caught:
        compiler.compile(SamplingParams(json_schema=schema))
    assert caught.value.place == "json_schema"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("(a", "unclosed group"),
        ("(?=a)b", "look-around"),
        (r"[^\s\S]", "NoExtension"),
        ("a" * (MAX_REGEX_BYTES + 1), str(MAX_REGEX_BYTES)),
    ],
)
def test_unsupported_expression_is_rejected_at_once(compiler, expression, said):
    with pytest.raises(RequestError) as caught:
        compiler.compile(SamplingParams(regex=expression))
    assert caught.value.place == "regex"
    assert said in str(caught.value)


def test_tokenizer_of_another_kind_is_rejected():
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    with pytest.raises(EngineError, match="cannot be constrained") as caught:
        ConstraintCompiler(PreTrainedTokenizerFast(tokenizer_object=core), name="tiny")
    assert caught.value.place == "tiny"


@pytest.fixture(scope="module")
def real(request):
    return AutoTokenizer.from_pretrained(fetch_backbone("smollm2-135m-instruct"))


@pytest.mark.weights
def test_real_tokenizer_gives_json_and_matches(real):
    compiler = ConstraintCompiler(real)
    for seed in range(5):
        text = generate(compiler, real, seed, json_schema=Person.model_json_schema())
        Person.model_validate_json(text)
        for expression in EXPRESSIONS:
            assert re.fullmatch(expression, generate(compiler, real, seed, regex=expression))
