"""Small models of both families, their weights, and exports of them."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.support.corpora.vocabularies import vocabulary_of
from tresse.data.packing.settings import Packing, Stream
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.tensor_file import checksum_file
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.checkpoint.state import State, TensorFile, folder_name, write_state
from tresse.engine.hugging_face import WEIGHTS, export, save_tensors, to_hf
from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig, RopeScaling
from tresse.engine.run.recipes import RECIPES
from tresse.engine.unit_tokenizer import write_tokenizer

VOCAB_USED, VOCAB_WIDTH = 37, 128  # a prime below the padded width
LLAMA = ModelConfig(
    hidden_size=48,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,  # not D / H, so that it has to be in config.json
    intermediate_size=80,
    rope_theta=500.0,
    rope_scaling=RopeScaling(factor=8.0, original_context=64),
    norm_eps=1e-5,
    init_std=0.1,
)
QWEN2 = dataclasses.replace(
    LLAMA, head_dim=8, rope_scaling=None, qkv_bias=True, norm_eps=1e-6, rope_theta=1e6
)
CONFIGS = {
    "llama": LLAMA,
    "llama, untied": dataclasses.replace(LLAMA, tie_embeddings=False),
    "qwen2": QWEN2,
    "qwen2, untied": dataclasses.replace(QWEN2, tie_embeddings=False),
}

UNITS = Tokenizer("test", "abc", "25/2", 34)
EOS = Packing(row_length=160, separators="eos", language_switch=True)


def build(config: ModelConfig) -> Transformer:
    """A model whose norms and biases are not ones and zeros."""
    model = Transformer(config, VOCAB_WIDTH, VOCAB_USED)
    model.init_weights(seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):  # ones and zeros would hide a mix-up
                parameter += 0.3 * torch.randn(parameter.shape)
    return model


def hugging_face_model(config: ModelConfig, vocab_size: int, **more: Any) -> Any:
    """A model of transformers with this shape and weights of its own."""
    import transformers

    scaling, rope = config.rope_scaling, {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    family = "Qwen2" if config.qkv_bias else "Llama"
    hf_config = getattr(transformers, f"{family}Config")(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tie_embeddings,
        rope_parameters=rope,
        **more,
    )
    return getattr(transformers, f"{family}ForCausalLM")(hf_config)


def finished_state(
    model: ModelConfig, packing: Packing, vocabulary: Vocabulary, languages: dict[str, Tokenizer]
) -> State:
    """The state of a stage that was trained in these languages, without its files."""
    recipe = RECIPES["tiny"]()
    mode: Any = "alternate" if len(languages) > 1 else "mono"
    stage = replace(recipe.stages[0], streams=(Stream(languages=tuple(languages), mode=mode),))
    return State(
        stage=stage.name,
        step=1,
        finished=True,
        num_updates=1,
        tokens=dict.fromkeys(languages, 100),
        corpus="",
        tokenizers=languages,
        vocabulary=vocabulary,
        config=replace(
            recipe, model=model, data=replace(recipe.data, packing=packing), stages=(stage,)
        ),
    )


def write_stage(run: Path, model: Transformer, state: State) -> Path:
    """Write a checkpoint as the end of its stage; return the stage's folder."""
    path = run / state.stage / folder_name(state.step)
    path.mkdir(parents=True)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    weights = to_hf(tensors, model.config, state.vocabulary.num_used)
    file = path / WEIGHTS
    save_tensors({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    hashed = TensorFile(bytes=file.stat().st_size, xxh3=checksum_file(file))
    write_state(path, replace(state, files={WEIGHTS: hashed}))
    return path.parent


def write_untrained(
    out: Path,
    packing: Packing = EOS,
    tokenizer: Tokenizer = UNITS,
    model: ModelConfig = LLAMA,
    languages: tuple[str, ...] = ("en", "fr"),
) -> Transformer:
    """Export a model with random weights of std 0.1, in fp32, as if trained in these languages."""
    vocabulary = vocabulary_of(tokenizer, packing.uses_specials)
    built = Transformer(model, vocabulary.width, vocabulary.num_used)
    built.init_weights(seed=1)
    specials = vocabulary.specials(packing)
    state = finished_state(model, packing, vocabulary, dict.fromkeys(languages, tokenizer))

    def write_more(folder: Path) -> None:
        write_tokenizer(folder, vocabulary, packing)
        path = folder / WEIGHTS
        file = TensorFile(bytes=path.stat().st_size, xxh3=checksum_file(path))
        write_state(folder, replace(state, files={path.name: file}))

    export(
        {name: parameter.detach() for name, parameter in built.named_parameters()},
        model,
        out,
        torch.float32,
        vocab_used=vocabulary.num_used,
        max_positions=packing.row_length,
        eos=specials.eos,
        bos=specials.bos,
        write_more=write_more,
    )
    return built.eval()
