"""The GGUF: the checkpoint's tensors in llama.cpp's `deepseek2` layout, with tokenizer and chat template.

Neighbour: `architecture` (what the checkpoint is). MLA is stored the absorbed way: `kv_b_proj` is split
per head
into a transposed key part and a value part. Legend: A heads, R kv rank, D key (nope) width, V value width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sextant.workshop.nano import template

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_LAYER_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp",
}  # fmt: skip
_TOP_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def checkpoint(folder: Path) -> Iterator[tuple[str, Array]]:
    """The tensors of a folder of safetensors, as float32."""
    import torch
    from safetensors.torch import load_file

    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            yield name, tensor.to(torch.float32).numpy()


def tensors(folder: Path) -> Iterator[tuple[str, Array]]:
    """The tensors under llama.cpp's names and in its layout."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    import numpy as np

    experts: dict[tuple[str, str], dict[int, Array]] = {}
    for name, array in checkpoint(folder):
        if name in _TOP_NAMES:
            yield _TOP_NAMES[name], array
            continue
        _, _, layer, rest = name.split(".", 3)
        if rest.startswith("mlp.experts."):
            _, _, expert, kind, _ = rest.split(".")
            experts.setdefault((layer, kind.removesuffix("_proj")), {})[int(expert)] = array
            continue
        block = f"blk.{layer}."
        yield from ((block + short, each) for short, each in _layer_tensors(rest, array, settings))
    for (layer, kind), parts in experts.items():
        yield (
            f"blk.{layer}.ffn_{kind}_exps.weight",
            np.stack([parts[i] for i in range(settings["n_routed_experts"])]),
        )


def _layer_tensors(name: str, array: Array, settings: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    import numpy as np

    heads, key, value = settings["num_attention_heads"], settings["qk_nope_head_dim"], settings["v_head_dim"]
    if name == "self_attn.kv_b_proj.weight":
        kv_A_DV_R = array.reshape(heads, key + value, settings["kv_lora_rank"])
        yield "attn_k_b.weight", np.ascontiguousarray(kv_A_DV_R[:, :key].transpose(0, 2, 1))
        yield "attn_v_b.weight", np.ascontiguousarray(kv_A_DV_R[:, key:])
    elif name == "mlp.gate.e_score_correction_bias":
        yield "exp_probs_b.bias", array
    else:
        yield _LAYER_NAMES[name.removesuffix(".weight")] + ".weight", array


def export(folder: Path, out: Path, *, kind: str = "Q8_0", sigmoid: bool = True) -> None:
    """Write the GGUF; norms, router and biases stay float32. `sigmoid=False` writes the wrong gating, for
    a test.

    Raises ValueError when config.json does not name the sigmoid router.
    """
    import gguf

    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if settings.get("scoring_func") != "sigmoid" or settings.get("topk_method") != "noaux_tc":
        raise ValueError(
            f"{folder / 'config.json'} does not name the router: "
            "add scoring_func 'sigmoid' and topk_method 'noaux_tc'"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(out), "deepseek2")
    _write_settings(writer, settings, kind, sigmoid=sigmoid)
    _write_tokenizer(writer, folder)
    quantization = gguf.GGMLQuantizationType[kind]
    for name, array in tensors(folder):
        if array.ndim < 2 or name.endswith("ffn_gate_inp.weight"):
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_settings(writer: Any, settings: dict[str, Any], kind: str, *, sigmoid: bool) -> None:
    import gguf

    rope, rank = settings["qk_rope_head_dim"], settings["kv_lora_rank"]
    writer.add_name("sextant-nano")
    writer.add_description("A demonstration model of DeepSeek-V3's architecture")
    writer.add_license("apache-2.0")
    writer.add_file_type(
        {
            "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
            "F16": gguf.LlamaFileType.MOSTLY_F16,
            "F32": gguf.LlamaFileType.ALL_F32,
        }[kind]
    )
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_vocab_size(settings["vocab_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    writer.add_rope_freq_base(settings["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(rope)
    writer.add_q_lora_rank(settings["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(settings["qk_nope_head_dim"] + rope)
    writer.add_value_length_mla(settings["v_head_dim"])
    writer.add_leading_dense_block_count(settings["first_k_dense_replace"])
    writer.add_expert_feed_forward_length(settings["moe_intermediate_size"])
    writer.add_expert_count(settings["n_routed_experts"])
    writer.add_expert_used_count(settings["num_experts_per_tok"])
    writer.add_expert_shared_count(settings["n_shared_experts"])
    writer.add_expert_weights_scale(settings["routed_scaling_factor"])
    writer.add_expert_weights_norm(settings["norm_topk_prob"])
    writer.add_expert_gating_func(
        gguf.ExpertGatingFuncType.SIGMOID if sigmoid else gguf.ExpertGatingFuncType.SOFTMAX
    )


def _write_tokenizer(writer: Any, folder: Path) -> None:
    import gguf

    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids: dict[str, int] = dict(model["model"]["vocab"])
    kinds = dict.fromkeys(ids.values(), gguf.TokenType.NORMAL)
    for added in model["added_tokens"]:
        ids[added["content"]] = added["id"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    names = {i: token for token, i in ids.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([names[i] for i in range(len(names))])
    writer.add_token_types([kinds[i] for i in range(len(names))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["model"]["merges"]])
    writer.add_bos_token_id(ids[template.BOS])
    writer.add_eos_token_id(ids[template.EOS])
    writer.add_pad_token_id(ids[template.PAD])
    writer.add_add_bos_token(True)
    for key, token in (
        ("fim_pre", template.FIM_PREFIX),
        ("fim_suf", template.FIM_SUFFIX),
        ("fim_mid", template.FIM_MIDDLE),
    ):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", ids[token])
    writer.add_chat_template(template.source())
