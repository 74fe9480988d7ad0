"""The configuration of a run: frozen dataclasses; their docstrings are the command line's help."""

import re
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from tresse.data.packing.settings import Packing, Stream
from tresse.data.worlds.world import StoryWorld

RESERVED = (
    "changes.jsonl",
    "config.json",
    "corpora.json",
    "metrics.jsonl",
    "previous",
    "ranks",
    "scratch",
    "starts.jsonl",
    "table.json",
    "tensorboard",
    "wandb",
)
"""Names that no stage has: files of a run's folder, and what `StageConfig.init` may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """Llama 3's scaling of the low RoPE frequencies (Dubey et al. 2024; transformers: "llama3")."""

    factor: float = 32.0
    """Divisor of the frequencies whose wavelength exceeds `original_context / low_freq_factor`."""
    low_freq_factor: float = 1.0
    """Wavelengths above `original_context / low_freq_factor` tokens are scaled in full."""
    high_freq_factor: float = 4.0
    """Wavelengths below `original_context / high_freq_factor` tokens are not scaled."""
    original_context: int = 8192
    """Context length in tokens for which the unscaled frequencies were trained."""


SIZES = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
)
"""Fields of a model's shape without a default of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The model: a decoder of the Llama 3.2 or Qwen2 family."""

    hidden_size: int = 0
    """Model width D. If this and the five fields below are 0, the shape is that of `pretrained`."""
    num_layers: int = 0
    """Number of decoder blocks."""
    num_heads: int = 0
    """Number of query heads H."""
    num_kv_heads: int = 0
    """Number of key and value heads; must divide `num_heads`."""
    head_dim: int = 0
    """Width K of a head; must be even."""
    intermediate_size: int = 0
    """Width of the SwiGLU layer between its projections."""
    qkv_bias: bool = False
    """Add a bias to the query, key and value projections, as Qwen2 does."""
    tie_embeddings: bool = True
    """Use the embedding as the output projection too."""
    rope_theta: float = 10_000.0
    """Base of the rotary position embedding (RoPE)."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies; the default is none, as in Qwen2."""
    norm_eps: float = 1e-6
    """Epsilon of every RMSNorm, added to the mean square."""
    init_std: float = 0.02
    """Standard deviation of new embeddings and projections, drawn from a normal distribution."""
    pretrained: str = ""
    """Folder of a Hugging Face checkpoint to start from. Its text embedding is kept if the corpora
    have text, and left out if not (TWIST). The default starts from random weights."""
    new_embedding: Literal["normal", "mean-cov", "slice"] = "normal"
    """Embedding of the units and special tokens, and their rows of a head that is not tied.
    `normal`: drawn with `init_std`. `mean-cov`: drawn with the mean and covariance of its rows.
    `slice`: its first rows, as SlamKit has it."""

    def __post_init__(self) -> None:
        if not self.has_shape:
            return
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}; expected 1 or more")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide "
                f"model.num_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"model.head_dim={self.head_dim}; expected an even number, as RoPE rotates pairs"
            )

    @property
    def has_shape(self) -> bool:
        """False if the shape is still to be read from the checkpoint."""
        return any(getattr(self, name) for name in SIZES)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW. In every stage the learning rate rises linearly, then decays linearly to zero."""

    lr: float = 5e-4
    """Peak learning rate, reached at the end of the warm-up."""
    warmup: float = 0.05
    """Length of the warm-up as a share of the stage's steps, in [0, 1)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the first and second moments per step."""
    eps: float = 1e-8
    """Term added to the square root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; norms and biases do not decay."""
    clip: float = 1.0
    """Largest global norm of the gradient; a larger gradient is scaled down to it."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optim.warmup={self.warmup}; expected a share of the steps in [0, 1)")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas={self.betas}; expected two numbers in [0, 1)")
        if not (0 < self.lr < inf and self.clip > 0):
            raise ValueError(f"optim.lr={self.lr} and optim.clip={self.clip} must be above 0")
        if not (0 < self.eps < inf and 0 <= self.weight_decay < inf):
            raise ValueError(
                f"optim.eps={self.eps} must be above 0, "
                f"optim.weight_decay={self.weight_decay} must not be below 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingConfig:
    """The division of the training state among the ranks by DeepSpeed ZeRO."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO level. 0 divides nothing among the ranks; 1 divides moments and master weights.
    2 also divides the gradients, 3 also the weights in the model."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Dtype of the computation. Master weights, moments and summed gradients are always fp32."""
    fp8: bool = False
    """Multiply the projections q, k, v, o, gate and up in fp8 with one scale per tensor (torchao).
    Faster on Hopper only with `compile`; the loss is not that of bf16. An experiment."""
    offload_optimizer: bool = False
    """Keep master weights and moments in host memory and update them there (levels 1 to 3)."""

    def __post_init__(self) -> None:
        if self.zero_stage == 0 and self.precision == "bf16":
            raise ValueError(
                "sharding.zero_stage=0 is fp32 only: DeepSpeed has no fp32 accumulation of bf16 "
                "gradients there; use --sharding.zero-stage 1, or --sharding.precision fp32"
            )
        if self.zero_stage == 0 and self.offload_optimizer:
            raise ValueError("sharding.offload_optimizer needs sharding.zero_stage of 1, 2 or 3")
        if self.fp8 and self.precision != "bf16":
            raise ValueError("sharding.fp8 needs sharding.precision bf16")


def _folders(value: Any) -> Any:
    """Read one folder in a JSON file as a list of one, as runs had it before they had several."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The corpora of a run, as `tresse prepare` writes them, and their packing into rows."""

    corpus: Annotated[tuple[str, ...], BeforeValidator(_folders)] = ()
    """Folders of the training corpora; needed unless the recipe has a story world, as demo has."""
    weights: tuple[float, ...] = ()
    """Shares of the corpora in the targets of each stream, one number per corpus.
    The default is by their numbers of tokens."""
    valid: str = ""
    """Folder of a held-out corpus, to measure the loss per language.
    The default is none, or that of the story world."""
    cloze: str = ""
    """Folder of a cloze corpus, to score every stage.
    The default is none, or that of the story world."""
    story_world: StoryWorld | None = None
    """Settings of a generated story world, used for the corpora that are not named."""
    packing: Packing = Packing()
    """The packing of documents into rows of tokens."""
    threads: int = 1
    """Threads per rank that pack rows ahead of the step."""
    pack_on: Literal["host", "device"] = "host"
    """Place where rows are packed; it does not change them.
    `device` holds all training tokens in the memory of every GPU, 2 or 4 bytes each."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"data.threads={self.threads}; expected 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """A stage of training with its own data and learning rate schedule."""

    name: str
    """Name of the stage, of its folder in the run and of its line in the table."""
    streams: tuple[Stream, ...]
    """Streams of documents that the stage mixes."""
    tokens: int
    """Number of targets, shared by the streams according to their weights. The learning rate falls
    to zero over all of them."""
    stop_after: int = 0
    """Number of targets after which the stage ends, though rows and learning rate stay those of
    `tokens`: raised later, the stage goes on as if it had never ended. 0: all."""
    init: str = "previous"
    """Initial weights: `previous` (stage), `scratch`, or the name of an earlier stage."""

    def __post_init__(self) -> None:
        if self.name in RESERVED or self.name.startswith("story-world-"):
            raise ValueError(
                f"stage name {self.name!r} has another meaning in a run; choose another name"
            )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", self.name):
            raise ValueError(
                f"stage name {self.name!r} is a folder name; expected letters, digits and . _ + -"
            )
        if self.tokens < 1 or not self.streams:
            raise ValueError(
                f"stage {self.name}: {self.tokens} tokens of {len(self.streams)} streams; expected "
                "at least one of each"
            )
        if not 0 <= self.stop_after <= self.tokens:
            raise ValueError(
                f"stage {self.name}: stop_after={self.stop_after}; expected 0 to its tokens, "
                f"{self.tokens}"
            )

    def last_step(self, num_steps: int) -> int:
        """Return the step that the stage ends with, of the steps of all its targets."""
        return -(-num_steps * (self.stop_after or self.tokens) // self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """The rhythm of checkpoints. The one at the end of a stage is always written and kept."""

    every: int = 1000
    """Number of steps between two checkpoints of a stage."""
    at: tuple[int, ...] = ()
    """Further steps of a stage after which a checkpoint is written, which is never removed."""
    keep: int = 2
    """Number of newest checkpoints kept per stage; older ones are removed."""
    keep_every: int = 0
    """Checkpoints at multiples of this number of steps are never removed; 0: none."""
    export: Literal["no", "bf16", "fp32"] = "no"
    """Write each finished stage for transformers too, to STAGE/exported, in this dtype."""
    on_sigusr1: Literal["save", "stop"] = "save"
    """What SIGUSR1 asks for, as a batch system sends it some time before it ends a job:
    a checkpoint after the step under way, or one and the end of the run."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1 or self.keep_every < 0 or min(self.at, default=1) < 1:
            raise ValueError(
                f"checkpoint.every={self.every}, checkpoint.keep={self.keep} and the steps of "
                f"checkpoint.at={self.at} must be at least 1, checkpoint.keep_every="
                f"{self.keep_every} at least 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeoutsConfig:
    """The time after which a run without progress ends, and names the rank that it waits for."""

    start_s: float = 1800.0
    """Seconds for the start of the run or of a stage, its first step included, which compiles."""
    step_s: float = 600.0
    """Seconds for the rows of a step, for a step, or for a batch of scoring."""
    save_s: float = 1800.0
    """Seconds for a checkpoint."""

    def __post_init__(self) -> None:
        for name in ("start_s", "step_s", "save_s"):
            if not 0 < getattr(self, name) < 1e6:
                raise ValueError(
                    f"timeouts.{name}={getattr(self, name)}; expected seconds above 0, below 10**6"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpikesConfig:
    """The answer to a step whose gradient norm is not finite or far above those before it.

    Such a step never changes the weights.
    """

    policy: Literal["stop", "skip", "rewind"] = "stop"
    """`stop` ends the run at a norm that is not finite. `skip` leaves out the step.
    `rewind` goes back to the newest checkpoint and leaves out all rows since.
    Both also answer a high norm."""
    deviations: float = 6.0
    """A norm is high if it exceeds the mean of the last 128 by this many standard deviations."""

    def __post_init__(self) -> None:
        if not self.deviations > 0:
            raise ValueError(f"spikes.deviations={self.deviations}; expected a number above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelsConfig:
    """The choice of implementations; their results differ only by rounding."""

    attention: Literal["auto", "fa4", "fa2", "varlen", "sdpa", "triton"] = "auto"
    """Attention. The run prints its choice and the reason.
    `auto` takes the first that can run: FlashAttention 4 (fa4) or 2 (fa2), else torch's SDPA.
    With masked documents torch's varlen attention or our Triton kernel come before SDPA."""
    mlp: Literal["tresse", "quack"] = "tresse"
    """MLP: ours, or quack's with SwiGLU in the epilogues of its products (Hopper, bf16, ZeRO level
    0 to 2). Quack's has not been measured."""
    keep_swiglu: Literal["auto", "yes", "no"] = "auto"
    """Keep the product of SwiGLU for the backward pass rather than compute it again: faster.
    `auto` keeps it if the memory of every GPU is large enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A run: a model, its data, and the stages that train it."""

    recipe: str
    """Name of the recipe that gives the defaults of all fields."""
    run_dir: str = ""
    """Folder of the run; the default is runs/RECIPE. Given alone, resumes the run in it:
    training settings are fixed, execution settings (ranks, micro_rows, paths) may change."""
    init: str = ""
    """RUN/STAGE of another run, whose final weights start the first stage; the default is none."""
    model: ModelConfig
    data: DataConfig
    stages: tuple[StageConfig, ...]
    """Stages, trained in this order."""
    rows_per_step: int
    """Number of rows per optimizer step, over all ranks and micro-batches."""
    micro_rows: int | Literal["auto"]
    """Largest number of rows of a micro-batch: one forward and backward pass on one rank.
    The rows of a rank are split into as few as possible, which differ by one row at most.
    `auto` takes as many as fit the memory of every GPU."""
    recompute_layers: int = 0
    """Number of layers, from the first, that keep only their inputs and compute their activations
    again in the backward pass (activation checkpointing). Saves memory; the bits stay the same."""
    optim: OptimConfig = OptimConfig()
    sharding: ShardingConfig = ShardingConfig()
    spikes: SpikesConfig = SpikesConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    kernels: KernelsConfig = KernelsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: Literal["tensorboard", "wandb"] = "tensorboard"
    """Programs that draw the curves of the run. The files for TensorBoard are always written.
    `wandb`: Weights & Biases too, with its own settings, such as WANDB_MODE=offline."""
    valid_every: int = 500
    """Number of steps between two measurements of the held-out loss.
    The end of a stage is always measured."""
    score_every: int = 0
    """Number of steps between two scorings of a subset of the cloze set, 0 for none.
    The end of a stage is always scored, with the whole set."""
    score_items: int = 200
    """Number of items of each task in that subset."""
    score_by: Literal["mean_full", "mean_continuation", "sum_full", "sum_continuation"] = (
        "mean_full"
    )
    """Log-likelihood that decides an item in the table, as the mean or the sum over tokens.
    `full`: of prompt and ending. `continuation`: of the ending alone."""
    truncate_prompt: Literal["", "left"] = ""
    """What to do at a prompt of the cloze set that is longer than a row.
    The default is an error; `left` cuts off its start."""
    seed: int = 0
    """Seed of new weights, of the order of documents and of the draws of languages."""
    compile: bool = False
    """Compile each block with torch.compile. Slow at ZeRO level 3, whose hooks are compiled too."""
    deterministic: bool = False
    """Use only operations that give the same bits in every run; training is slower."""

    def __post_init__(self) -> None:
        if self.score_every < 0:
            raise ValueError(f"score_every={self.score_every}; expected 0 or more")
        for name in ("rows_per_step", "micro_rows", "valid_every", "score_items"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name}={value}; expected 1 or more")
        if not 0 <= self.recompute_layers <= self.model.num_layers:
            raise ValueError(
                f"recompute_layers={self.recompute_layers}; expected 0 to the model's "
                f"{self.model.num_layers} layers"
            )
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed={self.seed}; expected 0 to 2**63 - 1")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"expected one or more stages with different names; found {names}")
        for position, stage in enumerate(self.stages):
            allowed = ["previous", "scratch", *names[:position]]
            if stage.init not in allowed:
                raise ValueError(
                    f"stages.{position}.init={stage.init!r} is not one of {', '.join(allowed)}"
                )
        if self.kernels.mlp == "quack" and (self.sharding.zero_stage == 3 or self.sharding.fp8):
            raise ValueError(
                "kernels.mlp=quack takes weights that ZeRO level 3 and fp8 do not have; choose "
                "kernels.mlp=tresse, or sharding.zero_stage of at most 2 without sharding.fp8"
            )
