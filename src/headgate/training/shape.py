"""The shape of the model, as Hugging Face names it."""

from typing import Any

import msgspec


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Llama decoder: RMSNorm, rotary positions, SwiGLU, grouped-query attention, tied embeddings, no biases."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every weight by its Hugging Face name, with its [out, in] size."""
        d, f = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, d)}
        for layer in range(self.num_hidden_layers):
            stem = f"model.layers.{layer}"
            sizes |= {
                f"{stem}.input_layernorm.weight": (d,),
                f"{stem}.self_attn.q_proj.weight": (q, d),
                f"{stem}.self_attn.k_proj.weight": (kv, d),
                f"{stem}.self_attn.v_proj.weight": (kv, d),
                f"{stem}.self_attn.o_proj.weight": (d, q),
                f"{stem}.post_attention_layernorm.weight": (d,),
                f"{stem}.mlp.gate_proj.weight": (f, d),
                f"{stem}.mlp.up_proj.weight": (f, d),
                f"{stem}.mlp.down_proj.weight": (d, f),
            }
        sizes["model.norm.weight"] = (d,)
        return sizes

    def parameters(self) -> int:
        """How many numbers the model holds."""
        total = 0
        for size in self.tensors().values():
            total += size[0] * (size[1] if len(size) == 2 else 1)
        return total

    def config(self, *, begin: int, end: int, pad: int) -> dict[str, Any]:
        """`config.json` of the model folder."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": begin,
            "eos_token_id": end,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": False,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": pad,
            "pretraining_tp": 1,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": self.vocab_size,
        }
