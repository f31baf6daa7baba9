"""What the engine makes of adapters, alone and in mixed batches, compared with peft."""

import math

import torch
from kind_cases import IDS, logits

from adapterhub.data.packing import EncodedExample
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import AdapterHubError

SIZES = EngineConfig(
    max_num_seqs=8, max_num_batched_tokens=64, kv_cache_tokens=2048, block_size=4, rank_slots=512
)
PROMPTS = [IDS[0].tolist(), [9, 11, 8, 30, 12], [6 + (j * j) % 50 for j in range(19)]]
COUNT = 5
HEADS = {"SEQ_CLS": "sequence", "TOKEN_CLS": "token", "QUESTION_ANS": "span"}


def served_differences(engine, served, names):
    """Return the largest difference from peft of each adapter, served in one batch.

    Args:
        served: Name to case and peft's model; all on one backbone.
        names: Adapters of the batch.

    Returns:
        Name to the difference of logits of a head, or of log-probabilities of generated tokens;
        or to the error.
    """
    try:
        if served[names[0]][0].task_type == "CAUSAL_LM":
            return _generated(engine, served, names)
        return _labelled(engine, served, names)
    except (AdapterHubError, RuntimeError) as error:
        return dict.fromkeys(names, f"{type(error).__name__}: {error}")


def _largest(*differences):
    """Return the largest difference; NaN is the largest of all."""
    return max(math.inf if math.isnan(each) else each for each in differences)


def _generated(engine, served, names):
    requests = [(prompt, name) for name in names for prompt in PROMPTS]
    params = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True, logprobs=1)
    found = engine.generate(
        [prompt for prompt, _ in requests],
        [name for _, name in requests],
        [params] * len(requests),
    )
    worst = dict.fromkeys(names, 0.0)
    for (prompt, name), completion in zip(requests, found, strict=True):
        if completion.error:
            raise RuntimeError(f"{name}: {completion.error}")
        (answer,) = completion.outputs
        scores = torch.tensor([each.chosen for each in answer.logprobs])
        expected, best = _log_probabilities(served[name][1], prompt, list(answer.tokens))
        difference = float((scores - expected).abs().max())
        # a token that peft does not choose differs by what it falls short
        shortfall = float((best - expected).max())
        worst[name] = _largest(worst[name], difference, shortfall)
    return worst


def _log_probabilities(model, prompt, answer):
    """Return peft's log-probabilities of an answer's tokens, and of the best ones."""
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    scores = torch.log_softmax(logits(model, ids)[0, -len(answer) :], -1)
    return scores.gather(-1, torch.tensor(answer).unsqueeze(-1))[:, 0], scores.amax(-1)


def _labelled(engine, served, names):
    requests = []
    for name in names:
        kind = HEADS[served[name][0].task_type]
        for prompt in PROMPTS:
            select = (0,) if kind == "sequence" else tuple(range(len(prompt)))
            example = EncodedExample(1, prompt, select)
            requests.append((name, prompt, engine.add_labeling(example, name, kind=kind)))
    while not all(request.finished for *_, request in requests):
        engine.step()
    worst = dict.fromkeys(names, 0.0)
    for name, prompt, request in requests:
        (found,) = request.results()
        expected = logits(served[name][1], torch.tensor([prompt]))
        difference = float((found - expected.reshape(found.shape)).abs().max())
        worst[name] = _largest(worst[name], difference)
    return worst
