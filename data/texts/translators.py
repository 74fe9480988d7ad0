"""Translators of stories, and their names on the command line.

For a translator of your own, such as a service, write a function in a module that Python can import
or that lies in the current folder, and name it as `--translator module:function`:

    def translate(sentences: list[str], source: str, target: str) -> list[str]:

It is called with all sentences of a story, so that each has its context, and returns as many. Its
name counts, not its code: you may correct it and resume.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from tresse.data.plugins import import_own
from tresse.data.processes import device
from tresse.data.texts.translator_settings import TranslatorSettings

Function = Callable[[list[str], str, str], list[str]]
OPUS = "Helsinki-NLP/opus-mt-{source}-{target}"


class Translator(Protocol):
    """A translator of stories from one language into another."""

    @property
    def identity(self) -> str:
        """Name of the model or function, and whatever else translations depend on."""
        ...

    def translate(self, stories: Sequence[Sequence[str]]) -> list[list[str] | str]:
        """Translate the sentences of stories; one that failed has a reason in its place."""
        ...


class OwnTranslator:
    """A function of the user's as a `Translator`."""

    def __init__(
        self,
        name: str,
        function: Callable[..., list[str]],
        languages: tuple[str, str],
        workers: int,
    ) -> None:
        self.identity = name
        self._function, self._languages, self._workers = function, languages, workers

    def translate(self, stories: Sequence[Sequence[str]]) -> list[list[str] | str]:
        """Call the function with each story, in threads."""
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self._call, stories))

    def _call(self, sentences: Sequence[str]) -> list[str]:
        found = self._function(list(sentences), *self._languages)
        if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
            raise ValueError(
                f"--translator {self.identity} gave {found!r:.80}, expected a list of texts"
            )
        return list(found)


def load_translator(settings: TranslatorSettings, source: str, target: str) -> Translator:
    """Load the translator, a model on this process' device; ValueError for flags in vain."""
    default = TranslatorSettings()
    for_models = ("source_code", "target_code", "greedy", "precision", "batch")
    name, kind = settings.translator, "a function" if settings.is_own else "a model"
    for field in for_models if settings.is_own else ("workers",):
        if getattr(settings, field) != getattr(default, field):
            flag = field.replace("_", "-")
            raise ValueError(f"--{flag} has no effect: --translator {name} is {kind}")
    if settings.is_own:
        function = import_own("--translator", name, "a model")
        return OwnTranslator(name, function, (source, target), settings.workers)
    from tresse.data.texts.seq2seq import load_model

    return load_model(
        name or OPUS.format(source=source, target=target), settings, source, target, device()
    )
