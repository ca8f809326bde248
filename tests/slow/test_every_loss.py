"""Every loss trains through the command line, and resumes as if it had not been interrupted."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.loss_blocks import term_labels
from clip_pkg.config.losses import LOSSES
from clip_pkg.results.summary import without_times
from clip_pkg.training.optimisation import Optimisation

pytestmark = pytest.mark.slow  # all of them together

SMALL_TOWER = {"text_encoder_name": "clip:ViT-S-32-alt:scratch"}
FROZEN = {"freeze_text_encoder": True}
SPECIAL = {"superclip_tokens": SMALL_TOWER}  # reads the tokens of the texts


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def summary(root: Path) -> dict[str, Any]:
    return without_times(read(root / "cv_summary.json"))


def steps(root: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(root / "tensorboard/fold_1/steps"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture
def ctrl_c_in_second_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the next training hear Ctrl-C in its third step; epochs here have two."""

    def arm() -> None:
        count = 0
        apply = Optimisation.apply

        def apply_and_interrupt(self: Optimisation, *arguments: Any) -> None:
            nonlocal count
            count += 1
            if count == 3:
                signal.raise_signal(signal.SIGINT)
            apply(self, *arguments)

        monkeypatch.setattr(Optimisation, "apply", apply_and_interrupt)

    return arm


@pytest.mark.parametrize(
    ("kind", "aux"),
    [("clip", []), ("superclip", []), *((kind, ["center", "triplet"]) for kind in LOSSES)],
)
def test_row_trains_and_resumes_and_reproduces(
    kind: str,
    aux: list[str],
    train: Callable[..., str],
    tmp_path: Path,
    write_configs: Callable[..., Path],
    ctrl_c_in_second_epoch: Callable[[], None],
) -> None:
    config = {
        "name": "a",
        "use_cv": False,
        "val_fraction": 0.5,
        "loss": {"type": kind},
        "aux_losses": [{"type": name, "weight": 0.1} for name in aux],
        **SPECIAL.get(kind, {}),
    }
    path = write_configs(config)
    train("--config-file", path, output="first")
    ctrl_c_in_second_epoch()
    assert "Run the same command again" in train("--config-file", path, output="second", check=130)
    assert len(read(tmp_path / "second/a/fold_1/history.json")["train_loss"]) == 1
    train("--config-file", path, output="second")
    log = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("logs/*/*.log"))
    assert "Resumed after epoch 1 from" in log
    first = summary(tmp_path / "first/a")
    assert first == summary(tmp_path / "second/a")
    assert first["complete"]
    history = read(tmp_path / "first/a/fold_1/history.json")
    assert {len(column) for column in history.values()} == {2}
    labels = term_labels([LOSSES[kind](), *(AUXILIARY_LOSSES[name]() for name in aux)])
    for name, label in labels.items():
        assert all(value is not None for value in history[f"train_{name}_loss"]), name
        for tag in (label.tag, *([label.weighted_tag] if len(labels) > 1 else [])):
            curve = steps(tmp_path / "first/a", tag)
            assert [step for step, _ in curve] == [1, 2, 3, 4], tag
            assert steps(tmp_path / "second/a", tag) == curve, tag
    state = torch.load(tmp_path / "first/a/fold_1/checkpoint_best.pth", weights_only=True)
    with_parameters = kind in ("superclip_tokens", "siglip", "proxy", "combined") or aux
    assert bool(state["objective"]) or not with_parameters


@pytest.mark.parametrize("kind", AUXILIARY_LOSSES)
def test_auxiliary_trains_and_is_logged(
    kind: str, train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    aux = [{"type": kind, "weight": 0.5}]
    train("--config-file", write_configs({"name": "a", "use_cv": False, "aux_losses": aux}))
    events = EventAccumulator(str(tmp_path / "out/a/tensorboard/fold_1/train"))
    events.Reload()
    history = read(tmp_path / "out/a/fold_1/history.json")
    for name, label in term_labels([AUXILIARY_LOSSES[kind]()]).items():
        curve = [event.value for event in events.Scalars(label.tag)]
        assert curve == pytest.approx(history[f"train_{name}_loss"], rel=1e-6)
        shares = history[f"train_{name}_share"]
        total = 0.5 * history[f"train_{name}_loss"][0] / history["train_loss"][0]
        assert shares[0] == pytest.approx(total, rel=1e-6)


def test_a_linear_classifier_needs_no_text_encoder(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    config = {"name": "a", "text_encoder_name": "none", "use_cv": False}
    loss = {"type": "ce", "classifier": "linear"}
    train("--config-file", write_configs({**config, "loss": loss}))
    assert summary(tmp_path / "out/a")["complete"]
    state = torch.load(tmp_path / "out/a/fold_1/checkpoint_best.pth", weights_only=True)
    assert not [name for name in state["model"] if name.startswith("text_")]


@pytest.mark.parametrize("key", ["mixup_alpha", "cutmix_alpha", "label_smoothing"])
def test_soft_labels_train_where_the_loss_takes_them(
    key: str, train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    config = {"name": "a", "use_cv": False, "loss": {"type": "ce"}, key: 0.2}
    train("--config-file", write_configs(config))
    assert summary(tmp_path / "out/a")["complete"]
    refused = write_configs({**config, "loss": {"type": "clip"}}, name="refused.json")
    assert key in train("--config-file", refused, output="other", check=2)


def test_learned_prompts_can_start_from_a_text_encoder(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    started = "prompts:clip:ViT-S-32-alt:scratch"
    config = {"name": "a", "use_cv": False, "text_encoder_name": started, "prompts_per_class": 3}
    train("--config-file", write_configs(config))
    state = torch.load(tmp_path / "out/a/fold_1/checkpoint_best.pth", weights_only=True)
    assert len(state["model"]["text_encoder.vectors"]) == 3 * 3


def test_tokens_need_a_tower_that_has_them(
    train: Callable[..., str], write_configs: Callable[..., Path]
) -> None:
    loss = {"loss": {"type": "superclip_tokens"}}
    configs = write_configs(
        {"name": "learned", **loss}, {"name": "frozen", **loss, **SMALL_TOWER, **FROZEN}
    )
    shown = train("--config-file", configs, "--multi-config", check=2)
    assert "learned prompts have none" in shown
    assert "[1].freeze_text_encoder" in shown
