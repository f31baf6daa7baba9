"""Where do adapter affinity, copies of hot adapters and cache sizes meet, on 1,000 replicas?

A simulation, without a cluster: requests for adapters whose popularity is Zipf's arrive at a fixed
rate; a replica computes a request for one unit of time, keeps the adapters that it used last, and
takes longer where it has to load one first. Waits are in units of the time that a request computes,
and include loading.

    python benchmarks/affinity_simulation.py --output benchmarks/results/affinity-simulation.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    #: Replica for an adapter, and whether it is one of the adapter's own.
    Choose = Callable[[int, float], tuple[int, bool]]

POLICIES = ("two random", "one home", "one home, spill", "homes by load, spill")


@dataclass(frozen=True)
class World:
    """What is simulated.

    Args:
        replicas: Number of replicas.
        adapters: Number of adapters.
        exponent: Exponent of Zipf's law: rank r has a share proportional to r^-exponent.
        load: Requests that arrive, as a share of what all replicas compute without loading.
        slots: Requests that a replica computes at once.
        load_time: Time to load an adapter, in units of the time of a request.
        full: Wait at a replica above which it is full, in the same units.
    """

    replicas: int = 1000
    adapters: int = 100_000
    exponent: float = 1.0
    load: float = 0.7
    slots: int = 8
    load_time: float = 0.5
    full: float = 0.5


@dataclass(frozen=True)
class Outcome:
    """Result of one policy with one cache size."""

    policy: str
    cache: int
    hit_rate: float
    loads_per_request: float
    spilled: float
    wait_p50: float
    wait_p99: float
    busiest: float


class Replicas:
    """Queues and caches of all replicas."""

    def __init__(self, world: World, cache: int) -> None:
        self._world = world
        self._cache = cache
        self._resident: list[OrderedDict[int, None]] = [
            OrderedDict() for _ in range(world.replicas)
        ]
        self.busy_until = [0.0] * world.replicas
        self.served = [0] * world.replicas

    def wait(self, replica: int, now: float) -> float:
        return max(0.0, self.busy_until[replica] - now)

    def serve(self, replica: int, adapter: int, now: float) -> tuple[bool, float]:
        """Compute a request; return whether its adapter was resident, and its wait."""
        resident = self._resident[replica]
        hit = adapter in resident
        if hit:
            resident.move_to_end(adapter)
        else:
            resident[adapter] = None
            if len(resident) > self._cache:
                resident.popitem(last=False)
        wait = self.wait(replica, now)
        work = 1.0 if hit else 1.0 + self._world.load_time
        self.busy_until[replica] = max(now, self.busy_until[replica]) + work / self._world.slots
        self.served[replica] += 1
        return hit, wait + (0.0 if hit else self._world.load_time)


def simulate(world: World, policy: str, cache: int, requests: int, seed: int = 0) -> Outcome:
    """Return the outcome of the second half of the requests; the first half fills the caches."""
    draw = np.random.default_rng(seed)
    share = np.arange(1, world.adapters + 1, dtype=np.float64) ** -world.exponent
    share /= share.sum()
    wanted = draw.choice(world.adapters, size=requests, p=share).tolist()
    replicas = Replicas(world, cache)
    choose = _chooser(world, policy, share, replicas, draw)
    gap = 1.0 / (world.load * world.replicas * world.slots)
    hits, spilled, waits = 0, 0, []
    for number, adapter in enumerate(wanted):
        if number == requests // 2:
            hits, spilled, waits = 0, 0, []
            replicas.served = [0] * world.replicas
        now = number * gap
        replica, own = choose(adapter, now)
        hit, wait = replicas.serve(replica, adapter, now)
        hits += hit
        spilled += not own
        waits.append(wait)
    count = len(waits)
    p50, p99 = np.quantile(waits, [0.5, 0.99])
    return Outcome(
        policy=policy,
        cache=cache,
        hit_rate=hits / count,
        loads_per_request=1.0 - hits / count,
        spilled=spilled / count,
        wait_p50=float(p50),
        wait_p99=float(p99),
        busiest=max(replicas.served) * world.replicas / count,
    )


def _chooser(
    world: World,
    policy: str,
    share: np.ndarray,
    replicas: Replicas,
    draw: np.random.Generator,
) -> Choose:
    """Return the policy's choice of a replica."""
    pairs = iter(lambda: draw.integers(world.replicas, size=(65536, 2)).tolist(), None)
    left: list[list[int]] = []
    first_home = draw.integers(world.replicas, size=world.adapters).tolist()
    # as many homes as the adapter's load needs at the load of the whole, and one more
    needed = np.ceil(share * world.replicas * world.load * 2).astype(int).clip(1, world.replicas)
    homes = needed.tolist() if policy.startswith("homes") else [1] * world.adapters

    def two_random(now: float) -> int:
        if not left:
            left.extend(next(pairs))
        one, two = left.pop()
        return one if replicas.busy_until[one] <= replicas.busy_until[two] else two

    def random_choice(_adapter: int, now: float) -> tuple[int, bool]:
        return two_random(now), True

    def home_of(adapter: int) -> int:
        count = homes[adapter]
        home = first_home[adapter]
        if count == 1:
            return home
        if not left:
            left.extend(next(pairs))
        one, two = ((home + each % count) % world.replicas for each in left.pop())
        return one if replicas.busy_until[one] <= replicas.busy_until[two] else two

    def affine(adapter: int, now: float) -> tuple[int, bool]:
        home = home_of(adapter)
        if policy.endswith("spill") and replicas.wait(home, now) > world.full:
            return two_random(now), False
        return home, True

    return random_choice if policy == "two random" else affine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2_000_000)
    parser.add_argument("--caches", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--replicas", type=int, default=World.replicas)
    parser.add_argument("--adapters", type=int, default=World.adapters)
    parser.add_argument("--exponent", type=float, default=World.exponent)
    parser.add_argument("--load", type=float, default=World.load)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    world = World(options.replicas, options.adapters, options.exponent, options.load)
    outcomes = []
    print("| policy | cache | hit rate | loads per request | spilled | p50 | p99 | busiest |")
    print("|---|---|---|---|---|---|---|---|")
    for cache in options.caches:
        for policy in POLICIES:
            began = time.perf_counter()
            found = simulate(world, policy, cache, options.requests)
            outcomes.append(asdict(found) | {"seconds": time.perf_counter() - began})
            print(
                f"| {policy} | {cache} | {found.hit_rate:.3f} | {found.loads_per_request:.3f} "
                f"| {found.spilled:.3f} | {found.wait_p50:.2f} | {found.wait_p99:.2f} "
                f"| {found.busiest:.1f}x |",
                flush=True,
            )
    if options.output:
        document = {"world": asdict(world), "requests": options.requests, "outcomes": outcomes}
        options.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
