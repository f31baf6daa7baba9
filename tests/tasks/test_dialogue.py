"""Dialogue."""

import copy
import math

import pytest
import torch
from tokenizers import normalizers
from torch import nn
from torch.nn import functional as F

from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.dialogue import Dialogue
from adapterhub.tasks.generating import AnswerScore
from adapterhub.tasks.token_loss import CHUNK_POSITIONS, summed_cross_entropy, token_scores

PAIR = {"prompt": "my printer does not print", "response": "Restart the printer 😀 ."}


def turns(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]


def with_template(tokenizer, template):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def learned_text(task, encoded):
    return task.tokenizer.decode(list(encoded.targets))


def read_text(task, encoded):
    return task.tokenizer.decode(list(encoded.input_ids))


def test_only_the_answer_and_the_end_of_its_turn_are_learned(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    encoded = task.encode(PAIR, 2, train=True)
    assert learned_text(task, encoded) == "Restart the printer 😀 .<|end|>"
    # each target is the token after its position; the last target itself is not read
    following = [*encoded.input_ids[1:], byte_bpe.convert_tokens_to_ids("<|end|>")]
    assert [following[at] for at in encoded.select] == list(encoded.targets)
    assert encoded.select[-1] == len(encoded) - 1


@pytest.mark.parametrize("opening", [" ", ": ", "\n", "\n\n"])
@pytest.mark.parametrize("answer", ["the castle", " the castle", "\n\nOrion"])
def test_no_token_reaches_from_the_prompt_into_the_answer(byte_bpe, opening, answer):
    template = (
        "{% for m in messages %}<|start|>{{ m['role'] }}OPEN{{ m['content'] }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistantOPEN{% endif %}"
    ).replace("OPEN", opening)
    task = Dialogue(with_template(byte_bpe, template), TaskOptions())
    messages = turns("print", answer, "try", answer)
    encoded = task.encode({"messages": messages}, 1, train=True)
    assert learned_text(task, encoded) == f"{answer}<|end|>" * 2
    prompt = task.prompt_ids(messages[:1])
    assert list(encoded.input_ids[: len(prompt)]) == prompt
    assert encoded.select[0] == len(prompt) - 1


def test_generation_starts_from_what_training_showed_before_the_answer(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    encoded = task.encode(PAIR, 1, train=True)
    prompt = task.prompt_ids([{"role": "user", "content": PAIR["prompt"]}])
    assert list(encoded.input_ids[: len(prompt)]) == prompt
    assert encoded.select[0] == len(prompt) - 1
    # the template's own system message is in both
    assert byte_bpe.decode(prompt).startswith("<|start|>system\nBe kind.<|end|>")


def test_every_turn_of_the_assistant_is_learned_and_nothing_else(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    messages = turns("Lindos ?", "Lindos", "the castle", "\n a  castle\n", "unanswered")
    encoded = task.encode({"messages": messages}, 1, train=True)
    assert learned_text(task, encoded) == "Lindos<|end|>\n a  castle\n<|end|>"
    assert "unanswered" not in read_text(task, encoded)


def test_words_of_the_user_that_equal_the_answer_are_not_learned(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    encoded = task.encode({"messages": turns("print", "print")}, 1, train=True)
    assert learned_text(task, encoded) == "print<|end|>"


def test_an_opening_turn_of_the_assistant_is_context_only(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    opening = {"role": "assistant", "content": "Welcome"}
    example = {"messages": [opening, *turns("print", "try again")]}
    encoded = task.encode(example, 1, train=True)
    assert "Welcome" in read_text(task, encoded)
    assert learned_text(task, encoded) == "try again<|end|>"
    assert task.encode({"messages": [opening]}, 1, train=True) is None


def test_system_messages_of_the_example_go_before_that_of_the_recipe(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions(system_prompt="Be brief."))
    plain = read_text(task, task.encode(PAIR, 1, train=True))
    own = read_text(task, task.encode({**PAIR, "system": "Be long."}, 1, train=True))
    assert plain.startswith("<|start|>system\nBe brief.<|end|>")
    assert own.startswith("<|start|>system\nBe long.<|end|>")
    prompt = task.prompt_ids(turns("Lindos"))
    assert byte_bpe.decode(prompt).startswith("<|start|>system\nBe brief.<|end|>")


def test_an_input_stands_below_its_prompt(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    text = read_text(task, task.encode({**PAIR, "input": "the Orion"}, 1, train=True))
    assert "does not print\n\nthe Orion<|end|>" in text
    same = task.encode({**PAIR, "input": ""}, 1, train=True)
    assert same == task.encode(PAIR, 1, train=True)


def test_long_conversations_lose_their_oldest_turns_and_keep_the_system_message(byte_bpe):
    system = {"role": "system", "content": "Be brief."}
    messages = [system, *turns("first", "one", "second", "two", "third", "three")]
    whole = Dialogue(byte_bpe, TaskOptions()).encode({"messages": messages}, 1, train=True)
    task = Dialogue(byte_bpe, TaskOptions(max_length=len(whole) - 2))
    encoded = task.encode({"messages": messages}, 1, train=True)
    text = read_text(task, encoded)
    assert text.startswith("<|start|>system\nBe brief.<|end|>\n<|start|>user\nsecond")
    assert learned_text(task, encoded) == "two<|end|>three<|end|>"


def test_a_last_answer_that_is_too_long_loses_its_end(byte_bpe):
    whole = Dialogue(byte_bpe, TaskOptions()).encode(PAIR, 1, train=True)
    task = Dialogue(byte_bpe, TaskOptions(max_length=len(whole) - 3))
    encoded = task.encode(PAIR, 1, train=True)
    assert 0 < len(encoded.targets) < len(whole.targets)
    assert list(encoded.targets) == list(whole.targets[: len(encoded.targets)])
    assert len(encoded) <= len(whole) - 3


def test_nothing_is_learned_where_the_prompt_fills_the_example(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions(max_length=10))
    assert task.encode(PAIR, 1, train=True) is None
    with pytest.raises(DataError, match="the limit is 10"):
        task.prompt_ids(turns(PAIR["prompt"]))


def test_prompts_lose_their_oldest_turns_too(byte_bpe):
    history = turns("first", "one", "second")
    whole = Dialogue(byte_bpe, TaskOptions()).prompt_ids(history)
    task = Dialogue(byte_bpe, TaskOptions(max_length=len(whole) - 1))
    assert task.prompt_ids(history) == task.prompt_ids(history[2:])


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            {"prompt": "x", "respons": "y"},
            "example 6, field 'response': the field is missing. Did you",
        ),
        ({"prompt": "x", "response": " "}, "example 6, field 'response': the text is empty"),
        (
            {"promt": "x", "response": "y"},
            "example 6, field 'prompt': the field is missing. Did you",
        ),
        (
            {"messages": turns("x")},
            "example 6, field 'messages': the conversation has no message of",
        ),
        (
            {"messages": [{"role": "usr", "content": "x"}]},
            "'usr' is not a role. Did you mean 'user'?",
        ),
        ({"messages": [{"role": "user", "text": "x"}]}, "no text under 'content'"),
        ({"messages": ["x"]}, "a message must be an object with role and content, not 'x'"),
        ({"messages": []}, "example 6, field 'messages': the list is empty"),
        ({"messages": turns("x", "y"), "prompt": "x"}, "both messages and prompt"),
    ],
)
def test_examples_that_cannot_be_used_are_named(byte_bpe, example, message):
    with pytest.raises(DataError) as caught:
        Dialogue(byte_bpe, TaskOptions()).encode(example, 6, train=True)
    assert message in str(caught.value)


def test_a_backbone_without_template_is_rejected(wordpiece):
    with pytest.raises(RecipeError, match="has no chat template"):
        Dialogue(wordpiece, TaskOptions())


def test_a_template_that_rewrites_earlier_turns_is_rejected(byte_bpe):
    template = (
        "{{ messages | length }}{% for m in messages %}<|start|>{{ m['role'] }}\n"
        "{{ m['content'] }}<|end|>{% endfor %}"
    )
    with pytest.raises(RecipeError, match="rewrites earlier turns"):
        Dialogue(with_template(byte_bpe, template), TaskOptions())


def test_what_a_template_rejects_is_an_error_of_the_example(byte_bpe):
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system messages') }}{% endif %}"
        "<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    task = Dialogue(with_template(byte_bpe, template), TaskOptions())
    with pytest.raises(
        DataError, match=r"example 8: the chat template rejects .*no system messages"
    ):
        task.encode({**PAIR, "system": "x"}, 8, train=True)


@pytest.mark.parametrize("closing", ["", "\n", "</s>\n"])
def test_a_template_without_an_end_of_turn_learns_the_end_of_sequence(byte_bpe, closing):
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}CLOSING{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ).replace("CLOSING", closing)
    task = Dialogue(with_template(byte_bpe, template), TaskOptions())
    encoded = task.encode({"messages": turns("print", "try", "try", "again")}, 1, train=True)
    assert learned_text(task, encoded) == f"try{closing}<|text|>again{closing}<|text|>"
    # it is a target only: what is read is what the template renders
    assert "<|text|>" not in read_text(task, encoded)
    assert task.stop_ids == {byte_bpe.eos_token_id}
    assert task.text_of(list(encoded.targets)[-3 - len(closing) :]).endswith("again")
    assert task.stop_strings == ((closing.strip(),) if closing.strip() else ())
    overshot = task.tokenizer("again</s> and more", add_special_tokens=False)["input_ids"]
    assert task.text_of(overshot) == ("again" if closing.strip() else "again</s> and more")


def test_an_added_token_ends_a_turn_even_if_it_is_not_special(byte_bpe):
    changed = copy.deepcopy(byte_bpe)
    changed.add_tokens(["[over]"])
    template = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}[over]\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant:{% endif %}"
    task = Dialogue(with_template(changed, template), TaskOptions())
    encoded = task.encode({"messages": turns("print", "try")}, 1, train=True)
    assert learned_text(task, encoded) == "try[over]"
    assert changed.convert_tokens_to_ids("[over]") in task.stop_ids


def test_a_template_and_a_tokenizer_without_any_end_are_refused(byte_bpe):
    changed = with_template(byte_bpe, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    changed.eos_token = None
    with pytest.raises(RecipeError, match="ends an answer"):
        Dialogue(changed, TaskOptions())


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"weight": 0.0}])
def test_excluded_answers_are_read_but_not_learned(byte_bpe, mark):
    messages = turns("print", "BAD", "again", "try")
    messages[1] |= mark
    task = Dialogue(byte_bpe, TaskOptions(system_prompt="Be brief."))
    encoded = task.encode({"messages": messages}, 1, train=True)
    assert learned_text(task, encoded) == "try<|end|>"
    assert "BAD" in read_text(task, encoded)
    messages[3] |= mark
    assert task.encode({"messages": messages}, 1, train=True) is None


def test_a_weight_between_zero_and_one_is_refused(byte_bpe):
    messages = turns("print", "try")
    messages[1]["weight"] = 0.5
    with pytest.raises(DataError, match="example 4, field 'messages': the weight"):
        Dialogue(byte_bpe, TaskOptions()).encode({"messages": messages}, 4, train=True)


def test_an_answer_that_loses_its_end_is_marked(byte_bpe):
    whole = Dialogue(byte_bpe, TaskOptions()).encode(PAIR, 1, train=True)
    cut = Dialogue(byte_bpe, TaskOptions(max_length=len(whole) - 3)).encode(PAIR, 1, train=True)
    assert (whole.truncated, cut.truncated) == (False, True)


def test_generation_stops_at_the_end_of_a_turn(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    assert task.stop_ids == set(byte_bpe.convert_tokens_to_ids(["<|end|>", "<|text|>"]))
    ids = byte_bpe(" try again<|end|>")["input_ids"]
    assert task.text_of(ids) == "try again"


def test_class_weights_are_rejected(byte_bpe):
    with pytest.raises(
        RecipeError, match=r"task\.class_weights: generated texts have no class weights"
    ):
        Dialogue(byte_bpe, TaskOptions(class_weights="balanced"))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("frozen", [False, True])
def test_chunked_loss_and_gradient_equal_those_of_all_logits(smoothing, frozen):
    torch.manual_seed(2)
    positions, vocabulary = 2 * CHUNK_POSITIONS + 17, 40
    head = nn.Linear(8, vocabulary, bias=False).requires_grad_(False)
    if frozen:
        head.frozen_weight = head.weight
        head.forward = None  # the kernel reads the matrix alone
    targets = torch.randint(vocabulary, (positions,))
    ours = torch.randn(positions, 8, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_(True)
    loss = summed_cross_entropy(head, ours, targets, smoothing) / positions
    expected = F.cross_entropy(theirs @ head.weight.T, targets, label_smoothing=smoothing)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_logits_are_not_kept_for_the_gradient():
    positions, vocabulary = 3 * CHUNK_POSITIONS, 64
    head = nn.Linear(4, vocabulary, bias=False).requires_grad_(False)
    hidden = torch.randn(positions, 4, requires_grad=True)
    kept = []

    def count(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        summed_cross_entropy(head, hidden, torch.zeros(positions, dtype=torch.int64))
    assert max(kept, default=0) < CHUNK_POSITIONS * vocabulary


def test_no_positions_give_no_loss():
    hidden = torch.zeros(0, 4, requires_grad=True)
    targets = torch.zeros(0, dtype=torch.int64)
    assert float(summed_cross_entropy(nn.Linear(4, 5), hidden, targets)) == 0.0
    losses, hits = token_scores(nn.Linear(4, 5), hidden, targets)
    assert (len(losses), len(hits)) == (0, 0)


def test_each_example_is_scored_by_its_own_tokens(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions(label_smoothing=0.3))
    examples = [PAIR, {"messages": turns("Lindos ?", "Lindos", "Orion ?", "Orion")}]
    batch = pack([task.encode(example, 1, train=True) for example in examples])
    torch.manual_seed(3)
    logits = torch.randn(len(batch.targets), len(byte_bpe))
    decoded = task.decode(lambda h: h, logits, batch)
    expected = F.cross_entropy(logits, batch.targets, reduction="none").split(batch.selected)
    assert [score.loss for score in decoded] == pytest.approx([float(e.sum()) for e in expected])
    result = task.evaluate(examples, decoded).metrics
    mean = float(F.cross_entropy(logits, batch.targets))
    assert result["loss"] == pytest.approx(mean, rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    hits = (logits.argmax(dim=-1) == batch.targets).float().mean()
    assert result["token_accuracy"] == pytest.approx(float(hits))
    assert task.weight(batch) == len(batch.targets)


def test_a_hopeless_loss_has_an_infinite_perplexity(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    assert task.evaluate([PAIR], [AnswerScore(9e9, 1, 0)]).metrics["perplexity"] == math.inf
    with pytest.raises(DataError, match="no answers"):
        task.evaluate([], [])


def test_an_example_gives_its_question_and_the_reference(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    messages, reference = task.question_and_reference(
        {"messages": turns("a", "b", "c", "d", "e")}, 1
    )
    assert (messages, reference) == (turns("a", "b", "c"), "d")


def test_chrf_is_100_for_equal_texts_and_0_for_strange_ones(byte_bpe):
    task = Dialogue(byte_bpe, TaskOptions())
    examples = [PAIR, {"messages": turns("a", "try")}]
    scores = task.score_texts(examples, ["Restart the printer 😀 .", "try"])
    assert scores.metrics == {"chrf": 100.0}
    assert "version:" in scores.signatures["chrf"]
    assert task.score_texts([PAIR], ["qqq"]).metrics["chrf"] == 0.0
    with pytest.raises(DataError, match="1 texts can't be scored by 2 references"):
        task.score_texts(examples, ["a"])
    with pytest.raises(DataError, match="0 texts"):
        task.score_texts([], [])


def test_a_tokenizer_that_marks_the_start_of_any_text_reads_answers_as_within_the_text(byte_bpe):
    marking = copy.deepcopy(byte_bpe)
    marking.backend_tokenizer.normalizer = normalizers.Prepend("_")
    marking.chat_template = byte_bpe.chat_template
    example = {"messages": turns("print", "Lindos", "try", "again")}
    task = Dialogue(marking, TaskOptions())
    encoded = task.encode(example, 1, train=True)
    whole = marking.apply_chat_template(example["messages"], tokenize=True)["input_ids"]
    assert list(encoded.input_ids) == whole[: len(encoded)]
    prompt = task.prompt_ids(example["messages"][:1])
    assert list(encoded.input_ids[: len(prompt)]) == prompt
