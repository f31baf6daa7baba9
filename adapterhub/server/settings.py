"""What a server is told: each setting with its meaning, its unit and its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from adapterhub.engine.config import EngineConfig

_SIZES = EngineConfig()
_MIB = 1024 * 1024
#: Shortest key that the settings may give.
_MIN_KEY = 16


def _no_flag(value: Any) -> Any:
    # pydantic takes true for 1
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < _MIN_KEY:
        raise ValueError(f"must have at least {_MIN_KEY} characters")
    return secret


Number = BeforeValidator(_no_flag)
Count = Annotated[int, Number, Field(ge=1)]
CountOrNone = Annotated[int, Number, Field(ge=0)]
Share = Annotated[float, Number, Field(ge=0.0, lt=1.0)]
Seconds = Annotated[float, Number, Field(gt=0.0, le=86400.0)]


class ServerSettings(BaseModel):
    """What a server is told.

    Args:
        backbone: a name in the catalog, a Hub id, or a local folder; empty only where one is at
            hand already.
        quantization: how the backbone's linear layers are held.
        device: cpu, cuda, cuda:1, …; the fastest where not given.
        adapters: references that are brought up before the server is ready.
        host: address to listen on. One that other machines reach needs a key.
        port: to listen on; 0 for any that is free.
        anonymous_access: what may be done without a key: ``no`` for nothing, ``use``, ``manage``,
            or ``auto``: all on loopback until there is a key, else nothing.
        api_key: a key with the role manage beside those that were created, for containers.
        max_inflight: most rows of requests that are in the engine at once; an eighth more than
            ``max_num_seqs`` where not given. A text that is labelled, answered from or embedded
            counts as one. More of them wait inside, where turns are not fair.
        reserved_share: of these rows, left free by all that ask for more than an equal share, while
            one asks for less or asked lately.
        reserved_seconds: what lately means.
        max_queue: most requests that wait for their turn.
        queue_timeout: longest wait for a turn.
        max_body_bytes: largest body of a request, in bytes.
        max_header_bytes: largest head of a request, in bytes.
        max_connections: most connections; more are answered with 503.
        header_timeout: longest time until a request's head has come.
        body_timeout: longest time until a request's body has come.
        write_timeout: longest time for which a client may read nothing of its answer.
        request_timeout: longest time of a request from its head to the end of its answer.
        keep_alive_timeout: for which a connection without requests is kept.
        shutdown_timeout: longest time for requests to end after SIGTERM.
        log_level: least level that is logged.
        log_prompts: log what is asked and answered too.
        max_num_seqs: see ``EngineConfig``.
        max_num_batched_tokens: see ``EngineConfig``.
        kv_cache_tokens: see ``EngineConfig``.
        block_size: see ``EngineConfig``.
        rank_slots: see ``EngineConfig``.
        max_pooling_tokens: see ``EngineConfig``.
        host_cache_bytes: see ``EngineConfig``.
        prefetch_lookahead: see ``EngineConfig``.
        max_overtakes: see ``EngineConfig``.
        max_copy_bytes: see ``EngineConfig``.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )

    backbone: str = ""
    quantization: Literal["nf4", "fp4", "int8", "none"] = "nf4"
    device: str | None = None
    adapters: tuple[str, ...] = ()

    host: str = "127.0.0.1"
    port: Annotated[int, Number, Field(ge=0, le=65535)] = 8000
    anonymous_access: Literal["auto", "no", "use", "manage"] = "auto"
    api_key: Annotated[SecretStr, AfterValidator(_long_enough)] | None = None

    max_inflight: Count | None = None
    reserved_share: Share = 0.85
    reserved_seconds: Annotated[float, Number, Field(ge=0.0, le=86400.0)] = 30.0
    max_queue: Count = 1024
    queue_timeout: Seconds = 60.0

    max_body_bytes: Count = 4 * _MIB
    max_header_bytes: Annotated[int, Number, Field(ge=1024)] = 64 * 1024
    max_connections: Count = 4096
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 30.0
    write_timeout: Seconds = 30.0
    request_timeout: Seconds = 600.0
    keep_alive_timeout: Count = 15
    shutdown_timeout: CountOrNone = 30

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_prompts: bool = False

    max_num_seqs: Count = _SIZES.max_num_seqs
    max_num_batched_tokens: Count = _SIZES.max_num_batched_tokens
    kv_cache_tokens: Count = _SIZES.kv_cache_tokens
    block_size: Count = _SIZES.block_size
    rank_slots: Count = _SIZES.rank_slots
    max_pooling_tokens: Count = _SIZES.max_pooling_tokens
    host_cache_bytes: Count = _SIZES.host_cache_bytes
    prefetch_lookahead: Count = _SIZES.prefetch_lookahead
    max_overtakes: CountOrNone = _SIZES.max_overtakes
    max_copy_bytes: Count = _SIZES.max_copy_bytes

    @model_validator(mode="after")
    def _sizes_fit(self) -> ServerSettings:
        if self.block_size > self.kv_cache_tokens:
            raise ValueError(
                f"block_size {self.block_size} is larger than "
                f"kv_cache_tokens {self.kv_cache_tokens}"
            )
        return self

    @property
    def places(self) -> int:
        """Rows of requests that are in the engine at once."""
        # the few that wait inside follow at once on those that end
        return self.max_inflight or self.max_num_seqs + self.max_num_seqs // 8

    def engine(self) -> EngineConfig:
        """Return the sizes that the engine is built with."""
        sizes = {name: getattr(self, name) for name in EngineConfig.__dataclass_fields__}
        return EngineConfig(**sizes)
