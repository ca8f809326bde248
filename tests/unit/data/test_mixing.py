"""Mixed images and soft labels."""

from __future__ import annotations

import pytest
import torch

from clip_pkg.data.augmentation import LabelMixing

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 3, 3])


def test_nothing_asked_for_changes_nothing() -> None:
    images, targets, shares = LabelMixing(4)(IMAGES, TARGETS)
    assert images is IMAGES
    assert targets is TARGETS
    assert shares is None


def test_label_smoothing_is_torchs() -> None:
    _, targets, shares = LabelMixing(4, label_smoothing=0.1)(IMAGES, TARGETS)
    assert shares is not None
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    ours = torch.nn.functional.cross_entropy(logits, shares)
    theirs = torch.nn.functional.cross_entropy(logits, TARGETS, label_smoothing=0.1)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(targets, TARGETS)


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_labels_follow_the_images(kind: str) -> None:
    torch.manual_seed(3)
    # Image i holds the number of its class everywhere, so that its mean tells the shares.
    images = TARGETS.float()[:, None, None, None].expand(8, 3, 16, 16).contiguous()
    mixed, targets, shares = LabelMixing(4, **{kind: 1.0})(images, TARGETS)
    assert shares is not None
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), shares @ torch.arange(4.0))
    assert torch.equal(targets, shares.argmax(dim=1))


def test_draws_repeat_under_the_seed_and_both_kinds_occur() -> None:
    mixing = LabelMixing(4, mixup_alpha=0.5, cutmix_alpha=0.5)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([mixing(IMAGES, TARGETS)[0] for _ in range(6)])

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
