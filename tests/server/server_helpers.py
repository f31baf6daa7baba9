"""A server on loopback around a tiny backbone, as its tests use it."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from openai import OpenAI
from tiers import put_adapter

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.settings import EngineSettings
from adapterhub.registry import Registry
from adapterhub.server.serving import listener, open_server
from adapterhub.server.settings import ServerSettings
from adapterhub.specs import LoraSpec, QuantizationSpec
from adapterhub.weights import AdapterWeights
