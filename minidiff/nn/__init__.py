"""Layers: a Module holds parameters and the rule that uses them."""

from minidiff.nn.attention import CrossAttention, SelfAttention
from minidiff.nn.layers import Conv2d, Embedding, GroupNorm, GroupNormSilu, LayerNorm, Linear
from minidiff.nn.module import Flat, Module, Parameter
from minidiff.nn.time import FourierEmbedding, SinusoidalEmbedding

__all__ = [
    "Conv2d", "CrossAttention", "Embedding", "Flat", "FourierEmbedding", "GroupNorm",
    "GroupNormSilu", "LayerNorm", "Linear", "Module", "Parameter", "SelfAttention",
    "SinusoidalEmbedding",
]  # fmt: skip
