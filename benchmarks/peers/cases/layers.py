"""Layers of ``torch.nn``, each alone.

A layer that multiplies with a weight does each product three times in a training step: once
forward, once for the gradient of its input, once for that of its weight.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.peers.cases.catalogue import Made, alone, layer, x
from tests.programs.catalogue import Composed

# -- convolutions: outputs × length of the dot product that each is


@layer(N := 2 * 8 * 10 * 10 * (8 * 3 * 3), 2 * N)
def convolution() -> Made:
    """2·8·10·10 outputs, each a sum of 8·3·3 products, padding included; bias is no product."""
    return alone(nn.Conv2d(8, 8, 3, padding=1)), (x(2, 8, 10, 10),)


@layer(N := 2 * 8 * 10 * 10 * 6, 2 * N)
def convolution_1_by_1() -> Made:
    """2·8·10·10 outputs, each a sum of 6 products."""
    return alone(nn.Conv2d(6, 8, 1, bias=False)), (x(2, 6, 10, 10),)


@layer(N := 2 * 8 * 8 * 8 * (3 * 3 * 3), 2 * N)
def grouped_convolution() -> Made:
    """2·8·8·8 outputs; each sees the 6/2 channels of its group: 3·3·3 products."""
    return alone(nn.Conv2d(6, 8, 3, groups=2, bias=False)), (x(2, 6, 10, 10),)


@layer(N := 2 * 8 * 10 * 10 * (3 * 3), 2 * N)
def depthwise_convolution() -> Made:
    """2·8·10·10 outputs, two for each of 4 channels; each sees one channel: 3·3 products."""
    return alone(nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False)), (x(2, 4, 10, 10),)


@layer(N := 2 * 8 * 5 * 5 * (8 * 3 * 3), 2 * N)
def dilated_convolution_with_stride() -> Made:
    """Dilation spreads the 8·3·3 products and adds none; stride 2 leaves 5·5 positions."""
    return alone(nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2)), (x(2, 8, 10, 10),)


@layer(N := 2 * 8 * 10 * 10 * (8 * 3 * 3), 2 * N)
def circular_padding() -> Made:
    """The image is padded by itself first, and the convolution is as large as ever."""
    part = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
    return alone(part), (x(2, 8, 10, 10),)


@layer(N := 2 * 4 * 5 * 5 * (6 * 3 * 3), 2 * N)
def transposed_convolution() -> Made:
    """Each of 2·4·5·5 inputs is multiplied with the 6·3·3 weights of its channel."""
    return alone(nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False)), (x(2, 4, 5, 5),)


@layer(N := 2 * 4 * 5 * 5 * (3 * 3 * 3), 2 * N)
def grouped_transposed_convolution() -> Made:
    """Each of 2·4·5·5 inputs meets the 6/2 output channels of its group: 3·3·3 weights."""
    part = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False)
    return alone(part), (x(2, 4, 5, 5),)


@layer(N := 2 * 8 * 20 * (4 * 5), 2 * N)
def convolution_1d() -> Made:
    """2·8·20 outputs, each a sum of 4·5 products."""
    return alone(nn.Conv1d(4, 8, 5, padding=2, bias=False)), (x(2, 4, 20),)


@layer(N := 4 * 6 * 6 * 6 * (2 * 3 * 3 * 3), 2 * N)
def convolution_3d() -> Made:
    """4·6·6·6 outputs, each a sum of 2·3·3·3 products."""
    return alone(nn.Conv3d(2, 4, 3, padding=1)), (x(1, 2, 6, 6, 6),)


# -- linear layers: samples × inputs × outputs


@layer(N := 4 * 64 * 16, 2 * N)
def linear() -> Made:
    """4 samples, 16 outputs, each a sum of 64 products; the bias is no product."""
    return alone(nn.Linear(64, 16)), (x(4, 64),)


@layer(N := 4 * 8 * 16, 2 * N)
def linear_without_bias() -> Made:
    """4 samples, 16 outputs, each a sum of 8 products."""
    return alone(nn.Linear(8, 16, bias=False)), (x(4, 8),)


@layer(N := 2 * 5 * 64 * 16, 2 * N)
def linear_on_a_sequence() -> Made:
    """2·5 tokens are as many samples."""
    return alone(nn.Linear(64, 16)), (x(2, 5, 64),)


@layer(N := 4 * 64 * 16, 2 * N)
def linear_in_bfloat16() -> Made:
    """The dtype changes nothing."""
    tokens = x(4, 64, grad=False).bfloat16().requires_grad_()
    return alone(nn.Linear(64, 16)).bfloat16(), (tokens,)


# -- recurrent layers: steps × batch × gates · hidden × (inputs + hidden)


@layer(N := 5 * 3 * (4 * 80) * (40 + 80), 2 * N)
def lstm() -> Made:
    """5 steps of 3 samples: 4 gates of 80 units, each from 40 inputs and 80 hidden units.

    The fused kernel computes a gradient of the first hidden state, too.
    """
    return alone(nn.LSTM(40, 80)), (x(5, 3, 40),)


@layer(N := 5 * 3 * (3 * 80) * (40 + 80), 2 * N - 3 * (3 * 80) * 80)
def gru() -> Made:
    """5 steps of 3 samples, 3 gates. The first hidden state is a constant: no gradient for it."""
    return alone(nn.GRU(40, 80)), (x(5, 3, 40),)


@layer(N := 3 * (4 * 80) * (40 + 80), 2 * N)
def lstm_cell() -> Made:
    """One step of 3 samples; its state is an input, and needs a gradient."""
    model = Composed(lambda self, x, h, c: self.layer(x, (h, c)), layer=nn.LSTMCell(40, 80))
    return model, (x(3, 40), x(3, 80), x(3, 80))


# -- attention


@layer(N := 2 * 16 * (4 * 64 * 64) + 2 * (2 * 16 * 16 * 64), 2 * N)
def multihead_attention() -> Made:
    """2·16 tokens through four 64·64 projections; scores and values, 2·16·16·64 each."""
    part = nn.MultiheadAttention(64, 4, batch_first=True)
    tokens = x(2, 16, 64)
    return alone(part), (tokens, tokens, tokens)


@layer(
    N := 2 * 16 * (4 * 64 * 64 + 2 * 64 * 128) + 2 * (2 * 16 * 16 * 64),
    2 * N,
    recomputed=2 * 16 * 16 * 64,
)
def transformer_encoder_layer() -> Made:
    """The same, and two layers 64·128; the fused attention computes its scores again."""
    part = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    return alone(part), (x(2, 16, 64),)


# -- layers without products: the right answer is 0


@layer(0, 0)
def embedding() -> Made:
    """A table is looked up."""
    return alone(nn.Embedding(50, 8)), (torch.arange(12).view(3, 4),)


@layer(0, 0)
def embedding_bag() -> Made:
    """Rows of a table are added."""
    return alone(nn.EmbeddingBag(50, 8, mode="sum")), (torch.arange(12).view(3, 4),)


@layer(0, 0)
def batch_norm() -> Made:
    """Work, but no product."""
    return alone(nn.BatchNorm2d(6)), (x(2, 6, 10, 10),)


@layer(0, 0)
def layer_norm() -> Made:
    """Work, but no product."""
    return alone(nn.LayerNorm(8)), (x(4, 8),)


@layer(0, 0)
def activations() -> Made:
    """Work, but no product."""
    return nn.Sequential(nn.PReLU(), nn.ReLU(), nn.GELU(), nn.Softmax(-1)), (x(4, 8),)


@layer(0, 0)
def pooling() -> Made:
    """A norm, maxima and means: work, but no product."""
    part = nn.Sequential(
        nn.InstanceNorm2d(6, affine=True), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
    )
    return part, (x(2, 6, 10, 10),)


@layer(0, 0)
def bilinear_upsampling() -> Made:
    """A norm, and four weighted neighbours for each pixel: no product of matrices."""
    part = nn.Sequential(nn.GroupNorm(2, 6), nn.Upsample(scale_factor=2, mode="bilinear"))
    return part, (x(2, 6, 10, 10),)
