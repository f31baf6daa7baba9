"""Tiny random audio backbones, and recordings of tones."""

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    GenerationConfig,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

RATE = 16_000
#: Pitch in hertz by label.
TONES = {"low": 220.0, "middle": 700.0, "high": 2400.0}
_WAVE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 32),
    "conv_kernel": (10, 8, 8),
    "conv_stride": (5, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
    "initializer_range": 0.2,
}
FAMILIES = ("wav2vec2", "wav2vec2-layer-norm", "hubert", "wavlm", "whisper", "ast")


def build(family: str):
    """Return a model and its feature extractor."""
    torch.manual_seed(0)
    plain = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    match family:
        case "wav2vec2":
            return Wav2Vec2Model(Wav2Vec2Config(**_WAVE)), plain
        case "wav2vec2-layer-norm":
            config = Wav2Vec2Config(**_WAVE, feat_extract_norm="layer", do_stable_layer_norm=True)
            return Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(return_attention_mask=True)
        case "hubert":
            return HubertModel(HubertConfig(**_WAVE)), plain
        case "wavlm":
            return WavLMModel(WavLMConfig(**_WAVE)), plain
        case "whisper":
            config = WhisperConfig(
                vocab_size=64,
                d_model=32,
                encoder_layers=2,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=48,
                decoder_ffn_dim=48,
                max_source_positions=100,
                max_target_positions=16,
                classifier_proj_size=16,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=3,
                begin_suppress_tokens=None,
                init_std=0.2,
            )
            return WhisperForConditionalGeneration(config), WhisperFeatureExtractor(chunk_length=2)
        case _:
            config = ASTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=48,
                max_length=64,
                num_mel_bins=32,
                initializer_range=0.2,
            )
            return ASTModel(config), ASTFeatureExtractor(max_length=64, num_mel_bins=32)


def save_audio(folder: Path, family: str = "wav2vec2") -> Path:
    """Write a backbone folder."""
    model, extractor = build(family)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def tone(label: str, number: int, *, rate: int = 8000, seconds: float | None = None, form="WAV"):
    """Return a recording of a tone with some noise, about half a second long."""
    draw = random.Random(number)
    length = seconds or 0.4 + 0.03 * (number % 5)
    times = np.arange(round(length * rate)) / rate
    noise = np.random.default_rng(number).normal(0, 0.02, len(times))
    wave = 0.5 * np.sin(2 * np.pi * TONES[label] * draw.uniform(0.9, 1.1) * times) + noise
    return encoded(wave, rate, form)


def encoded(samples, rate: int, form: str = "WAV") -> bytes:
    """Return samples ``[samples]`` or ``[samples, channels]`` as a file."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form)
    return stream.getvalue()


#: Special tokens of a Whisper before its timestamps, in its order.
_SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>"),
    *("<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)
#: The same of a Whisper for English alone.
_ENGLISH = tuple(
    each for each in _SPECIAL if each not in ("<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>")
)
#: Window of the tiny Whisper.
SECONDS = 2


def save_whisper(folder: Path, *, multilingual: bool = True, seed: int = 0) -> Path:
    """Write a Whisper with a tokenizer of bytes, whose window has two seconds."""
    letters = [bytes_to_unicode()[byte] for byte in range(256)]
    times = [f"<|{0.02 * at:.2f}|>" for at in range(SECONDS * 50 + 1)]
    special = [*(_SPECIAL if multilingual else _ENGLISH), *times]
    vocab = {token: at for at, token in enumerate([*letters, *special])}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[: -len(times)]})
    tokenizer.save_pretrained(folder)
    end, start = vocab["<|endoftext|>"], vocab["<|startoftranscript|>"]
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=len(vocab),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=SECONDS * 50,
        max_target_positions=48,
        classifier_proj_size=16,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        init_std=0.2,
    )
    model = WhisperForConditionalGeneration(config)
    names = {"<|en|>", "<|de|>"} & vocab.keys()
    tasks = {"transcribe", "translate"} if multilingual else set()
    model.generation_config = GenerationConfig(
        eos_token_id=end,
        bos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=[vocab["!"], vocab["?"], start],
        begin_suppress_tokens=[vocab["\u0120"], end],
        no_timestamps_token_id=vocab["<|notimestamps|>"],
        prev_sot_token_id=vocab["<|startofprev|>"],
        max_initial_timestamp_index=50,
        max_length=48,
        is_multilingual=multilingual,
        return_timestamps=False,
        **({"lang_to_id": {each: vocab[each] for each in names}} if multilingual else {}),
        **({"task_to_id": {each: vocab[f"<|{each}|>"] for each in tasks}} if multilingual else {}),
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=SECONDS).save_pretrained(folder)
    return folder


def save_tones(folder: Path, *, count: int = 36, zipped: bool = True, name: str = "rows") -> Path:
    """Write examples that name recordings, and the recordings in a zip file or folder."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = list(TONES)
    examples = [
        {"file": f"{number:03}.wav", "label_name": labels[number % 3], "text": labels[number % 3]}
        for number in range(count)
    ]
    recordings = {
        example["file"]: tone(example["label_name"], number)
        for number, example in enumerate(examples)
    }
    if zipped:
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for member, content in recordings.items():
                archive.writestr(member, content)
    else:
        for member, content in recordings.items():
            (folder / member).write_bytes(content)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path
