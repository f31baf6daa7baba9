"""What an encoder-decoder gives for targets: teacher forcing, greedy texts and beams.

The reference is peft's model on plain transformers, one pair at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from differences import NUM_TOKENS, Differences, token_difference
from torch.nn import functional as F
from transformers import AutoTokenizer

from adapterhub.engine.adapter_task import task_of
from adapterhub.engine.sampling.params import SamplingParams

if TYPE_CHECKING:
    from adapterhub.adapters.artifact import Artifact
    from adapterhub.engine.engine import Engine

#: Adapter of each pair of a batch.
NAMES = (None, "a0", "a1", "a0", "a1")
PAIRS = (
    ("the old river", "a man sang"),
    ("spring is wide and the man sang of home", "the river"),
    ("a man", "home in spring and of old"),
    ("the river sang in the wide old home of a man and", "wide"),
    ("home", "the old man is home"),
)
BEAMS = 3


def compare_targets(
    engine: Engine, references: list[Any], artifacts: list[Artifact]
) -> Differences:
    """Compare losses, greedy tokens and beams of a batch of both adapters with peft's."""
    differences = Differences()
    tokenizer = AutoTokenizer.from_pretrained(engine.backbone.path)
    sources = [tokenizer(source)["input_ids"] for source, _ in PAIRS]
    greedy = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=1)
    beams = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, num_beams=BEAMS)
    texts = engine.generate(sources, NAMES, greedy)
    searched = engine.generate(sources, NAMES, beams)
    losses = _losses(engine, artifacts[0])
    for at, (name, source) in enumerate(zip(NAMES, sources, strict=True)):
        what = f"{name or 'base'} of {len(source)}"
        model = references[0 if name is None else int(name[1:])]
        for output in (texts[at], searched[at]):
            if output.error is not None:
                raise RuntimeError(f"generation failed: {output.error}")
        if name is None:
            with model.disable_adapter():
                expected = _expected(model, tokenizer, source, PAIRS[at][1])
        else:
            expected = _expected(model, tokenizer, source, PAIRS[at][1])
        loss, tokens, scores, best = expected
        differences.add(f"{what}, loss", abs(losses[at] - loss))
        answer = texts[at].outputs[0]
        found = torch.tensor([each.chosen for each in answer.logprobs])
        difference = token_difference(list(answer.tokens), found, tokens, scores)
        differences.add(f"{what}, greedy", difference)
        same = list(searched[at].tokens) == best
        differences.add(f"{what}, {BEAMS} beams", 0.0 if same else float("inf"))
    return differences


def _losses(engine: Engine, artifact: Artifact) -> list[float]:
    task = task_of(artifact.manifest, engine.backbone)
    requests = []
    for number, (name, (source, target)) in enumerate(zip(NAMES, PAIRS, strict=True), start=1):
        example = task.encode({"source": source, "target": target}, number, train=True)
        requests.append(engine.add_scoring(example, name, task=task))
    while not all(request.finished for request in requests):
        engine.step()
    return [request.scores().mean_loss for request in requests]


def _expected(
    model: Any, tokenizer: Any, source: list[int], target: str
) -> tuple[float, list[int], torch.Tensor, list[int]]:
    """Return the loss of a target, greedy tokens with their scores, and the best beam."""
    ids = torch.tensor([source])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.tensor([tokenizer(text_target=target)["input_ids"]])
    start = [model.config.decoder_start_token_id, tokenizer.cls_token_id]
    options = {"decoder_input_ids": torch.tensor([start]), "max_new_tokens": NUM_TOKENS}
    with torch.no_grad():
        # some classes smooth the labels of the loss that they return
        logits = model(**inputs, labels=labels).logits
        loss = float(F.cross_entropy(logits[0].float(), labels[0]))
        greedy = model.generate(
            **inputs,
            **options,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = model.generate(**inputs, **options, num_beams=BEAMS, do_sample=False)
    scores = torch.log_softmax(torch.cat(greedy.logits).float(), -1)
    answer = best[0, len(start) :].tolist()
    end = tokenizer.eos_token_id
    answer = answer[: answer.index(end)] if end in answer else answer
    return loss, greedy.sequences[0, len(start) :].tolist(), scores, answer
