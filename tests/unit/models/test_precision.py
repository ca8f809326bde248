"""In which precision the towers run: a rule of device, architecture and image size."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from clip_pkg.models.precision import Precision, choose_precision

CPU = torch.device("cpu")
CHANNELS_LAST, PLANES = torch.channels_last, torch.contiguous_format


def chosen(encoder: nn.Module, img_size: int, *, use_amp: bool = True, **rest: str) -> Precision:
    amp_dtype = rest.get("amp_dtype", "auto")
    return choose_precision(CPU, encoder, img_size=img_size, use_amp=use_amp, amp_dtype=amp_dtype)


def processor(monkeypatch: pytest.MonkeyPatch, *, vector: bool, matrix: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vector)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix)


@pytest.fixture
def matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, vector=True, matrix=True)


@pytest.mark.usefixtures("matrix_units")
@pytest.mark.parametrize(
    ("name", "img_size", "dtype", "memory_format"),
    [
        ("resnet18", 224, torch.bfloat16, CHANNELS_LAST),
        ("resnet18", 48, torch.bfloat16, CHANNELS_LAST),
        ("resnet18", 32, None, PLANES),
        ("efficientnet_b0", 224, None, CHANNELS_LAST),
        ("mobilenetv3_small_100", 32, None, CHANNELS_LAST),
        ("test_vit", 32, torch.bfloat16, CHANNELS_LAST),
        ("convnext_atto", 224, torch.bfloat16, CHANNELS_LAST),
        ("regnety_002", 224, torch.bfloat16, CHANNELS_LAST),
    ],
)
def test_a_cpu_with_matrix_units_uses_them_where_that_pays(
    name: str, img_size: int, dtype: torch.dtype | None, memory_format: torch.memory_format
) -> None:
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=0)
    assert chosen(encoder, img_size) == Precision("cpu", dtype, memory_format)


@pytest.mark.usefixtures("matrix_units")
def test_what_the_config_says_overrules_the_rule() -> None:
    encoder = timm.create_model("test_resnet", num_classes=0)
    assert chosen(encoder, 32, amp_dtype="bfloat16").dtype is torch.bfloat16
    assert chosen(encoder, 224, use_amp=False) == Precision("cpu", None, CHANNELS_LAST)
    assert chosen(encoder, 224, amp_dtype="float16").dtype is None  # CPUs cannot train in it


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "test_vit"])
@pytest.mark.parametrize("img_size", [32, 224])
def test_vector_units_gain_by_half_precision_throughout(
    name: str, img_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, vector=True, matrix=False)
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=0)
    assert chosen(encoder, img_size) == Precision("cpu", torch.bfloat16, CHANNELS_LAST)
    assert chosen(encoder, img_size, use_amp=False).dtype is None
    assert chosen(encoder, img_size, amp_dtype="float16").dtype is None


def test_without_such_units_half_precision_would_be_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(monkeypatch, vector=False, matrix=False)
    encoder = timm.create_model("test_resnet", num_classes=0)
    assert chosen(encoder, 224, amp_dtype="bfloat16").dtype is None
