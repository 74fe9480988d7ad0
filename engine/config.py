"""The configuration of a run: frozen dataclasses, one docstring per field, the command line's help."""

from dataclasses import dataclass


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
    """Folder of a Hugging Face Llama or Qwen2 checkpoint to start from, its text embedding dropped."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; RoPE rotates pairs")
