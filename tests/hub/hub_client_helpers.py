"""Pushing as the client's tests do."""

from registry.registry_helpers import lora_config

from adapterhub.hub.client.address import HubAddress
from adapterhub.hub.client.pushing import plan_push, push

ADDRESS = HubAddress("team/fruit")
CONFIG = lora_config(base_model_name_or_path="someone/tiny")


def send(registry, ref, api, address=ADDRESS, **options):
    return push(registry, plan_push(registry, ref, address, api=api, **options), api=api)
