"""Each objective against the published formula of its parts, by value and gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.config.auxiliary_losses import (
    AUXILIARY_LOSSES,
    ArcFaceConfig,
    CenterConfig,
    CosFaceConfig,
    CosineSimConfig,
    TripletConfig,
)
from clip_pkg.config.loss_blocks import FocalConfig, LossConfig
from clip_pkg.config.losses import (
    BceLossConfig,
    CeInfoNceLossConfig,
    CeLossConfig,
    ClipLossConfig,
    CombinedLossConfig,
    FocalLossConfig,
    InfoNceLossConfig,
    ProxyLossConfig,
    SigLipLossConfig,
    SupConLossConfig,
    SuperClipLossConfig,
    SuperClipTokensLossConfig,
)
from clip_pkg.losses import functional
from clip_pkg.losses.auxiliary import CenterObjective
from clip_pkg.losses.contract import LossInputs, Objective
from clip_pkg.losses.registry import build_objective
from clip_pkg.losses.superclip import SuperClipTokensObjective
from support.loss_batches import (
    CLASSES,
    DIM,
    TOKENS,
    TRAINING_SET,
    VOCABULARY,
    WEIGHTS,
    assert_same,
    batch,
)

SEVERAL = [0, 0, 3, 1, 3, 3]
batches = pytest.mark.parametrize("targets", [[0, 1, 2, 3, 4], [2, 2, 2], SEVERAL, [1]], ids=str)


def build(config: LossConfig) -> Objective:
    return build_objective(config, TRAINING_SET).double().main


def texts_of(inputs: LossInputs) -> Tensor:
    assert inputs.class_features is not None
    return inputs.class_features[inputs.targets]


@batches
@pytest.mark.parametrize("positives", ["same_class", "diagonal"])
def test_clip_equals_both_textbook_forms(targets: list[int], positives: str) -> None:
    inputs = batch(targets)
    ours = build(ClipLossConfig(positives=positives))(inputs)  # type: ignore[arg-type]
    image, scale = inputs.image_features, inputs.logit_scale
    diagonal = functional.clip(image, texts_of(inputs), scale, normalize_inputs=False)
    multi = functional.multi_positive_clip(
        image, texts_of(inputs), inputs.targets, scale, normalize_inputs=False
    )
    assert_same(ours.total, diagonal, inputs)
    assert_same(ours.total, multi, inputs)
    assert_same(ours.terms["contrastive"], ours.total, inputs)


def naive_class_loss(
    inputs: LossInputs, weights: Tensor, gamma: float = 0.0, alpha: float = 1.0
) -> Tensor:
    """Sum over samples, one at a time, of the textbook formula."""
    total, norm = torch.zeros((), dtype=torch.float64), 0.0
    for i, y in enumerate(inputs.targets.tolist()):
        scores = [inputs.logit_scale * inputs.image_features[i] @ t for t in inputs.texts]
        p = torch.exp(scores[y]) / sum(torch.exp(s) for s in scores)
        total = total + weights[y] * alpha * (1 - p) ** gamma * -torch.log(p)
        norm += float(weights[y])
    return total / norm


weightings = pytest.mark.parametrize("weighting", ["auto", "none", "balanced"])
focal_forms = pytest.mark.parametrize(
    "focal", [None, FocalConfig(gamma=2.0, alpha=0.25), FocalConfig(gamma=0.5)]
)


@weightings
@focal_forms
def test_superclip_is_the_weighted_sum_of_its_parts(
    weighting: str, focal: FocalConfig | None
) -> None:
    config = SuperClipLossConfig(
        class_loss_weight=1.5,
        contrastive_loss_weight=0.8,
        class_weighting=weighting,  # type: ignore[arg-type]
        focal=focal,
    )
    inputs = batch(SEVERAL, scale=5.0)
    output = build(config)(inputs)
    weights = torch.ones(CLASSES, dtype=torch.float64) if weighting == "none" else WEIGHTS
    gamma, alpha = (focal.gamma, focal.alpha or 1.0) if focal else (0.0, 1.0)
    assert_same(output.terms["class"], naive_class_loss(inputs, weights, gamma, alpha), inputs)
    contrastive = build(ClipLossConfig())(inputs).total
    assert_same(output.terms["contrastive"], contrastive, inputs)
    assert_same(
        output.total, 1.5 * output.terms["class"] + 0.8 * output.terms["contrastive"], inputs
    )


@weightings
@focal_forms
@pytest.mark.parametrize("classifier", ["text", "linear"])
def test_ce_and_focal_on_both_classifiers(
    weighting: str, focal: FocalConfig | None, classifier: str
) -> None:
    shared = {"class_weighting": weighting, "classifier": classifier}
    config: LossConfig = CeLossConfig.model_validate(shared)
    if focal is not None:
        config = FocalLossConfig.model_validate({**shared, **focal.model_dump()})
    inputs = batch(SEVERAL, scale=5.0)
    objective = build(config)
    logits = inputs.class_logits
    if classifier == "linear":
        head = objective.classifier.head  # type: ignore[union-attr]
        logits = inputs.embeddings @ head.weight.T + head.bias  # type: ignore[union-attr, operator]
    weights = torch.ones(CLASSES, dtype=torch.float64) if weighting == "none" else WEIGHTS
    log_p = F.log_softmax(logits, dim=1).gather(1, inputs.targets[:, None])[:, 0]
    gamma, alpha = (focal.gamma, focal.alpha or 1.0) if focal else (0.0, 1.0)
    losses = weights[inputs.targets] * alpha * (1 - log_p.exp()) ** gamma * -log_p
    expected = losses.sum() / weights[inputs.targets].sum()
    assert_same(objective(inputs).total, expected, inputs)
    assert torch.equal(objective.prediction_logits(inputs), objective.classifier(inputs))  # type: ignore[operator]
    torch.testing.assert_close(objective.prediction_logits(inputs), logits)


def test_ce_takes_shares_of_classes_and_smoothed_labels() -> None:
    inputs = batch(SEVERAL)
    shares = torch.rand(len(SEVERAL), CLASSES, dtype=torch.float64).softmax(dim=1)
    output = build(CeLossConfig())(replace(inputs, soft_targets=shares))
    expected = -(shares * F.log_softmax(inputs.class_logits, dim=1)).sum(dim=1).mean()
    assert_same(output.total, expected, inputs)
    smooth = 0.9 * F.one_hot(inputs.targets, CLASSES).double() + 0.1 / CLASSES
    output = build(CeLossConfig())(replace(inputs, soft_targets=smooth))
    expected = functional.cross_entropy(inputs.class_logits, inputs.targets, label_smoothing=0.1)
    assert_same(output.total, expected, inputs)


def test_siglip_equals_the_published_form_where_all_classes_differ() -> None:
    inputs = batch([3, 0, 4, 1])
    objective = build(SigLipLossConfig(initial_bias=-2.0))
    published = functional.siglip(
        inputs.image_features,
        texts_of(inputs),
        inputs.logit_scale,
        objective.bias,  # type: ignore[arg-type]
        normalize_inputs=False,
    )
    total = objective(inputs).total
    assert_same(total, published, inputs)
    (ours,) = torch.autograd.grad(total, [*objective.parameters()], retain_graph=True)
    (theirs,) = torch.autograd.grad(published, [*objective.parameters()])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_siglip_never_calls_a_text_of_the_own_class_wrong() -> None:
    inputs = batch(SEVERAL)
    logits = inputs.logit_scale * inputs.image_features @ texts_of(inputs).T - 10.0
    same = inputs.targets[:, None] == inputs.targets[None, :]
    expected = F.softplus(torch.where(same, -logits, logits)).sum() / len(SEVERAL)
    assert_same(build(SigLipLossConfig())(inputs).total, expected, inputs)


@batches
def test_supcon_adds_each_class_text_as_one_more_sample(targets: list[int]) -> None:
    inputs = batch(targets)
    expected = functional.supcon(
        torch.cat([inputs.image_features, inputs.texts]),
        torch.tensor([*targets, *range(CLASSES)]),
        temperature=0.2,
    )
    objective = build(SupConLossConfig(temperature=0.2))
    assert_same(objective(inputs).total, expected, inputs)
    torch.testing.assert_close(
        objective.prediction_logits(inputs), inputs.image_features @ inputs.texts.T / 0.2
    )


@pytest.mark.parametrize("classifier", ["text", "linear"])
def test_ce_infonce_takes_logits_image_features_and_prompt_features(classifier: str) -> None:
    config = CeInfoNceLossConfig.model_validate(
        {"contrast_weight": 0.25, "infonce_temp": 0.1, "classifier": classifier}
    )
    inputs = batch([4, 0, 3, 1, 2])  # each class once: InfoNCE of the batch is that of the classes
    objective = build(config)
    logits = objective.prediction_logits(inputs)
    ce = functional.cross_entropy(logits, inputs.targets)
    infonce = functional.info_nce(inputs.image_features, texts_of(inputs), temperature=0.1)
    output = objective(inputs)
    assert_same(output.terms["ce"], ce, inputs)
    torch.testing.assert_close(output.terms["infonce"], infonce, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.total, ce + 0.25 * infonce, rtol=1e-12, atol=1e-12)
    if classifier == "text":
        assert torch.equal(logits, inputs.class_logits)


def test_ce_infonce_contrasts_with_the_texts_of_absent_classes_too() -> None:
    inputs = batch(SEVERAL)
    output = build(CeInfoNceLossConfig())(inputs)
    expected = F.cross_entropy(inputs.image_features @ inputs.texts.T / 0.07, inputs.targets)
    assert_same(output.terms["infonce"], expected, inputs)


@pytest.mark.parametrize("alpha", [32.0, 5.0])
def test_proxy_and_its_prediction_by_the_nearest_proxy(alpha: float) -> None:
    inputs = batch(SEVERAL)
    objective = build(ProxyLossConfig(alpha=alpha, delta=0.2))
    proxies: Tensor = objective.proxies  # type: ignore[assignment]
    expected = functional.proxy_anchor(
        inputs.image_features, proxies, inputs.targets, alpha=alpha, margin=0.2
    )
    assert_same(objective(inputs).total, expected, inputs)
    logits = objective.prediction_logits(inputs)
    distances = torch.cdist(inputs.image_features, F.normalize(proxies, dim=1))
    assert torch.equal(logits.argmax(dim=1), distances.argmin(dim=1))
    torch.testing.assert_close(logits, alpha * (1 - distances.square() / 2))


def test_focal_style_without_focus_is_proxy_anchor() -> None:
    plain = build(ProxyLossConfig())
    focal = build(
        ProxyLossConfig(proxy_type="FocalStyleProxyAnchorLoss", gamma_pos=0.0, gamma_neg=0.0)
    )
    focal.load_state_dict(plain.state_dict())
    inputs = batch(SEVERAL)
    assert_same(focal(inputs).total, plain(inputs).total, inputs)


def test_focal_style_leaves_hard_pairs_and_takes_easy_ones_out() -> None:
    proxies, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), torch.tensor([0])
    shares = []
    for image in (proxies[:1], proxies[1:]):  # on its own proxy, and on the other one
        plain = functional.proxy_anchor(image, proxies, labels)
        focal = functional.focal_proxy_anchor(image, proxies, labels)
        shares.append((focal / plain).item())
    assert shares[0] < 1e-12
    assert shares[1] == pytest.approx(1.0)


def test_proxies_learn_at_their_own_rate_and_do_not_decay() -> None:
    objective = build(CombinedLossConfig(classifier="linear", proxy_lr_scale=50.0))
    groups = objective.parameter_groups(0.01, 0.1)
    rates = {
        name: (group["lr"], group["weight_decay"])
        for name, parameter in objective.named_parameters()
        for group in groups
        if any(parameter is member for member in group["params"])
    }
    assert rates == {
        "classification.classifier.head.weight": (0.01, 0.1),
        "classification.classifier.head.bias": (0.01, 0.0),
        "proxy.proxies": (0.5, 0.0),
    }


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_combined_is_a_share_of_each(share: float) -> None:
    objective = build(CombinedLossConfig(lambda_combined=share))
    inputs = batch(SEVERAL)
    ce = build(CeLossConfig())(inputs).total
    proxy = objective.proxy(inputs).total  # type: ignore[operator]
    output = objective(inputs)
    assert_same(output.total, share * ce + (1 - share) * proxy, inputs)
    assert output.weights == {"ce": share, "proxy": 1 - share}
    predicts = objective.proxy if share == 0 else build(CeLossConfig())
    expected = predicts.prediction_logits(inputs)  # type: ignore[union-attr, operator]
    assert torch.equal(objective.prediction_logits(inputs), expected)


def on_the_sphere(inputs: LossInputs) -> LossInputs:
    """The same batch, with gradients that pass through the normalisation as the reference's do."""
    return replace(
        inputs,
        image_features=F.normalize(inputs.image_features, dim=1),
        class_features=F.normalize(inputs.texts, dim=1),
    )


def sampled_reference(inputs: LossInputs, negatives: Tensor, temperature: float) -> Tensor:
    return functional.sampled_softmax_collision_masked(
        inputs.image_features,
        texts_of(inputs),
        inputs.texts[negatives],
        pos_ids=inputs.targets,
        neg_ids=negatives,
        temperature=temperature,
    )


@pytest.mark.parametrize("targets", [[0, 1, 2, 3, 4], SEVERAL], ids=str)
def test_infonce_takes_the_texts_of_the_batchs_other_classes(targets: list[int]) -> None:
    inputs = batch(targets)
    objective = build(InfoNceLossConfig())
    ours = objective(on_the_sphere(inputs)).total
    assert_same(ours, sampled_reference(inputs, inputs.targets, 0.2), inputs)
    torch.testing.assert_close(
        objective.prediction_logits(inputs), 5 * inputs.image_features @ inputs.texts.T
    )


@pytest.mark.parametrize("count", [1, 7, 40])
def test_infonce_draws_negatives_from_the_engines_generator(count: int) -> None:
    inputs = batch(SEVERAL, seed=3)
    drawn = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(3))
    objective = build(InfoNceLossConfig(num_negatives=count, temperature=0.5))
    state = torch.get_rng_state()
    ours = objective(on_the_sphere(inputs)).total
    assert_same(ours, sampled_reference(inputs, drawn, 0.5), inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_infonce_without_negatives_costs_nothing() -> None:
    inputs = batch([2, 2, 2])
    output = build(InfoNceLossConfig())(inputs)
    assert output.total.item() == 0.0
    assert output.statistics["negative_mean"].item() == 0.0


def test_bce_looks_at_the_pairs_of_infonce() -> None:
    inputs = batch([0, 1])  # one negative each, so that the published form applies as it stands
    z = 5 * inputs.image_features @ texts_of(inputs).T
    expected = functional.bce_pos_neg(z.diagonal(), z.fliplr().diagonal())
    assert_same(build(BceLossConfig())(inputs).total, expected, inputs)
    inputs = batch(SEVERAL)
    z = 5 * inputs.image_features @ texts_of(inputs).T
    other = inputs.targets[:, None] != inputs.targets[None, :]
    expected = F.softplus(-z.diagonal()).mean() + F.softplus(z[other]).mean()
    assert_same(build(BceLossConfig())(inputs).total, expected, inputs)


@pytest.mark.parametrize("config", [InfoNceLossConfig(), BceLossConfig()], ids=lambda c: c.type)
def test_statistics_of_positive_and_negative_logits(config: LossConfig) -> None:
    inputs = batch(SEVERAL)
    z = 5 * inputs.image_features @ texts_of(inputs).T
    negative = z[inputs.targets[:, None] != inputs.targets[None, :]]
    expected = {
        "positive_mean": z.diagonal().mean(),
        "positive_std": z.diagonal().std(correction=0),
        "negative_mean": negative.mean(),
        "negative_std": negative.std(correction=0),
    }
    found = build(config)(inputs).statistics
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach())


def test_superclip_tokens_equals_the_published_form_over_batches() -> None:
    objective = build(SuperClipTokensLossConfig(class_loss_weight=0.5, contrastive_loss_weight=2.0))
    assert isinstance(objective, SuperClipTokensObjective)
    frequency, count = torch.zeros(1, VOCABULARY).double(), torch.zeros(1, 1).double()
    for seed, targets in enumerate([SEVERAL, [4, 2, 0], [1, 1, 4, 3]]):
        inputs = batch(targets, seed=seed)
        classes = TOKENS.where(TOKENS >= 0, TOKENS[:, :1])  # the same tokens without padding
        logits = inputs.embeddings @ objective.head.weight.T + objective.head.bias
        terms = functional.token_classification(
            logits, classes[inputs.targets], cap_fq_in=frequency, num_samples_in=count
        )
        output = objective(inputs)
        contrastive = build(ClipLossConfig())(inputs).total
        assert_same(output.terms["class"], terms.class_loss, inputs)
        assert_same(output.terms["contrastive"], contrastive, inputs)
        frequency, count = terms.cap_fq_out, terms.num_samples_out
        torch.testing.assert_close(objective.token_frequency, frequency)
        torch.testing.assert_close(objective.batches_seen, count)
    assert objective.batches_seen.item() == 3


def test_token_frequencies_stay_as_they_are_in_evaluation_and_go_into_the_checkpoint() -> None:
    objective = build(SuperClipTokensLossConfig())
    objective(batch(SEVERAL))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    assert {"token_frequency", "batches_seen", "head.weight", "head.bias"} == before.keys()
    objective.eval()
    once, twice = objective(batch([4, 2])).total, objective(batch([4, 2])).total
    assert torch.equal(once, twice)
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name])


def test_token_frequencies_of_masked_texts_are_not_counted() -> None:
    objective = build(SuperClipTokensLossConfig())
    objective(batch(SEVERAL, mask=[False] * len(SEVERAL)))
    assert objective.batches_seen.item() == 0.0  # type: ignore[operator, union-attr]
    assert not objective.token_frequency.any()  # type: ignore[operator, union-attr]


AUX = {
    "center": (
        CenterConfig(),
        lambda i, o: functional.center_mean(i.image_features, o.centers, i.targets),
    ),
    "triplet": (
        TripletConfig(margin=0.3),
        lambda i, o: functional.triplet(
            i.image_features,
            i.targets,
            margin=0.3,
            mining="batch_hard",
            reduction="mean_over_all",
        ),
    ),
    "triplet_all": (
        TripletConfig(margin=0.3, mining="batch_all"),
        lambda i, o: functional.triplet(
            i.image_features, i.targets, margin=0.3, mining="batch_all"
        ),
    ),
    "arcface": (
        ArcFaceConfig(scale=10.0, margin=0.4),
        lambda i, o: functional.arcface(
            i.image_features, o.class_vectors, i.targets, margin_radians=0.4, scale=10.0
        ),
    ),
    "cosface": (
        CosFaceConfig(scale=10.0, margin=0.2),
        lambda i, o: functional.cosface(
            i.image_features, o.class_vectors, i.targets, margin=0.2, scale=10.0
        ),
    ),
    "cosine_sim": (
        CosineSimConfig(),
        lambda i, o: F.cosine_embedding_loss(
            i.image_features, texts_of(i), torch.ones(len(i.targets)).double()
        ),
    ),
}


def test_every_auxiliary_loss_has_a_reference() -> None:
    assert {config.type for config, _ in AUX.values()} == set(AUXILIARY_LOSSES)


@pytest.mark.parametrize("name", AUX)
def test_auxiliary_losses_equal_the_published_form(name: str) -> None:
    config, reference = AUX[name]
    weighted = config.model_copy(update={"weight": 0.3})
    whole = build_objective(CeLossConfig(), TRAINING_SET, (weighted,)).double()
    inputs = batch(SEVERAL)
    output = whole(inputs)
    own = whole.auxiliary[config.type]
    part = output.terms[config.type]
    torch.testing.assert_close(part, reference(inputs, own), rtol=1e-12, atol=1e-12)
    ce = build(CeLossConfig())(inputs).total
    assert_same(output.total, ce + 0.3 * part, inputs)
    assert output.weights == {"ce": 1.0, config.type: 0.3}
    assert torch.equal(whole.prediction_logits(inputs), inputs.class_logits)


def test_centers_start_on_the_sphere_with_the_features() -> None:
    objective = CenterObjective(CenterConfig(lr_scale=7.0), TRAINING_SET)
    centers = objective.centers
    assert centers.shape == (CLASSES, DIM)
    torch.testing.assert_close(centers.norm(dim=1), torch.ones(CLASSES))
    assert [group["lr"] for group in objective.parameter_groups(0.1, 0.0)] == [pytest.approx(0.7)]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_gradient_where_the_target_is_certain(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = functional.focal(logits, torch.tensor([0, 1]), gamma=gamma)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert loss.item() == pytest.approx(0.5 * 0.5**gamma * math.log(2), rel=1e-6)


def test_a_batch_of_weightless_classes_costs_nothing() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    labels, weights = torch.zeros(3, dtype=torch.int64), torch.tensor([0.0, 1.0])
    for loss in (functional.weighted_cross_entropy, functional.focal):
        value = loss(logits, labels, weights)
        assert value.item() == 0.0
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.equal(gradient, torch.zeros_like(logits))


def test_class_weights_move_with_the_objective_but_stay_out_of_the_checkpoint() -> None:
    objective = build(SuperClipLossConfig()).to(torch.float32)
    assert objective.loss.class_weights.dtype == torch.float32  # type: ignore[union-attr]
    assert not objective.state_dict()


def test_class_weight_method() -> None:
    assert ClipLossConfig().class_weight_method("balanced") is None
    assert SuperClipLossConfig().class_weight_method("balanced") == "balanced"
    none = SuperClipLossConfig(class_weighting="none")
    assert none.class_weight_method("balanced") is None
    fixed = SuperClipLossConfig(class_weighting="inverse_sqrt")
    assert fixed.class_weight_method("balanced") == "inverse_sqrt"


def test_class_weights_follow_from_counts_and_a_class_without_images_weighs_nothing() -> None:
    logits, labels = torch.randn(2, 4, 3, dtype=torch.float64)[0], torch.tensor([0, 1, 1, 0])
    counts = torch.tensor([6, 3, 0])
    for smooth, weights in ((0, [9 / 18, 9 / 9, 0.0]), (1, [9 / 21, 9 / 12, 9 / 3])):
        ours, theirs = (
            functional.weighted_cross_entropy(logits, labels, **given, label_smoothing=0.1)  # type: ignore[arg-type]
            for given in (
                {"class_counts": counts, "smooth": smooth},
                {"class_weights": torch.tensor(weights).double()},
            )
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=0)
