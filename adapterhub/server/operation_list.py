"""Everything that the API does, each with its address."""

from __future__ import annotations

from adapterhub.server.openapi import describing
from adapterhub.server.operations import Operation
from adapterhub.server.routes import (
    adapters,
    chat,
    completions,
    embeddings,
    generating,
    health,
    models,
    stats,
    tasks,
)
from adapterhub.server.schemas import adapters as own
from adapterhub.server.schemas import tasks as task
from adapterhub.server.schemas.chat import ChatAnswer, ChatRequest
from adapterhub.server.schemas.completion import (
    CompletionAnswer,
    CompletionRequest,
    EmbeddingAnswer,
    EmbeddingRequest,
)

_TEXT, _HTML = "text/plain", "text/html"


def operations() -> tuple[Operation, ...]:
    """Return every operation, the two that describe the others last."""
    found = (*_openai(), *_tasks(), *_adapters(), *_vllm(), *_server())
    as_json, as_page = describing(found)
    return (
        *found,
        Operation("GET", "/openapi.json", as_json, "This document", "server", open=True),
        Operation("GET", "/docs", as_page, "This page", "server", media=_HTML, open=True),
    )


def _openai() -> tuple[Operation, ...]:
    group = "openai"
    return (
        Operation("GET", "/v1/models", models.list_models, "The backbone and its adapters", group),
        Operation("GET", "/v1/models/{model:path}", models.show_model, "One model", group),
        Operation(
            "POST",
            "/v1/chat/completions",
            chat.chat,
            "Continue a conversation",
            group,
            ChatRequest,
            ChatAnswer,
            streams=True,
        ),
        Operation(
            "POST",
            "/v1/completions",
            completions.complete,
            "Continue text",
            group,
            CompletionRequest,
            CompletionAnswer,
            streams=True,
        ),
        Operation(
            "POST",
            "/v1/embeddings",
            embeddings.embed,
            "Map texts to vectors",
            group,
            EmbeddingRequest,
            EmbeddingAnswer,
        ),
    )


def _tasks() -> tuple[Operation, ...]:
    group, post = "tasks", "POST"
    return (
        Operation(
            post,
            "/v1/classify",
            tasks.classify,
            "Label texts or pictures",
            group,
            task.ClassifyRequest,
            task.ClassifyAnswer,
        ),
        Operation(
            post,
            "/v1/tag",
            tasks.tag,
            "Find spans in texts",
            group,
            task.TaskRequest,
            task.TagAnswer,
        ),
        Operation(
            post,
            "/v1/answer",
            tasks.answer,
            "Find answers in contexts",
            group,
            task.AnswerRequest,
            task.FoundAnswer,
        ),
        Operation(
            post,
            "/v1/generate",
            generating.generate,
            "Answer rows by their task's instruction",
            group,
            task.GenerateRequest,
            task.GenerateAnswer,
        ),
        Operation(
            post,
            "/v1/rerank",
            tasks.rerank,
            "Order documents by a query",
            group,
            task.RerankRequest,
            task.RerankAnswer,
        ),
    )


def _adapters() -> tuple[Operation, ...]:
    group, post, base = "adapters", "POST", "/v1/adapters"
    changes = (
        ("load", adapters.load, "Hold an adapter in memory", own.LoadRequest),
        ("unload", adapters.unload, "Let an adapter go", own.UnloadRequest),
        ("pin", adapters.pin, "Keep an adapter in memory, or no longer", own.PinRequest),
        ("alias", adapters.alias, "Point an alias to a version", own.AliasRequest),
    )
    return (
        Operation(
            "GET",
            base,
            adapters.list_adapters,
            "Adapters, and where they are",
            group,
            answer=own.AdapterList,
        ),
        Operation(
            "GET",
            f"{base}/report",
            adapters.report,
            "How an adapter was trained",
            group,
            answer=own.Report,
            query=(("ref", "A version, such as name@3."),),
        ),
        *(
            Operation(post, f"{base}/{word}", handler, text, group, body, own.Changed)
            for word, handler, text, body in changes
        ),
    )


def _vllm() -> tuple[Operation, ...]:
    group, post = "vllm", "POST"
    return (
        Operation(
            post,
            "/v1/load_lora_adapter",
            adapters.load_lora,
            "Hold an adapter in memory",
            group,
            own.LoadLoraRequest,
            media=_TEXT,
        ),
        Operation(
            post,
            "/v1/unload_lora_adapter",
            adapters.unload_lora,
            "Let an adapter go",
            group,
            own.UnloadLoraRequest,
            media=_TEXT,
        ),
    )


def _server() -> tuple[Operation, ...]:
    group, get = "server", "GET"
    return (
        Operation(get, "/v1/me", stats.me, "Who asks", group, answer=own.Me),
        Operation(get, "/v1/stats", stats.stats, "How the server does", group, answer=own.Stats),
        Operation(
            get,
            "/metrics",
            stats.prometheus,
            "Counts in Prometheus's format",
            group,
            media=_TEXT,
        ),
        Operation(
            get,
            "/health",
            health.health,
            "Whether the process is up",
            group,
            media=_TEXT,
            open=True,
        ),
        Operation(get, "/ready", health.ready, "Whether requests are taken", group, open=True),
    )
