"""Small neural networks with random weights, as `zoo` shows them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import nn

os.environ.setdefault("KERAS_BACKEND", "torch")
RANDOM = np.random.default_rng(2)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "was", "good", "bad", "very"]
Made = tuple[Any, Any, dict[str, Any]]


class Cnn(nn.Module):
    """Images to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU())
        self.head = nn.Linear(16 * 7 * 7, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [n, 3, 32, 32] to logits [n, 10]."""
        return self.head(self.body(image).flatten(1))


class Lstm(nn.Module):
    """A series to two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 16, num_layers=2, batch_first=True), nn.Linear(16, 2)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """A series [n, 12, 5] to [n, 2]."""
        found, _ = self.lstm(series)
        return self.head(found[:, -1])


class Encoder(nn.Module):
    """A transformer's encoder over word numbers."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.words, self.encoder = nn.Embedding(50, 16), nn.TransformerEncoder(layer, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Word numbers [n, any] to their mean encoding [n, 16]."""
        return self.encoder(self.words(ids)).mean(1)


class TwoAndTwo(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both [n, 4], to [n, 3] and to flags [n]."""
        return self.head(left - right), left.sum(1) > right.sum(1)


def _seen(module: nn.Module, inputs: Any, example: Any, outputs: Any = None) -> Made:
    from mlflow.models import ModelSignature

    return module.eval(), example, {"signature": ModelSignature(inputs, outputs), "serialization_format": "pickle"}


def _tensors(**specs: tuple[str, tuple[int, ...]]) -> Any:
    from mlflow.types.schema import Schema, TensorSpec

    return Schema([TensorSpec(np.dtype(dtype), shape, name) for name, (dtype, shape) in specs.items()])


def cnn() -> Made:
    """An image classifier."""
    torch.manual_seed(1)
    images = RANDOM.normal(size=(2, 3, 32, 32)).astype("float32")
    return _seen(Cnn(), _tensors(image=("float32", (-1, 3, 32, 32))), {"image": images})


def lstm() -> Made:
    """A series model."""
    torch.manual_seed(2)
    return _seen(Lstm(), _tensors(series=("float32", (-1, 12, 5))), {"series": RANDOM.normal(size=(2, 12, 5)).astype("float32")})


def encoder() -> Made:
    """A model of texts of any length."""
    torch.manual_seed(3)
    return _seen(Encoder(), _tensors(ids=("int64", (-1, -1))), {"ids": RANDOM.integers(0, 50, (2, 9))})


def two_and_two() -> Made:
    """Several tensors on both sides."""
    torch.manual_seed(4)
    rows = {name: RANDOM.normal(size=(3, 4)).astype("float32") for name in ("left", "right")}
    spec = ("float32", (-1, 4))
    return _seen(TwoAndTwo(), _tensors(left=spec, right=spec), rows, _tensors(score=("float32", (-1, 3)), more=("bool", (-1,))))


def _keras(model: Any, rows: Any) -> Made:
    from mlflow.models import infer_signature

    return model, rows, {"signature": infer_signature(rows, model.predict(rows, verbose=0))}


def keras_dense() -> Made:
    """A classifier of rows."""
    import keras

    layers = [keras.Input((6,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3, activation="softmax")]
    return _keras(keras.Sequential(layers), RANDOM.normal(size=(4, 6)).astype("float32"))


def keras_cnn() -> Made:
    """A classifier of images."""
    import keras

    layers = keras.layers
    body = [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3, activation="softmax")]
    return _keras(keras.Sequential([keras.Input((8, 8, 3)), *body]), RANDOM.normal(size=(2, 8, 8, 3)).astype("float32"))


def bert() -> Made:
    """A classifier of texts, with its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), **sizes)).eval()
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    return {"model": model, "tokenizer": tokenizer}, ["the film was good", "very bad"], {"task": "text-classification"}
