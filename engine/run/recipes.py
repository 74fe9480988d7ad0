"""Recipes: named functions that return the whole configuration of a run."""

from collections.abc import Callable
from dataclasses import replace

from tresse.data.packing.settings import Packing, Stream, Template
from tresse.data.worlds.world import StoryWorld
from tresse.engine.run.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RopeScaling,
    RunConfig,
    ShardingConfig,
    StageConfig,
)

LLAMA_1B = ModelConfig(
    hidden_size=2048,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    intermediate_size=8192,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling(),
    norm_eps=1e-5,
)
LLAMA_3B = replace(
    LLAMA_1B, hidden_size=3072, num_layers=28, num_heads=24, num_kv_heads=8, head_dim=128
)
LLAMA_8B = replace(
    LLAMA_1B,
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=14336,
    tie_embeddings=False,
    rope_scaling=RopeScaling(factor=8.0),
)
QWEN_360M = ModelConfig(
    hidden_size=896,
    num_layers=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    intermediate_size=4864,
    qkv_bias=True,
    rope_theta=1_000_000.0,
)
TINY = ModelConfig(
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=352,
)

EN, FR = Stream(languages=("en",)), Stream(languages=("fr",))
BRAID = Stream(languages=("en", "fr"), mode="sample")

TOKENS_PER_STEP = 614_400
# Steps of EN, of interleaving and of EN+FR, by Table 3's token budgets and by section 5.1's text.
SCHEDULES = {"table3": (75_000, 20_000, 30_000), "text": (50_000, 20_000, 15_000)}
BASELINE_STEPS = (100_000, 25_000)  # EN and FR in Table 3's EN+FR baseline


def demo() -> RunConfig:
    """The paper's experiment in a generated story world: minutes on a CPU, no download."""
    baseline = StageConfig(name="baseline-en-fr", streams=(EN, FR), tokens=1_200_000, init="en")
    return RunConfig(
        recipe="demo",
        model=ModelConfig(
            hidden_size=96,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            head_dim=24,
            intermediate_size=256,
            init_std=0.05,
        ),
        data=DataConfig(
            story_world=StoryWorld(), packing=Packing(row_length=128, separators="eos")
        ),
        stages=(*three_stages(en=1_000_000, interleave=700_000, en_fr=500_000), baseline),
        rows_per_step=16,
        micro_rows=8,
        optim=OptimConfig(lr=5e-3),
        sharding=ShardingConfig(precision="fp32"),
        checkpoint=CheckpointConfig(every=250),
        valid_every=250,
        score_by="mean_continuation",
    )


def tiny() -> RunConfig:
    """The three stages with 1 M parameters, for a small corpus (--data.corpus) on CPUs."""
    return RunConfig(
        recipe="tiny",
        model=TINY,
        data=DataConfig(packing=Packing(row_length=256, separators="eos")),
        stages=three_stages(en=800_000, interleave=400_000, en_fr=400_000),
        rows_per_step=24,
        micro_rows=4,
        optim=OptimConfig(lr=2e-3),
        sharding=ShardingConfig(precision="fp32"),
        checkpoint=CheckpointConfig(every=50),
        valid_every=50,
    )


def paper(recipe: str, model: ModelConfig, schedule: str) -> RunConfig:
    """Return the paper's three stages at 614,400 tokens per step: 300 rows of 2,048 tokens."""
    en, interleave, en_fr = (steps * TOKENS_PER_STEP for steps in SCHEDULES[schedule])
    return RunConfig(
        recipe=recipe,
        model=model,
        data=DataConfig(threads=2),
        stages=three_stages(en=en, interleave=interleave, en_fr=en_fr),
        rows_per_step=300,
        micro_rows=25,  # 3 x 25 rows on each of 4 GPUs; 75 at once need more than 80 GB at 1B
    )


def larger(recipe: str, model: ModelConfig) -> RunConfig:
    """Return the paper's stages for a larger model, in steps of 320 rows that 64 GPUs can share."""
    return replace(paper(recipe, model, "table3"), rows_per_step=320, micro_rows="auto")


def baselines(recipe: str, model: ModelConfig) -> RunConfig:
    """Return Table 3's FR and EN+FR baselines. Its EN baseline is the first of the three stages."""
    en, fr = (steps * TOKENS_PER_STEP for steps in BASELINE_STEPS)
    both = (Stream(languages=("en",), weight=en), Stream(languages=("fr",), weight=fr))
    stages = (
        StageConfig(name="fr", streams=(FR,), tokens=fr, init="scratch"),
        StageConfig(name="en-fr", streams=both, tokens=en + fr, init="scratch"),
    )
    return replace(paper(recipe, model, "table3"), stages=stages)


def three_stages(en: int, interleave: int, en_fr: int) -> tuple[StageConfig, ...]:
    """Return the stages of EN, of EN and FR interleaved by sentence, and of EN beside FR.

    en, interleave, en_fr: number of targets of each stage.
    """
    return (
        StageConfig(name="en", streams=(EN,), tokens=en),
        StageConfig(name="interleave", streams=(BRAID,), tokens=interleave),
        StageConfig(name="en-fr", streams=(EN, FR), tokens=en_fr),
    )


def qwen_360m_interleave() -> RunConfig:
    """The paper's 360M model (Qwen2-0.5B) with Table 3's token budgets."""
    return paper("360m-interleave", QWEN_360M, "table3")


def qwen_360m_interleave_text() -> RunConfig:
    """The paper's 360M model with the numbers of steps in its text."""
    return paper("360m-interleave-text", QWEN_360M, "text")


def llama_1b_interleave() -> RunConfig:
    """The paper's 1B model (Llama-3.2-1B) with Table 3's token budgets."""
    return paper("1b-interleave", LLAMA_1B, "table3")


def llama_1b_interleave_text() -> RunConfig:
    """The paper's 1B model with the numbers of steps in its text."""
    return paper("1b-interleave-text", LLAMA_1B, "text")


def llama_3b_interleave() -> RunConfig:
    """The paper's stages for a 3B model (Llama-3.2-3B)."""
    return larger("3b-interleave", LLAMA_3B)  # on 4 GPUs of 80 GB it needs no layers recomputed


def llama_8b_interleave() -> RunConfig:
    """The paper's stages for an 8B model (Llama-3.1-8B), half its layers recomputed."""
    # At level 1 it fits 4 GPUs of 80 GB with 3 rows at once and little to spare.
    config = larger("8b-interleave", LLAMA_8B)
    return replace(config, sharding=ShardingConfig(zero_stage=3), recompute_layers=16)


def any_interleave() -> RunConfig:
    """The paper's stages for the model of any checkpoint (--model.pretrained FOLDER)."""
    return replace(paper("interleave", ModelConfig(), "table3"), micro_rows="auto")


def qwen_360m_baselines() -> RunConfig:
    """The 360M model without interleaving: FR and EN+FR with Table 3's token budgets."""
    return baselines("360m-baselines", QWEN_360M)


def llama_1b_baselines() -> RunConfig:
    """The 1B model without interleaving: FR and EN+FR with Table 3's token budgets."""
    return baselines("1b-baselines", LLAMA_1B)


# Text beside speech: CSLM's continual pre-training and fine-tuning, and interleaving by words.
ASR, TTS, MT = TAGS = ("<asr>", "<tts>", "<mt>")
TURN_WORDS = 7  # in a turn of text or speech, as in CSLM


def recognition(language: str, weight: float = 1.0) -> Stream:
    """Return speech and then its text, which alone is learned."""
    return _turned(language, f"{language}-text", ASR, weight)


def synthesis(language: str, weight: float = 1.0) -> Stream:
    """Return text and then its speech, which alone is learned."""
    return _turned(f"{language}-text", language, TTS, weight)


def translation(source: str, target: str, weight: float = 1.0) -> Stream:
    """Return text and then its translation, which alone is learned."""
    return _turned(f"{source}-text", f"{target}-text", MT, weight)


def _turned(given: str, language: str, tag: str, weight: float) -> Stream:
    return Stream(
        languages=(language,),
        given=(given,),
        loss_on=(language,),
        templates=(Template(language=language, before=tag),),
        weight=weight,
    )


def by_words(language: str, words: tuple[int, int], weight: float = 1.0) -> Stream:
    """Return speech and text that take turns by a few words, each drawn."""
    languages = (language, f"{language}-text")
    return Stream(languages=languages, mode="sample", unit="words", words=words, weight=weight)


def dialogues(language: str, words: tuple[int, int], weight: float = 1.0) -> Stream:
    """Return questions as text, and their answers in turns of text and speech."""
    answers = (f"{language}-answer-text", f"{language}-answer")
    return Stream(
        languages=answers,
        given=(f"{language}-question-text",),
        mode="alternate",
        language_order="fixed",
        unit="words",
        words=words,
        loss_on=answers,
        weight=weight,
    )


def alignment(languages: tuple[str, str]) -> tuple[Stream, ...]:
    """Return CSLM's streams: ASR and TTS in each language, MT both ways, and texts by themselves.

    Half of the targets are of the former two, a quarter of translations and of texts.
    """
    one, other = languages
    return (
        *(recognition(language) for language in languages),
        *(synthesis(language) for language in languages),
        translation(one, other),
        translation(other, one),
        *(Stream(languages=(f"{language}-text",)) for language in languages),
    )


def cslm_cpt() -> RunConfig:
    """CSLM's continual pre-training of Llama-3.1-8B (--model.pretrained) on text and speech."""
    packing = Packing(
        row_length=1024, mode="best_fit", separators="eos", mask_documents=True, tags=TAGS
    )
    return RunConfig(
        recipe="cslm-cpt",
        model=replace(LLAMA_8B, new_embedding="mean-cov"),
        data=DataConfig(packing=packing, threads=2),
        stages=(StageConfig(name="cpt", streams=alignment(("en", "zh")), tokens=6_100_000_000),),
        rows_per_step=288,  # 24 GPUs with 2 rows, accumulated 6 times
        micro_rows="auto",
        optim=OptimConfig(lr=6e-5, warmup=0.03),
        sharding=ShardingConfig(zero_stage=3),
        recompute_layers=16,
    )


def cslm_sft() -> RunConfig:
    """CSLM's fine-tuning (--init RUN/cpt): text questions, answers in turns of text and speech."""
    config = cslm_cpt()
    streams = tuple(dialogues(language, (TURN_WORDS, TURN_WORDS)) for language in ("en", "zh"))
    packing = replace(config.data.packing, row_length=4096)
    return replace(
        config,
        recipe="cslm-sft",
        data=replace(config.data, packing=packing),
        stages=(StageConfig(name="sft", streams=streams, tokens=500_000_000),),
        rows_per_step=64,
        optim=OptimConfig(lr=1e-5, warmup=0.03),
    )


def spirit() -> RunConfig:
    """Speech, text, and both in turns of words, in equal shares (SpiritLM), in a 1B model."""
    apart = (Stream(languages=("en",)), Stream(languages=("en-text",)))
    stage = StageConfig(
        name="spirit", streams=(*apart, by_words("en", (5, 30))), tokens=20_000 * TOKENS_PER_STEP
    )
    config = paper("spirit", replace(LLAMA_1B, new_embedding="mean-cov"), "table3")
    packing = Packing(separators="eos", language_switch=True)
    return replace(config, data=replace(config.data, packing=packing), stages=(stage,))


def demo_text() -> RunConfig:
    """Text beside speech in a generated story world: minutes on a CPU, no download."""
    config = demo()
    world = StoryWorld(
        text=True,
        aligned_documents=6000,
        extra_documents=0,
        valid_documents=100,
        cloze_documents=240,
    )
    packing = replace(config.data.packing, language_switch=True, tags=TAGS)
    languages = ("en", "fr")
    texts = tuple(f"{language}-text" for language in languages)
    apart = tuple(Stream(languages=(name,)) for name in (*languages, *texts))
    aligned = alignment(languages)
    braided = tuple(by_words(language, (1, 4)) for language in languages)
    braided += (Stream(languages=texts, mode="sample"),)
    answers = dialogues("en", (2, 2), weight=0.5)
    tokens, answered = 800_000, 100_000
    return replace(
        config,
        recipe="demo-text",
        data=replace(config.data, story_world=world, packing=packing),
        stages=(
            StageConfig(name="apart", streams=apart, tokens=tokens),
            StageConfig(name="apart-sft", streams=(*apart, answers), tokens=answered),
            StageConfig(name="cpt", streams=aligned, tokens=tokens, init="apart"),
            StageConfig(name="cpt-sft", streams=(*aligned, answers), tokens=answered),
            StageConfig(name="spirit", streams=braided, tokens=tokens, init="apart"),
            StageConfig(name="spirit-sft", streams=(*braided, answers), tokens=answered),
        ),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "tiny": tiny,
    "360m-interleave": qwen_360m_interleave,
    "360m-interleave-text": qwen_360m_interleave_text,
    "360m-baselines": qwen_360m_baselines,
    "1b-interleave": llama_1b_interleave,
    "1b-interleave-text": llama_1b_interleave_text,
    "1b-baselines": llama_1b_baselines,
    "interleave": any_interleave,
    "3b-interleave": llama_3b_interleave,
    "8b-interleave": llama_8b_interleave,
    "cslm-cpt": cslm_cpt,
    "cslm-sft": cslm_sft,
    "spirit": spirit,
    "demo-text": demo_text,
}
