"""Whole models: published figures of torchvision's, closed forms of transformers.

torchvision publishes the multiply-accumulates of each of its models for one image, to a thousandth
of a giga. Backward is twice that, but for the first convolution, whose input is an image and needs
no gradient.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.peers.cases.catalogue import Build, Case, Made
from flopcount.cli import torchvision_models
from tests import models
from tests.programs.catalogue import Composed

__all__ = ["NETWORKS", "published"]

PRINTED = 10**6
"""One unit of the last digit of a published figure, in multiply-accumulates."""


def torchvisions(name: str, weights: str | None = None) -> Made:
    """A model of torchvision as its weights would build it, and an image of the right size."""
    model = torchvision_models.build(name, weights)
    return model, torchvision_models.example_inputs(name, weights=weights)


def published(name: str, weights: str | None = None, *, stem: int = 0, scores: int = 0) -> Case:
    """A model of torchvision; without its ``stem`` only forward is compared.

    Args:
        name: the model.
        weights: of which weights the figure is; by default ``"DEFAULT"``.
        stem: multiply-accumulates of the first convolution.
        scores: those of fused attention's scores, which backward computes again.
    """
    figure = torchvision_models.weights_of(name, weights).meta["_ops"]
    forward = round(figure * 1000) * PRINTED
    backward = 2 * forward - stem if stem else None
    why = f"published: {figure} G; backward twice that, without {stem:,} for the image"
    build = partial(torchvisions, name, weights)
    return Case(build, why, forward, backward, scores, slack=PRINTED // 2)


TOKENS = 32
"""Length of the sequence that language models get, in a batch of one."""


def transformer(build: Build, why: str, *, layers: int, layer: int, scores: int, once: int) -> Case:
    """A transformer on ``TOKENS`` tokens.

    Args:
        build: makes it.
        why: what the figures are.
        layers: how many blocks it has.
        layer: weights of a block's matrices that a token meets.
        scores: width of all heads together: queries by keys, and as much for the values.
        once: multiply-accumulates after the blocks.
    """
    attention = TOKENS * TOKENS * scores
    forward = layers * (TOKENS * layer + 2 * attention) + once
    return Case(build, why, forward, 2 * forward, recomputed=layers * attention)


def on_tokens(model: Any) -> Made:
    """A language model and its tokens."""
    return model, (torch.arange(TOKENS).view(1, TOKENS),)


def hub(architecture: str, **config: Any) -> Made:
    """A model of Hugging Face, from its configuration, that returns logits."""
    import transformers

    made = getattr(transformers, f"{architecture}Config")(use_cache=False, **config)
    model: nn.Module = getattr(transformers, f"{architecture}ForCausalLM")(made)
    return on_tokens(Composed(lambda self, tokens: self.model(tokens).logits, model=model))


SMALL: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
"""Configuration of the models of Hugging Face: heads of 16."""

GROUPED = 2 * 128 * 128 + 2 * 128 * 64
"""Their projections: queries and output of 128, keys and values of 4 heads of 16."""

NETWORKS: dict[str, Case] = {
    "ResNet-18": published("resnet18", stem=64 * 112 * 112 * (3 * 7 * 7)),
    "ResNet-50": published("resnet50", stem=64 * 112 * 112 * (3 * 7 * 7)),
    "MobileNetV2": published("mobilenet_v2", stem=32 * 112 * 112 * (3 * 3 * 3)),
    "ResNeXt-50": published("resnext50_32x4d", stem=64 * 112 * 112 * (3 * 7 * 7)),
    "EfficientNet-B0": published("efficientnet_b0", stem=32 * 112 * 112 * (3 * 3 * 3)),
    "ConvNeXt-T": published("convnext_tiny", stem=96 * 56 * 56 * (3 * 4 * 4)),
    "ViT-B/16": published(
        "vit_b_16", stem=768 * 14 * 14 * (3 * 16 * 16), scores=12 * 197 * 197 * 768
    ),
    "Swin-T": published("swin_t", stem=96 * 56 * 56 * (3 * 4 * 4)),
    "GPT-2": transformer(
        lambda: on_tokens(models.GPT2()),
        "12 blocks of 4·768² for attention and 8·768² for the MLP, and the head's 768·50257",
        layers=12,
        layer=12 * 768 * 768,
        scores=768,
        once=TOKENS * 768 * 50257,
    ),
    "BERT": transformer(
        lambda: on_tokens(models.BERT()),
        "12 blocks of 12·768², and the pooler's 768² for the first token",
        layers=12,
        layer=12 * 768 * 768,
        scores=768,
        once=768 * 768,
    ),
    "Llama": transformer(
        lambda: on_tokens(models.Llama(8, 512, 8, 4, 1408, 32000)),
        "8 blocks: queries and output 2·512², keys and values 2·512·256, SwiGLU 3·512·1408; "
        "the head's 512·32000",
        layers=8,
        layer=2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1408,
        scores=512,
        once=TOKENS * 512 * 32000,
    ),
    "tiny layers": Case(
        lambda: (models.tiny_layers(), (torch.randn(4, 8),)),
        "20 layers of 8·8 weights on 4 rows; backward twice that, without the first's input",
        20 * (4 * 8 * 8),
        2 * 20 * (4 * 8 * 8) - 4 * 8 * 8,
    ),
    "LSTM": Case(
        lambda: (models.Lstm(), (torch.randn(4, 32, 64),)),
        "4 gates of 128·(64 + 128) and 4 of 128·(128 + 128) weights on 4·32 vectors, and 128·10 "
        "weights on the last 4; backward is not compared: whether the input's gradient, which "
        "nobody wants, is computed along with the others is up to the kernel",
        4 * 32 * (4 * 128 * (64 + 128) + 4 * 128 * (128 + 128)) + 4 * 128 * 10,
        None,
    ),
    "Hugging Face Llama": transformer(
        partial(hub, "Llama", **SMALL),
        "4 blocks: projections 2·128² + 2·128·64, SwiGLU 3·128·256; the head's 128·1000",
        layers=4,
        layer=GROUPED + 3 * 128 * 256,
        scores=128,
        once=TOKENS * 128 * 1000,
    ),
    "Hugging Face Mixtral": transformer(
        partial(hub, "Mixtral", **SMALL, num_local_experts=4, num_experts_per_tok=2),
        "the same, with a router 128·4 and 2 of 4 SwiGLUs for each token",
        layers=4,
        layer=GROUPED + 128 * 4 + 2 * 3 * 128 * 256,
        scores=128,
        once=TOKENS * 128 * 1000,
    ),
}
