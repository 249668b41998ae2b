"""Training steps of Hugging Face architectures, built from configuration, without weights."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter, FlopcountError, zoo
from tests.invariants import check

with suppress(FlopcountError):
    zoo.load()  # transformers imports torchvision where it is installed
hub: Any = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = torch.arange(24).view(2, 12) % 90 + 3
PIXELS = torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
TEXT = {"input_ids": TOKENS, "labels": TOKENS}
IMAGE = {"pixel_values": PIXELS, "labels": torch.tensor([0, 1])}
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
LANGUAGE = SMALL | {"vocab_size": 99, "max_position_embeddings": 64}
GROUPED = LANGUAGE | {"num_key_value_heads": 2}
VISION = SMALL | {"image_size": 32, "patch_size": 8}
SEQUENCES: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 99, "n_positions": 64}
EXPERTS = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 32}
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}

# architecture -> its configuration, and what a step is given
ARCHITECTURES: dict[str, tuple[Callable[[], Any], dict[str, Tensor]]] = {
    "LlamaForCausalLM": (lambda: hub.LlamaConfig(**GROUPED), TEXT),
    "MistralForCausalLM": (lambda: hub.MistralConfig(**GROUPED), TEXT),
    "MixtralForCausalLM": (lambda: hub.MixtralConfig(**GROUPED, num_local_experts=4), TEXT),
    "Qwen2MoeForCausalLM": (
        lambda: hub.Qwen2MoeConfig(**GROUPED, **EXPERTS, num_experts=4, num_experts_per_tok=2),
        TEXT,
    ),
    "Gemma2ForCausalLM": (lambda: hub.Gemma2Config(**GROUPED, head_dim=8), TEXT),
    "PhiForCausalLM": (lambda: hub.PhiConfig(**LANGUAGE), TEXT),
    "GPT2LMHeadModel": (lambda: hub.GPT2Config(**GPT2), TEXT),
    "GPTNeoXForCausalLM": (lambda: hub.GPTNeoXConfig(**LANGUAGE), TEXT),
    "BloomForCausalLM": (
        lambda: hub.BloomConfig(hidden_size=32, n_layer=4, n_head=4, vocab_size=99),
        TEXT,
    ),
    "FalconForCausalLM": (lambda: hub.FalconConfig(**LANGUAGE), TEXT),
    "OPTForCausalLM": (
        lambda: hub.OPTConfig(**LANGUAGE, ffn_dim=64, word_embed_proj_dim=32),
        TEXT,
    ),
    "MambaForCausalLM": (lambda: hub.MambaConfig(**LANGUAGE, state_size=4), TEXT),
    "RwkvForCausalLM": (
        lambda: hub.RwkvConfig(**LANGUAGE, attention_hidden_size=32, context_length=64),
        TEXT,
    ),
    "BertForMaskedLM": (lambda: hub.BertConfig(**LANGUAGE), TEXT),
    "AlbertForMaskedLM": (lambda: hub.AlbertConfig(**LANGUAGE, embedding_size=16), TEXT),
    "DistilBertForMaskedLM": (
        lambda: hub.DistilBertConfig(dim=32, n_layers=4, n_heads=4, hidden_dim=64, vocab_size=99),
        TEXT,
    ),
    "DebertaV2ForMaskedLM": (
        lambda: hub.DebertaV2Config(
            **LANGUAGE, relative_attention=True, pos_att_type=["p2c", "c2p"]
        ),
        TEXT,
    ),
    "T5ForConditionalGeneration": (
        lambda: hub.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=4, num_heads=4, vocab_size=99),
        {"input_ids": TOKENS, "decoder_input_ids": TOKENS},
    ),
    "BartForConditionalGeneration": (
        lambda: hub.BartConfig(**SEQUENCES, max_position_embeddings=64),
        TEXT,
    ),
    "WhisperForConditionalGeneration": (
        lambda: hub.WhisperConfig(
            **SEQUENCES,
            num_mel_bins=8,
            max_source_positions=20,
            max_target_positions=64,
            pad_token_id=0,
            decoder_start_token_id=1,
        ),
        {"input_features": torch.linspace(0, 1, 640).view(2, 8, 40), "labels": TOKENS},
    ),
    "Wav2Vec2ForCTC": (
        lambda: hub.Wav2Vec2Config(
            **SMALL,
            vocab_size=20,
            conv_dim=[16, 16],
            conv_stride=[5, 2],
            conv_kernel=[10, 3],
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
            mask_time_length=2,
        ),
        {"input_values": torch.linspace(-1, 1, 800).view(2, 400), "labels": TOKENS[:, :5] % 19},
    ),
    "ViTForImageClassification": (lambda: hub.ViTConfig(**VISION), IMAGE),
    "SwinForImageClassification": (
        lambda: hub.SwinConfig(
            image_size=32,
            patch_size=2,
            embed_dim=8,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=4,
        ),
        IMAGE,
    ),
    "ConvNextV2ForImageClassification": (
        lambda: hub.ConvNextV2Config(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]),
        IMAGE,
    ),
    "CLIPModel": (
        lambda: hub.CLIPConfig(text_config=LANGUAGE, vision_config=VISION, projection_dim=16),
        {"input_ids": TOKENS, "pixel_values": PIXELS},
    ),
    "DetrForObjectDetection": (
        lambda: hub.DetrConfig(
            **{name: size for name, size in SEQUENCES.items() if name != "vocab_size"},
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=hub.ResNetConfig(**BACKBONE, out_features=["stage4"]),
            num_queries=5,
        ),
        {"pixel_values": PIXELS},
    ),
    "SegformerForSemanticSegmentation": (
        lambda: hub.SegformerConfig(
            hidden_sizes=[8, 16, 16, 16], decoder_hidden_size=16, num_labels=5
        ),
        {"pixel_values": PIXELS, "labels": torch.zeros(2, 32, 32, dtype=torch.int64)},
    ),
}

UNEQUAL = {
    "swin": "stages narrow the image, and every other block shifts its windows",
    "detr": "stages of a ResNet narrow the image",
    "segformer": "stages narrow the image",
    "convnext": "stages narrow the image",
    "rwkv": "the first block has a norm more",
    "deberta": "all layers but one add their gradient of the table of positions",
    "t5": "the first layer computes the bias of positions",
    "bart": "all decoder layers but one add their gradient of the encoder's output",
    "whisper": "all decoder layers but one add their gradient of the encoder's output",
}
"""Architectures whose layers are not all alike, and why."""


def step(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of a training step, and all gradients; chance is the same each time."""
    model.zero_grad()
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(0)
    output = model(**inputs)
    loss = getattr(output, "loss", None)
    if loss is None:
        loss = next(value for value in output.values() if isinstance(value, Tensor)).sum()
    loss.backward()
    return loss.detach(), [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("recomputed", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_training_step(name: str, attention: str, recomputed: bool) -> None:
    configure, inputs = ARCHITECTURES[name]
    config = configure()
    config._attn_implementation = attention
    torch.manual_seed(0)
    try:
        model = getattr(hub, name)(config).train()
    except ValueError as error:
        if "does not support an attention implementation" not in str(error):
            raise
        pytest.skip("it has no such attention")
    if recomputed:
        if not model.supports_gradient_checkpointing:
            pytest.skip("it has no gradient checkpointing")
        model.gradient_checkpointing_enable()

    expected = step(model, inputs)
    with FlopCounter(model, strict=True) as counter:
        loss, gradients = step(model, inputs)
    assert torch.equal(loss, expected[0])
    for ours, theirs in zip(gradients, expected[1], strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)

    report = counter.report()
    check(report, plain=True)
    assert (report.root.phases["recompute"].macs > 0) >= recomputed
    alike = defaultdict(set)
    for node in report.root.walk():
        if found := re.search(r"(.*\b(?:layers?|h|blocks?))\.\d+$", node.path):
            alike[found[1]].add(tuple(cost.flops for cost in node.phases.values()))
    reason = next((why for kind, why in UNEQUAL.items() if kind in name.lower()), None)
    assert reason or all(len(costs) == 1 for costs in alike.values()), alike
