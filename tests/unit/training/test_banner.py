"""What the banner says about the losses."""

from __future__ import annotations

from typing import Any

import pytest

from clip_pkg.config.losses import LOSSES
from clip_pkg.config.schema import RunConfig
from clip_pkg.losses.registry import build_objective
from clip_pkg.training.banner import loss_lines
from support.loss_batches import TRAINING_SET

PROXY = ["Proxy Type: ProxyAnchorLoss", "Proxy α (alpha): 32.0", "Proxy δ (delta): 0.1"]
FOCAL = "Proxy Type: FocalStyleProxyAnchorLoss"
FOCUS = ["Proxy γ⁺ (gamma_pos): 2.0", "Proxy γ⁻ (gamma_neg): 0.5"]
CLASSIFIER = ["classifier: text", "class_weighting: none"]
PAIRS = ["Loss Temperature: 0.2", "num_negatives: none"]


def lines(loss: dict[str, Any], aux: list[dict[str, Any]] | None = None) -> list[str]:
    config = RunConfig.model_validate({"loss": loss, "aux_losses": aux or []})
    weights = build_objective(config.loss, TRAINING_SET, config.aux_losses).term_weights
    return [f"{name}: {value}" for name, value in loss_lines(config, weights)]


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (
            {"type": "proxy", "proxy_type": "FocalStyleProxyAnchorLoss", "gamma_neg": 0.5},
            [FOCAL, *PROXY[1:], *FOCUS, "proxy_lr_scale: 100.0"],
        ),
        (
            {"type": "combined", "lambda_combined": 0.7},
            [
                *PROXY,
                "λ (lambda): 0.70",
                "  → CE weight: 0.70",
                "  → Proxy weight: 0.30",
                "proxy_lr_scale: 100.0",
                *CLASSIFIER,
            ],
        ),
        ({"type": "infonce"}, PAIRS),
        (
            {"type": "superclip", "class_loss_weight": 0.125, "focal": {"gamma": 1}},
            [
                "  → Class weight: 0.125",
                "  → Contrastive weight: 1.00",
                "class_loss_weight: 0.125",
                "contrastive_loss_weight: 1.00",
                "positives: same_class",
                "class_weighting: inverse_freq (config: auto)",
                "focal: gamma 1.0, alpha none",
            ],
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_the_lines_of_a_loss(loss: dict[str, Any], shown: list[str]) -> None:
    first, *rest = lines(loss)
    assert first == f"Loss Type: {loss['type']}"
    assert sorted(rest) == sorted(shown)
    guides = [
        line for line in shown if line.startswith(("Proxy T", "Proxy α", "Proxy δ", "λ", "  "))
    ]
    assert [line for line in rest if line in guides] == guides  # and in this order


@pytest.mark.parametrize(
    ("weight", "shown"),
    [(0.0, "0.00"), (0.1, "0.10"), (1.0, "1.00"), (0.004, "0.004"), (1e-6, "1e-06"), (12, "12.00")],
)
def test_a_weight_has_two_decimals_or_all_that_it_needs(weight: float, shown: str) -> None:
    found = lines({"type": "ce"}, [{"type": "center", "weight": weight}])
    assert f"  → Center weight: {shown}" in found
    assert "  → CE weight: 1.00" in found
    assert found[-3] == "Auxiliary Loss: center"


@pytest.mark.parametrize("kind", LOSSES)
def test_every_setting_of_every_loss_is_told(kind: str) -> None:
    unused = {"gamma_pos", "gamma_neg"} if kind in ("proxy", "combined") else set()
    fields = set(LOSSES[kind].model_fields) - unused
    found = lines({"type": kind})
    parts = [line for line in found if line.startswith("  →")]
    assert len(found) == len(fields) + len(parts)
    assert len(parts) == (len(LOSSES[kind].terms) if len(LOSSES[kind].terms) > 1 else 0)
