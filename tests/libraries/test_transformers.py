"""Training steps of Hugging Face architectures, built from configuration, without weights."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter, FlopcountError, Report
from flopcount.cli import torchvision_models
from tests.invariants import check

with suppress(FlopcountError):
    torchvision_models.load()  # transformers imports torchvision where it is installed
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
    r".*:rwkv\.blocks": "the first block has a norm more",
    r".*:deberta\.encoder\.layer": "all but the last add their gradient of the table of positions",
    r".*:(en|de)coder\.block": "the first computes the bias of positions, to whose gradient all "
    "but the last add theirs",
    r".*:.*\.block\.\d\.layer": "attention, and a perceptron",
    r"(?!OPT).*:model\.decoder\.layers": "all but the last add their gradient of the encoder's "
    "output",
    r".*:swin\.encoder\.layers": "stages narrow the image",
    r".*:swin\.encoder\.layers\.\d\.blocks": "every other block shifts its windows",
    r".*:model\.backbone\..*\.layer": "a bottleneck's convolutions",
    r".*:bbox_predictor\.layers": "the last is as wide as a box",
    r".*:segformer\.stages\.0\.blocks": "the second may be left out by chance",
}
"""Rows of layers that are not all alike, by architecture and path, and why."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models are small: threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def counted(model: nn.Module, inputs: dict[str, Tensor]) -> Report:
    """The report of a step, which is bit for bit what it is without a counter."""
    expected = step(model, inputs)
    with FlopCounter(model, strict=True) as counter:
        loss, gradients = step(model, inputs)
    assert torch.equal(loss, expected[0])
    for ours, theirs in zip(gradients, expected[1], strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    report = counter.report()
    check(report, plain=True)
    return report


def built(name: str, attention: str) -> nn.Module:
    config = ARCHITECTURES[name][0]()
    config._attn_implementation = attention
    torch.manual_seed(0)
    try:
        model: nn.Module = getattr(hub, name)(config).train()
    except ValueError as error:
        if "does not support an attention implementation" not in str(error):
            raise
        pytest.skip("it has no such attention")
    return model


EACH = pytest.mark.parametrize("name", ARCHITECTURES)
ATTENTION = pytest.mark.parametrize("attention", ["eager", "sdpa"])


@ATTENTION
@EACH
def test_equal_layers_get_equal_numbers(name: str, attention: str) -> None:
    report = counted(built(name, attention), ARCHITECTURES[name][1])
    alike = defaultdict(set)
    for node in report.root.walk():
        if found := re.search(r"(.*\b(?:layers?|h|blocks?))\.\d+$", node.path):
            alike[found[1]].add(tuple(cost.flops for cost in node.phases.values()))
    for path, costs in alike.items():
        reason = next(
            (why for row, why in UNEQUAL.items() if re.fullmatch(row, f"{name}:{path}")), None
        )
        assert (len(costs) == 1) == (reason is None), (path, reason)


@ATTENTION
@EACH
def test_checkpointing_repeats_forward_work_and_changes_nothing_else(
    name: str, attention: str
) -> None:
    inputs = ARCHITECTURES[name][1]
    model: Any = built(name, attention)
    if not model.supports_gradient_checkpointing:
        pytest.skip("it has no gradient checkpointing")
    once = counted(model, inputs)
    model.gradient_checkpointing_enable()
    again = counted(model, inputs)
    assert list(once) == list(again)
    for path in once:
        for phase in ("forward", "backward"):
            assert once[path].phases[phase].macs == again[path].phases[phase].macs, path
        assert once[path].calls == again[path].calls
        # a kernel may recompute by itself; Swin's stages and blocks are checkpoints, in each other
        more = again[path].phases["recompute"].macs - once[path].phases["recompute"].macs
        assert 0 <= more <= 2 * once[path].phases["forward"].macs
    assert again.root.phases["recompute"].macs > once.root.phases["recompute"].macs
