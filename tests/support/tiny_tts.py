"""The TTS of moshi at a size for tests: the real classes with random weights, as files."""

import copy
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from moshi.models.loaders import get_moshi_lm
from safetensors.torch import save_file

LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ .,'éèàç"
SENTENCES = ["The bear goes to the farm.", "Puis il nourrit les petites vaches.", LETTERS]
VOICE_WIDTH, VOICE_STEPS = 8, 5
DELAY_STEPS = 16
TTS_CONFIG = {"audio_delay": DELAY_STEPS / 12.5, "second_stream_ahead": 2}
LM: dict[str, Any] = {
    "card": 64,
    "n_q": 4,
    "dep_q": 4,
    "delays": [0, 0, 2, 2, 2],
    "dim": 32,
    "existing_text_padding_id": 3,
    "num_heads": 2,
    "num_layers": 1,
    "hidden_scale": 2,
    "causal": True,
    "context": 100,
    "max_period": 10000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 16,
    "depformer_num_heads": 2,
    "depformer_num_layers": 1,
    "depformer_dim_feedforward": 32,
    "depformer_multi_linear": True,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "depformer_gating": "silu",
    "depformer_context": 8,
    "demux_second_stream": True,
    "text_card_out": 5,
    "cross_attention": True,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": VOICE_WIDTH}},
        "cfg": {
            "type": "lut",
            "lut": {
                "n_bins": 7,
                "dim": 4,
                "tokenizer": "noop",
                "possible_values": ["1.0", "2.0", "3.0"],
            },
        },
        "control": {
            "type": "lut",
            "lut": {"n_bins": 1, "dim": 4, "tokenizer": "noop", "possible_values": ["ok"]},
        },
    },
    "fuser": {
        "cross": ["speaker_wavs"],
        "sum": ["cfg", "control"],
        "cross_attention_pos_emb": True,
    },
}


class FrameRate:
    """The part of Mimi that a TTS needs."""

    frame_rate = 12.5

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """A constant sound per frame that says its first code; float32 [B, 1, samples]."""
        return (codes[:, :1] / 64).repeat_interleave(1920, dim=-1)

    def set_num_codebooks(self, number: int) -> None:
        """Nothing to set."""


def write_model(folder: Path) -> Path:
    """Write config.json and the files that it names, as in the repositories of the hub."""
    folder.mkdir(parents=True)
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(5 * SENTENCES),
        model_writer=model,
        vocab_size=80,
        model_type="bpe",
        minloglevel=2,
        hard_vocab_limit=False,
    )
    (folder / "text.model").write_bytes(model.getvalue())
    size = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    kwargs = LM | {"text_card": size}
    torch.manual_seed(0)
    save_file(
        get_moshi_lm(None, copy.deepcopy(kwargs), dtype=torch.float32).state_dict(),
        folder / "lm.safetensors",
    )
    (folder / "mimi.safetensors").write_bytes(b"not looked into")
    names = {"moshi_name": "lm.safetensors", "mimi_name": "mimi.safetensors"}
    names |= {"tokenizer_name": "text.model"}
    other = {"tts_config": TTS_CONFIG, "model_id": {"sig": "test", "epoch": 1}}
    (folder / "config.json").write_text(json.dumps(kwargs | names | other))
    return folder


def write_voices(folder: Path, number: int) -> Path:
    """Write embeddings of voices."""
    folder.mkdir()
    for i in range(number):
        generator = torch.Generator().manual_seed(i)
        embedding = torch.randn(1, VOICE_WIDTH, VOICE_STEPS, generator=generator)
        save_file({"speaker_wavs": embedding}, folder / f"{i}.wav.test@1.safetensors")
    return folder
