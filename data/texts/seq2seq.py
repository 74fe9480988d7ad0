"""Translation models of transformers: Marian, NLLB, M2M100 and mBART.

They translate a sentence at a time, without its context.
"""

from collections.abc import Sequence
from typing import Any

import torch
import xxhash

from tresse.data.texts.translator_settings import TranslatorSettings

KINDS = ("marian", "m2m_100", "nllb-moe", "mbart")
MAX_RATIO, SLACK = 3, 20
"""Tokens of a translation, at most: MAX_RATIO for each of the longest source, and SLACK."""
INSTALL = "pip install 'tresse[translate]'"


class Seq2Seq:
    """A model as a `Translator`."""

    def __init__(self, name: str, model: Any, tokenizer: Any, settings: TranslatorSettings) -> None:
        self._model, self._tokenizer, self._batch = model, tokenizer, settings.batch
        self._prefix, self._options = "", {"do_sample": False, "forced_eos_token_id": None}
        model.generation_config.max_length = None  # else generate warns of it at every call
        if settings.greedy:
            self._options["num_beams"] = 1
        beams = 1 if settings.greedy else model.generation_config.num_beams or 1
        # The batch only changes rounding: after a lack of memory a smaller one may resume.
        self.identity = f"{name}, {_hash_weights(model)}, {settings.precision}, {beams} beams"

    def set_languages(self, source: str, target: str, *, named: bool) -> None:
        """Choose the languages of a multilingual model.

        named: the user named them; ValueError when the model does not know them, or, if they are
        named, when it has a single pair of languages.
        """
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "src_lang"):
            self._check_language(source, "--source-code")
            tokenizer.src_lang = source
            self._options["forced_bos_token_id"] = self._check_language(target, "--target-code")
        elif codes := getattr(tokenizer, "supported_language_codes", []):
            self._prefix = f">>{target}<< "
            if self._prefix.strip() not in codes:
                raise ValueError(
                    f"--target-code is {target!r}, expected one of {', '.join(sorted(codes))} "
                    "without the brackets"
                )
        elif named:
            raise ValueError(
                "--source-code and --target-code are for multilingual models; this one translates "
                "from one language into one other"
            )
        self.identity += f", {source} to {target}"

    def _check_language(self, code: str, flag: str) -> int:
        """Return the number of a language's token."""
        tokenizer = self._tokenizer
        token = getattr(tokenizer, "lang_code_to_token", {}).get(code, code)
        known = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
        if token not in known | {*getattr(tokenizer, "lang_token_to_id", ())}:
            raise ValueError(
                f"{flag} is {code!r}, which is no language of the model; NLLB has names like "
                "eng_Latn, mBART like en_XX"
            )
        return tokenizer.convert_tokens_to_ids(token)

    def translate(self, stories: Sequence[Sequence[str]]) -> list[list[str] | str]:
        """Translate all sentences, those of similar lengths at once."""
        sentences = [sentence for story in stories for sentence in story]
        order = sorted(range(len(sentences)), key=lambda i: (-len(sentences[i]), i))
        found: dict[int, str | None] = {}
        for start in range(0, len(order), self._batch):
            batch = order[start : start + self._batch]
            found |= zip(batch, self._translate([sentences[i] for i in batch]), strict=True)
        told = (found[i] for i in range(len(sentences)))
        return [_gather([next(told) for _ in story]) for story in stories]

    @torch.inference_mode()
    def _translate(self, sentences: Sequence[str]) -> list[str | None]:
        """Translate a batch of sentences; None for one that is too long, or has no end."""
        texts = [self._prefix + sentence for sentence in sentences]
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True).to(self._model.device)
        num_tokens = inputs["attention_mask"].sum(dim=1)
        room = self._model.config.max_position_embeddings
        longest = min(int(num_tokens.max()), room)
        # An input beyond the room is an index error, so it is cut, and its translation not used.
        inputs = {name: values[:, :longest] for name, values in inputs.items()}
        limit = min(MAX_RATIO * longest + SLACK, room - 1)
        out = self._model.generate(**inputs, **self._options, max_new_tokens=limit)
        ends = (out[:, 1:] == self._tokenizer.eos_token_id).any(dim=1)
        fits = (num_tokens <= room) & ends
        decoded = self._tokenizer.batch_decode(
            out, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text if ok else None for text, ok in zip(decoded, fits.tolist(), strict=True)]


def _gather(sentences: list[str | None]) -> list[str] | str:
    found = [sentence for sentence in sentences if sentence is not None]
    if len(found) == len(sentences):
        return found
    return f"sentence {sentences.index(None)} or its translation is too long for the model"


def load_model(
    name: str, settings: TranslatorSettings, source: str, target: str, device: str
) -> Seq2Seq:
    """Load a folder or repository; ValueError when it is missing, or of another kind."""
    try:
        import sentencepiece  # noqa: F401 # pyright: ignore[reportUnusedImport]
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
    except ImportError as error:
        raise ValueError(f"translation models need {error.name}: {INSTALL}") from None
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        tokenizer = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(name) if kind in KINDS else None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--translator {name} cannot be loaded ({error}); name a folder, another repository, "
            "or your own module:function"
        ) from None
    if model is None:
        raise ValueError(
            f"--translator {name} is a model of type {kind}, expected {', '.join(KINDS)}; for "
            "others write a function, module:function"
        )
    model = model.eval().to(torch.bfloat16 if settings.precision == "bf16" else torch.float32)
    found = Seq2Seq(name, model, tokenizer, settings)
    named = bool(settings.source_code or settings.target_code)
    found.set_languages(settings.source_code or source, settings.target_code or target, named=named)
    model.to(device)
    return found


def _hash_weights(model: Any) -> str:
    """Return a hash of the weights, on a CPU."""
    hasher = xxhash.xxh3_64()
    for name, tensor in sorted(model.state_dict().items()):
        hasher.update(name.encode())
        hasher.update(tensor.contiguous().view(torch.uint8).numpy())
    return hasher.hexdigest()
