"""Some architectures of the conformance suite; ``run_architectures.py`` checks all of them."""

import pytest
from architecture_suite import check_architecture
from run_architectures import PAGE, page, read_results

#: Encoder-decoders, and one of each other kind: fast and padded paths, heads of several layers,
#: recurrent state, experts, layers that peft would not load.
SAMPLE = [
    ("t5", "seq2seq_lm", "padded"),
    ("bart", "seq2seq_lm", "padded"),
    ("mbart", "seq2seq_lm", "padded"),
    ("marian", "seq2seq_lm", "padded"),
    ("m2m_100", "seq2seq_lm", "padded"),
    ("pegasus", "seq2seq_lm", "padded"),
    ("bart", "sequence", "padded"),
    ("llama", "causal_lm", "fast"),
    ("gpt2", "causal_lm", "fast"),
    ("granite", "causal_lm", "fast"),
    ("stablelm", "causal_lm", "padded"),
    ("mamba", "causal_lm", "padded"),
    ("laguna", "causal_lm", "fast"),
    ("qwen3_moe", "sequence", "fast"),
    ("roberta", "token", "fast"),
    ("modernbert", "sequence", "fast"),
    ("deberta-v2", "sequence", "padded"),
    ("mpnet", "span", "padded"),
    ("swinv2", "image", "images"),
]


@pytest.mark.parametrize(("model_type", "head", "path"), SAMPLE)
def test_two_adapters_give_what_peft_gives(tmp_path, model_type, head, path):
    outcome = check_architecture(tmp_path, model_type, head)
    assert (outcome.status, outcome.path) == ("equal", path), outcome.detail


def test_the_page_shows_the_results():
    assert PAGE.read_text() == page(read_results())
