"""The configuration of a run: frozen dataclasses whose docstrings are the command line's help."""

import re
from dataclasses import dataclass
from math import inf
from typing import Literal

from tresse.data.packing.settings import Packing, Stream
from tresse.data.worlds.story_world import StoryWorld


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """Llama 3's scaling of the low RoPE frequencies (Dubey et al. 2024; transformers: "llama3")."""

    factor: float = 32.0
    """Division of the frequencies whose wavelength exceeds `original_context / low_freq_factor`."""
    low_freq_factor: float = 1.0
    """Wavelengths above `original_context / low_freq_factor` are scaled in full."""
    high_freq_factor: float = 4.0
    """Wavelengths below `original_context / high_freq_factor` are left alone."""
    original_context: int = 8192
    """Context length, in tokens, that the frequencies were trained for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder of the Llama 3.2 or Qwen2 family."""

    hidden_size: int
    """Model width D."""
    num_layers: int
    """Number of decoder blocks."""
    num_heads: int
    """Query heads H."""
    num_kv_heads: int
    """Key and value heads; divides `num_heads`."""
    head_dim: int
    """Width K of a head."""
    intermediate_size: int
    """Width of the SwiGLU product."""
    qkv_bias: bool = False
    """Bias on the query, key and value projections (Qwen2)."""
    tie_embeddings: bool = True
    """The output projection is the embedding."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies; none for Qwen2."""
    norm_eps: float = 1e-6
    """Epsilon of every RMSNorm."""
    init_std: float = 0.02
    """Standard deviation of the normal initialisation of embeddings and projections."""
    pretrained: str = ""
    """Folder of a Hugging Face checkpoint to start from, its text embedding dropped (TWIST)."""

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}; expected 1 or more")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; RoPE rotates pairs")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with a linear warm-up and a linear decay to zero, started anew in every stage."""

    lr: float = 5e-4
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of a stage's steps over which the learning rate rises to `lr`."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the first and second moments."""
    eps: float = 1e-8
    """Term added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay of the matrices; norms and biases have none."""
    clip: float = 1.0
    """Largest global norm of the gradient."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optim.warmup={self.warmup} is not a share of the steps in [0, 1)")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas={self.betas}; expected two numbers in [0, 1)")
        if not (0 < self.lr < inf and self.clip > 0):
            raise ValueError(f"optim.lr={self.lr} and optim.clip={self.clip} must be above 0")
        if not (0 < self.eps < inf and 0 <= self.weight_decay < inf):
            raise ValueError(
                f"optim.eps={self.eps} must be above 0, "
                f"optim.weight_decay={self.weight_decay} not below"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingConfig:
    """How DeepSpeed divides the training state among the ranks."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is divided: 0 nothing, 1 moments and masters, 2 also gradients, 3 also weights."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Compute dtype. Masters, moments and the accumulation of gradients are fp32 in both."""
    offload_optimizer: bool = False
    """Keep masters and moments in host memory and update them there (stages 1 to 3)."""

    def __post_init__(self) -> None:
        if self.zero_stage == 0 and self.precision == "bf16":
            raise ValueError(
                "sharding.zero_stage=0 is fp32 only: DeepSpeed has no fp32 accumulation of bf16 "
                "gradients there; use --sharding.zero-stage 1, or --sharding.precision fp32"
            )
        if self.zero_stage == 0 and self.offload_optimizer:
            raise ValueError("sharding.offload_optimizer needs sharding.zero_stage of 1, 2 or 3")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The corpora of a run, made by `data/prepare.py`."""

    corpus: str = ""
    """Folder of the training corpus."""
    valid: str = ""
    """Folder of a held-out corpus, whose loss per language is measured; empty: none."""
    cloze: str = ""
    """Folder of a corpus with items.jsonl, scored at the end of every stage; empty: none."""
    story_world: StoryWorld | None = None
    """Generate the corpora that are not named into the run folder instead of reading them."""
    packing: Packing = Packing()
    """How documents become rows of tokens."""
    threads: int = 1
    """Threads that pack rows, per rank; they run ahead of the step."""
    pack_on: Literal["host", "device"] = "host"
    """Where rows are put together. `device` keeps all tokens of the training corpus in the memory
    of every GPU, 2 bytes each, and sends it lists of copies. The rows are the same."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"data.threads={self.threads}; expected 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One training with a schedule of its own, from the weights of another to a checkpoint."""

    name: str
    """Name of the stage: its folder in the run, its row in the table."""
    streams: tuple[Stream, ...]
    """What the rows are drawn from."""
    tokens: int
    """Targets to train on, all streams together; each stream has its share by weight."""
    init: str = "previous"
    """Weights to start from: `previous`, `scratch`, or the name of an earlier stage."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", self.name):
            raise ValueError(
                f"stage name {self.name!r}; expected letters, digits and . _ + -, as it is a folder"
            )
        if self.tokens < 1 or not self.streams:
            raise ValueError(
                f"stage {self.name}: {self.tokens} tokens of {len(self.streams)} streams; expected "
                "one or more of both"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When the training state is written. The end of a stage always is, and is always kept."""

    every: int = 1000
    """Steps between two checkpoints within a stage."""
    keep: int = 2
    """Checkpoints kept within a stage; older ones are removed once a newer one is complete."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(
                f"checkpoint.every={self.every} and checkpoint.keep={self.keep} must be at least 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelsConfig:
    """Which implementation computes what; results differ by rounding alone."""

    attention: Literal["auto", "fa4", "fa2", "varlen", "sdpa", "triton"] = "auto"
    """`auto` takes the first that can run here of FlashAttention 4 and 2 (packages flash-attn-4 and
    flash-attn), torch's varlen attention or ours, `triton`, for masked documents, and torch's SDPA.
    The start of a run says which it is, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A run: a model, its data, and the stages that train it."""

    recipe: str
    """Name of the recipe that the other fields come from."""
    run_dir: str = ""
    """Folder of the run; empty: runs/RECIPE. Named alone, an interrupted run goes on; then fields
    of what is trained cannot change, those of how (ranks, micro_rows, ZeRO stage, paths) can."""
    init: str = ""
    """RUN/STAGE of another run, whose final weights the first stage starts from."""
    model: ModelConfig
    data: DataConfig
    stages: tuple[StageConfig, ...]
    """The stages, trained in this order."""
    rows_per_step: int
    """Rows of an optimizer step, over all ranks and micro-batches."""
    micro_rows: int
    """Rows of one forward and backward pass on one rank."""
    optim: OptimConfig = OptimConfig()
    sharding: ShardingConfig = ShardingConfig()
    kernels: KernelsConfig = KernelsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    valid_every: int = 500
    """Steps between two measurements of the held-out loss; one is also made when a stage ends."""
    score_by: Literal["mean_full", "mean_continuation", "sum_full", "sum_continuation"] = (
        "mean_full"
    )
    """Log-likelihood that the table compares: per token or summed, with or without the prompt."""
    seed: int = 0
    """Seed of the weights, the order of documents and the draws of languages."""
    compile: bool = False
    """Compile each block with torch.compile; slow with ZeRO 3, whose hooks are compiled too."""
    deterministic: bool = False
    """Refuse operations that give different bits from run to run, at some cost of speed."""

    def __post_init__(self) -> None:
        for name in ("rows_per_step", "micro_rows", "valid_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected 1 or more")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed={self.seed}; expected 0 to 2**63 - 1")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"stages need names of their own, one at least; found {names}")
        for position, stage in enumerate(self.stages):
            allowed = ["previous", "scratch", *names[:position]]
            if stage.init not in allowed:
                raise ValueError(
                    f"stages.{position}.init={stage.init!r} is none of {', '.join(allowed)}"
                )
