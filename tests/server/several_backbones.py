"""Adapters for a tiny encoder and tiny audio backbones, beside those of the tiny decoder."""

import torch
from http_server_helpers import UNQUANTIZED, store, store_adapters
from test_server_transcription import whisper_adapter

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.specs import LoraSpec

LABELS = 3
#: Width of the tiny encoder and of the tiny audio backbone, and of the latter's projector.
ENCODER, AUDIO, INNER = 64, 32, 16


def encoder_lora(seed):
    """Return LoRA on the queries of BERT, and a head for three labels."""
    draw = torch.Generator().manual_seed(seed)
    return _lora(draw, ENCODER, "bert.encoder.layer.{}.attention.self.query", "query", ENCODER)


def audio_lora(seed):
    """Return LoRA on the queries of Wav2Vec2, and a head for three labels."""
    draw = torch.Generator().manual_seed(seed)
    weights = _lora(draw, AUDIO, "wav2vec2.encoder.layers.{}.attention.q_proj", "q_proj", INNER)
    head = {
        "base_model.model.projector.weight": torch.randn(INNER, AUDIO, generator=draw),
        "base_model.model.projector.bias": torch.zeros(INNER),
    }
    return AdapterWeights(weights.spec, {**weights.tensors, **head})


def _lora(draw, width, layer, target, head):
    tensors = {
        "base_model.model.classifier.weight": torch.randn(LABELS, head, generator=draw),
        "base_model.model.classifier.bias": torch.zeros(LABELS),
    }
    for number in range(2):
        key = f"base_model.model.{layer.format(number)}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, width, generator=draw)
        tensors[f"{key}.lora_B.weight"] = torch.randn(width, 4, generator=draw)
    return AdapterWeights(LoraSpec(rank=4, alpha=4.0, target_modules=(target,)), tensors)


def store_for_all(registry, home, decoder, encoder, audio, speech):
    """Store the decoder's adapters, classifiers of texts and of recordings, and one for speech."""
    store_adapters(registry, home, decoder)
    for folder, name, weights, task, head in (
        (encoder, "feelings", encoder_lora(7), "text-classification", ["classifier"]),
        (audio, "tones", audio_lora(8), "audio-classification", None),
    ):
        fingerprint = load_backbone(str(folder), UNQUANTIZED).fingerprint
        store(registry, home / name, name, weights, fingerprint, task=task, head=head)
    reads = {"language": "en", "max_seconds": 2, "max_new_tokens": 64}
    fingerprint = load_backbone(str(speech), UNQUANTIZED).fingerprint
    weights, task = whisper_adapter(9), "speech-recognition"
    store(registry, home / "said", "dictation", weights, fingerprint, task=task, reads=reads)
