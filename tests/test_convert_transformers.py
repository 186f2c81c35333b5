"""Models of transformers, tiny and random, saved by MLflow and converted to ONNX: their tensors answer as the models do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.transformers
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)

from airflow_triton.convert import child
from airflow_triton.convert.base import Options, runner_of
from airflow_triton.convert.mlmodel import read
from airflow_triton.convert.torch import transformers
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "was", "good", "bad", "very"]
TEXTS = ["the film was good", "very bad"]
BERT = BertConfig(
    vocab_size=len(WORDS),
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=32,
)
TOKENS = {"input_ids": ("INT64", (-1, -1)), "attention_mask": ("INT64", (-1, -1))}


def tokenizer() -> PreTrainedTokenizerFast:
    """Ten words."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def save(folder: Path, model: Any, task: str, example: Any = None) -> Path:
    """Save it as users do."""
    parts = {"model": model, "tokenizer": tokenizer()}
    mlflow.transformers.save_model(parts, str(folder), task=task, input_example=example, pip_requirements=[])
    return folder


def convert(source: Path, into: Path) -> Servable:
    """Convert it in this process; what was compared must agree."""
    into.mkdir()
    made = child.convert(str(source), str(into), {"to": "onnx"})
    assert made["agreement"]["passed"], made["agreement"]["outputs"]
    return Servable.model_validate(made["servable"])


def shapes(servable: Servable) -> dict[str, Any]:
    """Its tensors."""
    return {spec.name: (spec.datatype, spec.shape) for spec in (*servable.inputs, *servable.outputs)}


def agree(source: Path, folder: Path, servable: Servable, example: Any) -> None:
    """The files answer a tokenized example as the model does."""
    given = transformers.example_inputs(read(source), servable, example)
    runner = runner_of(servable)
    assert given is not None
    assert runner is not None
    expected = transformers.original(read(source), servable)(given)
    got = runner.load(folder, servable)(given)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "task", "outputs"),
    [
        (BertForSequenceClassification, "text-classification", {"logits": ("FP32", (-1, 2))}),
        (BertForTokenClassification, "token-classification", {"logits": ("FP32", (-1, -1, 2))}),
        (BertModel, "feature-extraction", {"last_hidden_state": ("FP32", (-1, -1, 8)), "pooler_output": ("FP32", (-1, 8))}),
    ],
)
def test_a_model_of_texts_takes_its_tokenizers_tensors(tmp_path: Path, kind: Any, task: str, outputs: dict[str, Any]) -> None:
    """Any number of rows of any length; the outputs have the model's own names."""
    source = save(tmp_path / "model", kind(BERT), task)

    servable = convert(source, tmp_path / "1")

    assert shapes(servable) == {**TOKENS, **outputs}
    assert (servable.flavor, servable.converter, servable.batching) == ("transformers", "torch.export", True)
    assert servable.notes == (transformers.TOKENS,)
    agree(source, tmp_path / "1", servable, TEXTS)
    agree(source, tmp_path / "1", servable, "the " * 20)


def test_a_pipeline_with_an_example_of_text(tmp_path: Path) -> None:
    """The example is text, which the servable does not take: its tokens are."""
    source = tmp_path / "model"
    classifier = pipeline("text-classification", model=BertForSequenceClassification(BERT), tokenizer=tokenizer())
    mlflow.transformers.save_model(classifier, str(source), input_example=TEXTS, pip_requirements=[])

    servable = convert(source, tmp_path / "1")

    assert shapes(servable) == {**TOKENS, "logits": ("FP32", (-1, 2))}
    given = transformers.example_inputs(read(source), servable, TEXTS)
    assert given is not None
    assert given["input_ids"].tolist() == [[2, 4, 5, 6, 7, 3], [2, 9, 8, 3, 0, 0]]
    assert given["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]


def test_a_model_that_writes_text_gives_one_step(tmp_path: Path) -> None:
    """And says so; a position that may look at nothing is no part of the comparison, as no tokenizer makes one."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_positions=32, n_embd=8, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3))
    source = save(tmp_path / "model", model, "text-generation")
    folder = VersionFolder(tmp_path / "1")

    servable = transformers.convert(read(source), folder, options=Options(), example=None)

    assert shapes(servable) == {**TOKENS, "logits": ("FP32", (-1, -1, 10))}
    assert servable.notes == (transformers.TOKENS, transformers.ONE_STEP)
    agree(source, tmp_path / "1", servable, TEXTS)


def test_an_encoder_and_decoder_is_refused(tmp_path: Path) -> None:
    """It is no single graph."""
    config = T5Config(vocab_size=10, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    source = save(tmp_path / "model", T5ForConditionalGeneration(config), "feature-extraction")

    with pytest.raises(ConversionError, match=r"writes its answer step by step with a decoder.*`to: python`"):
        convert(source, tmp_path / "1")
