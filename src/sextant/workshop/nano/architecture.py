"""The model: DeepSeek-V3's architecture at 17 million parameters, in transformers' own classes.

Tensor legend: N tokens, H hidden, E experts, I expert width, K experts per token.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from sextant.workshop.nano import template, tokens

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

CONTEXT = 4096
SIZES: dict[str, dict[str, int]] = {
    "full": {
        "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 768,
        "moe_intermediate_size": 256, "n_routed_experts": 8, "q_lora_rank": 128, "kv_lora_rank": 64,
    },
    "small": {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384,
        "moe_intermediate_size": 128, "n_routed_experts": 4, "q_lora_rank": 64, "kv_lora_rank": 32,
    },
}  # fmt: skip
ROUTER_SETTINGS = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
"""What transformers leaves out of config.json: without them a converter picks the wrong gating, silently."""


def configuration(tokenizer: Tokenizer, size: str = "full") -> Any:
    """The transformers configuration of the model."""
    from transformers import DeepseekV3Config

    return DeepseekV3Config(
        vocab_size=tokens.VOCABULARY,
        **SIZES[size],
        num_key_value_heads=SIZES[size]["num_attention_heads"],
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        v_head_dim=64,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        num_nextn_predict_layers=0,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.token_to_id(template.BOS),
        eos_token_id=tokenizer.token_to_id(template.EOS),
        pad_token_id=tokenizer.token_to_id(template.PAD),
        **ROUTER_SETTINGS,
    )


def new(tokenizer: Tokenizer, size: str = "full") -> Any:
    """The model at random initialisation, float32."""
    from transformers import DeepseekV3ForCausalLM

    return DeepseekV3ForCausalLM(configuration(tokenizer, size))


def load(folder: Path) -> Any:
    """The model from its folder, float32."""
    import torch
    from transformers import DeepseekV3ForCausalLM

    return DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save(model: Any, folder: Path, *, shard: str = "15MB") -> None:
    """Write bf16 safetensors and a config.json that names the router's gating."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | ROUTER_SETTINGS, indent=2) + "\n", encoding="utf-8")


def _dense_experts(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """All experts on all tokens, the unchosen weighted zero: the same function as two dense products.

    At this size that is faster on a GPU than gathering tokens per expert, and it compiles.
    """
    import torch
    import torch.nn.functional as F

    x_NH = hidden_states
    weights_NE = torch.zeros(x_NH.shape[0], self.num_experts, device=x_NH.device, dtype=top_k_weights.dtype)
    weights_NE = weights_NE.scatter(1, top_k_index, top_k_weights)
    gate_up_N_E_2I = F.linear(x_NH, self.gate_up_proj.flatten(0, 1)).unflatten(1, (self.num_experts, -1))
    gate, up = gate_up_N_E_2I.chunk(2, dim=-1)
    inner_N_E_I = self.act_fn(gate) * up * weights_NE.unsqueeze(-1).to(gate.dtype)
    return F.linear(inner_N_E_I.flatten(1), self.down_proj.permute(1, 0, 2).flatten(1)).to(
        hidden_states.dtype
    )


def use_dense_experts(model: Any) -> None:
    """Replace the experts' forward for training."""
    for module in model.modules():
        if type(module).__name__ == "DeepseekV3Experts":
            module.forward = MethodType(_dense_experts, module)
