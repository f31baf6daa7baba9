"""The Hub as a client: push a version to a repository, pull an adapter from one."""

from adapterhub.hub.client.address import HubAddress, parse_address
from adapterhub.hub.client.pulling import Pulled, pull
from adapterhub.hub.client.pushing import PushPlan, plan_push, push

__all__ = ["HubAddress", "Pulled", "PushPlan", "parse_address", "plan_push", "pull", "push"]
