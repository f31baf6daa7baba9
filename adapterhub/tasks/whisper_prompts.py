"""What Whisper's decoder reads before a transcript, and the tokens that it may not write."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from adapterhub.errors import RecipeError, RequestError, did_you_mean
from adapterhub.tasks.token_rules import TokenRules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.tasks.preprocessors import SpeechProcessor
    from adapterhub.tasks.transcription import SpeechTask

_START, _PREVIOUS, _PLAIN = "<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>"
#: Seconds between two timestamp tokens.
TIME_PRECISION = 0.02


class WhisperPrompts:
    """Decoder prompts of a Whisper, multilingual or English alone.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022,
    figure 1; ``_retrieve_init_tokens`` in ``transformers/models/whisper/generation_whisper.py``.
    """

    def __init__(self, processor: SpeechProcessor) -> None:
        """Find the special tokens.

        Raises:
            RecipeError: When the tokenizer lacks those of a Whisper.
        """
        self._tokenizer: Any = processor.tokenizer
        # a tokenizer changes its settings while it works, and a server has several threads
        self._lock = Lock()
        self._config: Any = processor.generation_config
        self.num_positions = processor.num_positions
        self._ids: dict[str, int] = self._tokenizer.get_vocab()
        missing = [each for each in (_START, _PLAIN) if each not in self._ids]
        if missing or self._tokenizer.eos_token_id is None:
            raise RecipeError(
                f"the tokenizer has no token {(missing or ['that ends a text'])[0]}",
                place="backbone.name",
                hint="Use a backbone with the tokenizer of a Whisper",
            )
        #: token that ends a transcript
        self.end = int(self._tokenizer.eos_token_id)
        self._plain = self._ids[_PLAIN]
        #: token of the time 0; later ones follow it
        self.first_timestamp = self._plain + 1
        self.languages = {
            code: self._ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in self._ids
        }
        declared = getattr(self._config, "is_multilingual", None)
        #: whether prompts name a language and a task
        self.multilingual = bool(self.languages) if declared is None else bool(declared)

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens before the language."""
        return (self._ids[_START],)

    def language_code(self, language: str) -> str:
        """Return the code of a language that is given as a code or an English name.

        Raises:
            RequestError: When the model does not know it.
        """
        given = language.strip().lower()
        code = TO_LANGUAGE_CODE.get(given, given)
        known = self.languages if self.multilingual else {"en": 0}
        if code not in known:
            names = [*known, *(LANGUAGES[each] for each in known)]
            hint = did_you_mean(given, names) if self.multilingual else "Leave it out"
            what = "the backbone" if self.multilingual else "an English-only backbone"
            raise RequestError(
                f"{what} knows no language {language!r:.40}", place="language", hint=hint
            )
        return code

    def check_task(self, task: SpeechTask) -> None:
        """Check that the model can do a task.

        Raises:
            RequestError: When it can't.
        """
        if task == "translate" and not (self.multilingual and "<|translate|>" in self._ids):
            raise RequestError(
                "an English-only backbone does not translate", place="task", hint="Use transcribe"
            )

    @property
    def default_language(self) -> str | None:
        """Code of the language that the checkpoint's settings name."""
        if not self.multilingual:
            return "en"
        named = getattr(self._config, "language", None)
        if isinstance(named, str):
            return self.language_code(named)
        forced = dict(getattr(self._config, "forced_decoder_ids", None) or [])
        return next(
            (code for code, token in self.languages.items() if token == forced.get(1)), None
        )

    def prompt(self, language: str, task: SpeechTask, *, timestamps: bool) -> tuple[int, ...]:
        """Return the tokens before a transcript.

        Args:
            language: Code of the language.
            task: Whether to transcribe or translate.
            timestamps: Whether the transcript has timestamps.
        """
        tokens = list(self.start)
        if self.multilingual:
            tokens += [self.languages[language], self._ids[f"<|{task}|>"]]
        return (*tokens, *(() if timestamps else (self._plain,)))

    def previous(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that the transcript continues, to be put first.

        The decoder reads the last ones if there are too many, as OpenAI's and transformers' do.
        """
        if not text.strip():
            return ()
        with self._lock:
            ids = self._tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]
        return (self._ids[_PREVIOUS], *ids[-(self.num_positions // 2 - 1) :])

    def rules(self, begin_index: int, *, timestamps: bool) -> TokenRules:
        """Return which tokens a transcript may not have.

        Args:
            begin_index: Number of tokens before it.
            timestamps: Whether it has timestamps.
        """
        config = self._config
        return TokenRules(
            begin_index,
            tuple(config.suppress_tokens or ()),
            tuple(config.begin_suppress_tokens or ()),
            self._timestamps if timestamps else None,
        )

    @property
    def detection(self) -> TokenRules:
        """Rules of the first token, which is a language."""
        return TokenRules(len(self.start), only=tuple(sorted(self.languages.values())))

    def detected(self, token: int) -> str:
        """Return the code of a language token."""
        return next(code for code, own in self.languages.items() if own == token)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones and timestamps."""
        words = [token for token in tokens if token < self.first_timestamp]
        found: str = self._tokenizer.decode(words, skip_special_tokens=True)
        return found

    def target_ids(self, text: str) -> list[int]:
        """Return the tokens of a text that the decoder learns, as it writes them.

        Whisper's text begins with a space, as a part of its first token. A space that is a token of
        its own is left out, since generation does not begin with it.
        """
        ids: list[int] = self._tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        if ids and ids[0] in (self._config.begin_suppress_tokens or ()):
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def timestamp(self, seconds: float) -> int:
        """Return the timestamp token of a moment of a window."""
        return self.first_timestamp + round(seconds / TIME_PRECISION)

    @property
    def _timestamps(self) -> GenerationConfig:
        index = getattr(self._config, "max_initial_timestamp_index", None)
        return GenerationConfig(
            eos_token_id=self.end,
            bos_token_id=self.end,
            no_timestamps_token_id=self._plain,
            max_initial_timestamp_index=index,
        )


def language_name(code: str) -> str:
    """Return the English name of a language."""
    return str(LANGUAGES.get(code, code))
