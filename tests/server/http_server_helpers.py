"""A server on loopback around a tiny backbone, for its tests."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import httpx
import torch
from openai import OpenAI

from adapterhub.adapters.artifact import write_artifact
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.peft_format import config_document, peft_config
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.server.serving import Listener, open_server
from adapterhub.server.settings import ServerSettings
from adapterhub.specs import LoraSpec, QuantizationSpec

UNQUANTIZED = QuantizationSpec("none", "float32")
SMALL = {
    "port": 0,
    "shutdown_timeout": 5,
    "max_num_seqs": 8,
    "kv_cache_tokens": 1024,
    "max_num_batched_tokens": 64,
}
#: Widths of the tiny decoder: hidden size and size of its feed-forward layers.
HIDDEN, INNER, LAYERS = 64, 128, 2
WIDTHS = {"q_proj": (HIDDEN, HIDDEN), "down_proj": (INNER, HIDDEN)}
PARTS = {"q_proj": "self_attn", "down_proj": "mlp"}
TASKS = {
    "dialogue": "CAUSAL_LM",
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "relation-extraction": "SEQ_CLS",
    "ranking": "SEQ_CLS",
    "translation": "CAUSAL_LM",
    "image-classification": "",
    "audio-classification": "",
    "speech-recognition": "",
}
LABELS = {
    "dialogue": (),
    "text-classification": ("glad", "sad", "odd"),
    "token-classification": ("O", "B-THING", "I-THING"),
    "question-answering": ("start", "end"),
    "relation-extraction": ("Made-By(e1,e2)", "Made-By(e2,e1)", "Other"),
    "ranking": ("0", "1"),
    "translation": (),
    "image-classification": ("red", "green", "blue"),
    "audio-classification": ("low", "middle", "high"),
    "speech-recognition": (),
}
#: Names of the layers of heads; of other tasks with labels, "score".
HEADS = {
    "question-answering": ["qa_outputs"],
    "image-classification": ["classifier"],
    "audio-classification": ["projector", "classifier"],
    "speech-recognition": ["lm_head"],
}


@dataclass
class Served:
    """A running server with access to its parts."""

    url: str
    server: object
    listener: object

    @property
    def client(self):
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    @property
    def base(self):
        return self.server.names.base

    @property
    def backbone(self):
        """The only backbone, as requests see it."""
        return self.server.backbones.first.loaded.backbone

    @property
    def engine(self):
        return self.server.backbones.first.loaded.engine

    @property
    def chats(self):
        return self.server.backbones.first.loaded.chats

    def request(self, method, path, **options):
        return httpx.request(method, f"{self.url}{path}", timeout=60, **options)

    def post(self, path, body, **options):
        return self.request("POST", path, json=body, **options)

    def digest(self, ref):
        return self.server.registry.resolve(ref).digest

    def stats(self):
        return self.engine._engine.stats()


def random_lora(seed, *, rank=4, task="dialogue", scale=0.3):
    """Return an adapter of large random values, with a head if its task has one."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name, (wide, out) in WIDTHS.items():
            # as transformers' class for the task calls it
            body = "transformer" if task == "question-answering" else "model"
            key = f"base_model.model.{body}.layers.{layer}.{PARTS[name]}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, wide, generator=draw) * scale
            tensors[f"{key}.lora_B.weight"] = torch.randn(out, rank, generator=draw) * scale
    labels = LABELS[task]
    if labels:
        (kind,) = HEADS.get(task, ["score"])
        head = torch.randn(len(labels), HIDDEN, generator=draw)
        tensors[f"base_model.model.{kind}.weight"] = head
        if kind != "score" or task == "token-classification":
            tensors[f"base_model.model.{kind}.bias"] = torch.zeros(len(labels))
    spec = LoraSpec(rank=rank, alpha=float(rank), target_modules=tuple(WIDTHS))
    return AdapterWeights(spec, tensors)


def store(
    registry,
    folder,
    name,
    weights,
    fingerprint,
    *,
    task="dialogue",
    reads=None,
    head=None,
    labels=None,
):
    """Store an adapter in a registry; return its version. ``reads`` are settings of its task."""
    labels = LABELS[task] if labels is None else labels
    head = (head or HEADS.get(task, ["score"])) if labels else None
    config = peft_config(
        weights.spec,
        task_type=TASKS[task],
        target_modules=weights.spec.target_modules,
        base_model="tiny",
        modules_to_save=head,
        revision=None,
    )
    section = {"name": task, "max_length": 32, "max_new_tokens": 8, "system_prompt": ""}
    section |= reads or {}
    manifest = Manifest(
        task=task,
        labels=labels,
        backbone=BackboneRef(name="tiny", fingerprint=fingerprint),
        quantization=UNQUANTIZED,
        adapter=weights.spec,
        trained_parameters=weights.num_parameters,
        backbone_parameters=1000,
        recipe={"task": section, "backbone": {"name": "tiny", "revision": None}},
        data={},
        metrics=Metrics(before={"loss": 3.0}, after={"loss": 2.0}),
        seed=0,
        libraries={},
    )
    write_artifact(
        folder,
        tensors=weights.tensors,
        adapter_config=config_document(config),
        manifest=manifest,
        card="# A card\n",
    )
    return registry.put(folder, name)


def store_adapters(registry, home, backbone_folder):
    """Store two dialogue adapters, one of another backbone, a classifier and a tagger."""
    fingerprint = load_backbone(str(backbone_folder), UNQUANTIZED).fingerprint
    store(registry, home / "a1", "alpha", random_lora(1), fingerprint)
    store(registry, home / "b1", "beta", random_lora(2), fingerprint)
    registry.set_alias("alpha@1", "prod")
    store(registry, home / "f1", "foreign", random_lora(3), "sha256:other+none")
    for seed, (name, task) in enumerate(
        {"moods": "text-classification", "things": "token-classification"}.items(), start=4
    ):
        store(registry, home / name, name, random_lora(seed, task=task), fingerprint, task=task)


@contextmanager
def running_server(backbone_folder, registry, *, settings=None, access=None, **changes):
    """Run a server in a thread until the block ends; of one backbone or a list of them."""
    loop = asyncio.new_event_loop()
    up = threading.Event()
    kept = []

    async def main():
        folders = backbone_folder if isinstance(backbone_folder, list) else [backbone_folder]
        loads = [partial(load_backbone, str(folder), UNQUANTIZED) for folder in folders]
        chosen = settings or ServerSettings(**SMALL | changes)
        async with open_server(loads, registry, settings=chosen, access=access) as server:
            listening = Listener(server)
            task = asyncio.ensure_future(listening.serve())
            while not listening.started and not task.done():
                await asyncio.sleep(0.01)
            port = listening.servers[0].sockets[0].getsockname()[1]
            kept.append(Served(f"http://127.0.0.1:{port}", server, listening))
            up.set()
            await task

    def run():
        try:
            loop.run_until_complete(main())
        finally:
            up.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    up.wait(60)
    try:
        yield kept[0]
    finally:
        kept[0].listener.should_exit = True
        thread.join(30)
        loop.close()
