"""The recorded training step: the same step, or a sentence why there is no recording."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import LabelMixing
from clip_pkg.data.batches import Batch
from clip_pkg.models.precision import Precision
from clip_pkg.training import cuda_graph
from clip_pkg.training import fold as fold_module
from clip_pkg.training.cuda_graph import (
    PAYS_FROM_STEPS,
    PAYS_UP_TO_PIXELS,
    CudaRecorder,
    RecordedStep,
    Unrecordable,
    obstacle,
    pays,
    with_recording,
)
from clip_pkg.training.fold import FoldLearner
from clip_pkg.training.image_forward import MicroBatches, WholeBatch
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.step import StepInputs, StepOutcome, TrainingStep
from support.outcomes import outcome
from support.training_steps import FLOAT32, a_batch, build

Result = TypeVar("Result")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Again:
    """Records on any device: calls the function again, into the tensors of the first time."""

    def rehearse(self, function: Callable[[], Result], *, strictly: bool) -> Result:
        return function()

    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        kept: list[StepOutcome] = []

        def replay() -> StepOutcome:
            found = function()
            kept.append(found)
            for mine, theirs in zip(tensors(kept[0]), tensors(found), strict=True):
                mine.copy_(theirs)
            return kept[0]

        return replay


class Asleep(Again):
    """Its replays do nothing: they show what came out when it was recorded."""

    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        found = function()
        return lambda: found


class OtherNumbers(Again):
    """Draws others than the step would."""

    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        def replay() -> StepOutcome:
            torch.rand(1)
            return function()

        return replay


class Broken(Again):
    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


class Short(Again):
    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        raise torch.OutOfMemoryError("CUDA out of memory")


class Waiting(Again):
    def rehearse(self, function: Callable[[], Result], *, strictly: bool) -> Result:
        if strictly:
            raise RuntimeError("called a synchronizing CUDA operation")
        return function()


class Meddling(Again):
    """Changes one parameter by a little more than the step does."""

    def __init__(self, parameter: Tensor, by: float) -> None:
        self.parameter, self.by = parameter, by

    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        def replay() -> StepOutcome:
            found = function()
            self.parameter.detach().mul_(1 + self.by)
            return found

        return replay


def tensors(outcome: StepOutcome) -> list[Tensor]:
    output = outcome.output
    scalars = [output.total, *output.terms.values(), *output.statistics.values()]
    return [*scalars, outcome.logits, outcome.targets]


def a_step(
    kind: str = "infonce",
    aux: tuple[str, ...] = ("center",),
    dropout: float = 0.3,
    encoder: str = "test_vit:scratch",
    mixing: LabelMixing | None = None,
    device: str = "cpu",
) -> TrainingStep:
    """A step of a tiny model, the same one each time."""
    model, objective = build(kind, aux, torch.float32, dropout, encoder)
    model.to(device)
    objective.to(device)
    if kind == "infonce":
        objective.main.num_negatives = 2
    groups = [*model.parameter_groups(1e-2, 0.1), *objective.parameter_groups(1e-2, 0.1)]
    torch.manual_seed(1)
    precision = Precision(device, None)
    return TrainingStep(
        model,
        objective,
        WholeBatch(model, precision),
        Optimisation(groups, precision=precision, total_steps=9, warmup_steps=1, grad_clip_norm=1),
        precision=precision,
        mixing=mixing or LabelMixing(3),
        needs_tokens=model.vocabulary_size is not None,
        prompt_generator=torch.Generator().manual_seed(0),
        negatives_generator=torch.Generator(device).manual_seed(0),
    )


def batch_on(device: str, size: int = 8) -> Batch:
    batch = a_batch(size=size)
    return Batch(*(value.to(device) for value in vars(batch).values()))


def take(way: TrainingStep | RecordedStep, sizes: Sequence[int] = (8, 5, 8)) -> list[Tensor]:
    """What steps with batches of so many images put out, copied."""
    torch.manual_seed(2)
    step = way.step if isinstance(way, RecordedStep) else way
    device = step.negatives_generator.device.type
    step.prompt_generator.manual_seed(3)
    step.negatives_generator.manual_seed(3)
    return [
        value.detach().clone() for size in sizes for value in tensors(way(batch_on(device, size)))
    ]


def state_of(step: TrainingStep) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "model": step.model.state_dict(),
            "objective": step.objective.state_dict(),
            "optimisation": step.optimisation.state_dict(),
        }
    )


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal in type, form and every bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_same(value, theirs[key])
    elif isinstance(ours, list | tuple):
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    else:
        assert ours == theirs


STEPS = {
    "sampled negatives, dropout, an auxiliary": {},
    "batch statistics": {"encoder": "test_resnet:scratch", "kind": "superclip"},
    "counted tokens": {"kind": "superclip_tokens"},
    "mixed labels": {
        "kind": "ce",
        "aux": (),
        "mixing": LabelMixing(3, mixup_alpha=0.4, cutmix_alpha=0.4, label_smoothing=0.1),
    },
}


@pytest.mark.parametrize("settings", STEPS.values(), ids=STEPS)
def test_recorded_steps_are_the_steps(settings: dict[str, Any]) -> None:
    eager = a_step(**settings)
    step = a_step(**settings)
    recorded = with_recording(step, batch_on("cpu"), Again())
    expected = take(eager)
    assert_same(take(recorded), expected)
    assert_same(state_of(step), state_of(eager))
    # and on, from a checkpoint
    checkpoint = state_of(step)
    resumed = a_step(**settings)
    resumed.model.load_state_dict(checkpoint["model"])
    resumed.objective.load_state_dict(checkpoint["objective"])
    resumed.optimisation.load_state_dict(checkpoint["optimisation"])
    assert_same(take(with_recording(resumed, batch_on("cpu"), Again())), take(eager))
    assert_same(state_of(resumed), state_of(eager))


def test_numbers_of_chance_differ_between_steps_and_repeat_under_the_seed() -> None:
    recorded = with_recording(a_step(), batch_on("cpu"), Again())
    for group in recorded.step.optimisation._peaks_there:
        group.zero_()  # the parameters stay, only chance differs
    first, second = (take(recorded, (8, 8)) for _ in range(2))
    assert not torch.equal(first[0], first[len(first) // 2])
    assert_same(first, second)


REFUSED = {
    "asleep": (Asleep(), "its replay gives other results: "),
    "other numbers": (OtherNumbers(), "its replay gives other results: "),
    "broken": (Broken(), "RuntimeError: operation not permitted when stream is capturing$"),
    "short": (Short(), "not enough memory"),
    "waiting": (Waiting(), "waits for the device .*synchronizing"),
}


@pytest.mark.parametrize(("recorder", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_recording_of_the_step_is_refused_and_leaves_no_trace(
    recorder: Again, reason: str
) -> None:
    eager, step = a_step(), a_step()
    drawn = torch.random.get_rng_state()
    with pytest.raises(Unrecordable, match=reason):
        with_recording(step, batch_on("cpu"), recorder)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert_same(take(step), take(eager))
    assert_same(state_of(step), state_of(eager))


@pytest.mark.parametrize(("by", "is_seen"), [(1e-7, False), (0.05, True)])
def test_one_small_parameter_gives_a_recording_away(by: float, is_seen: bool) -> None:
    step = a_step()
    recorder = Meddling(step.model.log_logit_scale, by)
    if is_seen:
        with pytest.raises(Unrecordable, match=r"parameter \d+ differs by .* allowed"):
            with_recording(step, batch_on("cpu"), recorder)
    else:
        with_recording(step, batch_on("cpu"), recorder)


def test_a_device_that_adds_up_in_any_order_is_given_its_own_spread() -> None:
    step = a_step(dropout=0.0)
    scale = step.model.log_logit_scale

    class Noisy(Meddling):
        def rehearse(self, function: Callable[[], Result], *, strictly: bool) -> Result:
            found = function()
            scale.detach().mul_(1 + self.by * strictly)
            return found

    with_recording(step, batch_on("cpu"), Noisy(scale, 0.05))


def test_a_first_step_that_is_not_finite_is_left_to_the_guard() -> None:
    step = a_step()
    batch = batch_on("cpu")
    batch.images.fill_(float("nan"))
    with pytest.raises(Unrecordable, match="first step is not finite"):
        with_recording(step, batch, Again())


class OneDevice(TorchDispatchMode):
    """Lets no operation take tensors of two devices, which would be a copy that is waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
        assert len(devices) <= 1, func
        return result


@pytest.mark.parametrize("kind", LOSSES)
def test_the_devices_part_of_a_step_never_turns_to_the_host(kind: str) -> None:
    """On pretended CUDA tensors, which have no values that anything could ask for."""
    step = a_step(kind, tuple(AUXILIARY_LOSSES))
    modules = [*step.model.modules(), *step.objective.modules()]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:

        def there(value: Tensor) -> Tensor:
            return fake.from_tensor(value.detach()).to("cuda")

        for module in modules:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(there(parameter))
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else there(buffer)
        precision = Precision("cuda", None)
        step = replace(
            step,
            embed=WholeBatch(step.model, precision),
            precision=precision,
            negatives_generator=None,  # the device's own; there is no other to pretend
        )
        batch = a_batch()
        inputs = StepInputs(there(batch.images), there(batch.targets), None, there(torch.arange(3)))
        with OneDevice():
            outcome = step.compute(inputs, lambda *_: None)
    assert outcome.logits.device.type == "cuda"


# --- in a fold


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Again], None]:
    """Let folds on a CPU be recorded by a stand-in."""

    def patch(which: Again) -> None:
        for module in (fold_module, cuda_graph):
            monkeypatch.setattr(module, "recorder_for", lambda *_: which)

    return patch


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Make the next training hear Ctrl-C when it has recorded and replayed so many steps."""
    with monkeypatch.context() as patch:

        def arm(steps: int) -> None:
            count = 0
            replay = Optimisation.replay

            def replay_and_interrupt(self: Optimisation, recorded: Any) -> Any:
                nonlocal count
                count += 1
                if count == steps:
                    signal.raise_signal(signal.SIGINT)
                return replay(self, recorded)

            patch.setattr(Optimisation, "replay", replay_and_interrupt)

        yield arm


CONFIG = {
    "name": "a",
    "epochs": 3,
    "use_cv": False,
    "use_amp": False,
    "batch_size": 7,  # 24 images make three batches and a smaller one
    "use_superclip_loss": True,
    "mixup_alpha": 0.2,
    "cuda_graphs": True,
}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def numbers(root: Path) -> dict[str, Any]:
    found = outcome(root)
    for part in (found["a/cv_summary.json"], found["a/cv_summary.json"]["config"]):
        for name in ("notices", "cuda_graphs"):
            part.pop(name, None)
    return found


def test_a_recorded_fold_has_the_numbers_of_an_eager_one_interrupted_or_not(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
    recorder: Callable[[Again], None],
    ctrl_c: Callable[[int], None],
) -> None:
    path = write_configs(CONFIG)
    without = write_configs({**CONFIG, "cuda_graphs": False}, name="without.json")
    train("--config-file", without, output="eager")
    recorder(Again())
    train("--config-file", path, output="recorded")
    ctrl_c(6)  # one to prove it, three in the first epoch
    assert "to resume" in train("--config-file", path, output="resumed", check=130)
    train("--config-file", path, output="resumed")
    log = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("logs/*/*.log"))
    assert "Resumed after epoch 1 from" in log
    eager = numbers(tmp_path / "eager")
    for run in ("recorded", "resumed"):
        notice, _ = read(tmp_path / run / "a/cv_summary.json")["notices"]
        assert "was recorded and replayed as a CUDA graph" in notice
        assert f"NOTE: {notice.partition(': ')[2] or notice}" in log
        assert numbers(tmp_path / run) == eager


def test_a_fold_goes_on_without_a_recording_that_failed_and_says_so(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
    recorder: Callable[[Again], None],
) -> None:
    config = {**CONFIG, "epochs": 1}
    train("--config-file", write_configs({**config, "cuda_graphs": False}), output="eager")
    recorder(Broken())
    train("--config-file", write_configs(config), output="tried")
    notice, _ = read(tmp_path / "tried/a/cv_summary.json")["notices"]
    assert "was not recorded as a CUDA graph: RuntimeError: operation not permitted" in notice
    assert numbers(tmp_path / "tried") == numbers(tmp_path / "eager")


def test_on_a_cpu_true_has_a_notice_and_auto_has_none(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    config = {**CONFIG, "epochs": 1}
    path = write_configs(config, {**config, "name": "b", "cuda_graphs": "auto"})
    train("--config-file", path, "--multi-config")
    notice, _ = read(tmp_path / "out/a/cv_summary.json")["notices"]
    assert "it runs on cpu, and only NVIDIA GPUs can" in notice
    (_,) = read(tmp_path / "out/b/cv_summary.json")["notices"]


# --- where it can be and pays


@pytest.fixture
def learner(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    recorder: Callable[[Again], None],
) -> FoldLearner:
    """A fold whose step can be recorded, on a device that can."""
    found: list[FoldLearner] = []
    monkeypatch.setattr(FoldLearner, "before_first_step", lambda fold, _: found.append(fold))
    train("--config-file", write_configs({**CONFIG, "epochs": 1, "cuda_graphs": "auto"}))
    recorder(Again())
    return found[0]


def reason(learner: FoldLearner, step: TrainingStep | None = None, **changes: Any) -> str:
    settings = {"device": torch.device("cpu"), "n_train": 15, "profiles": False}
    config = changes.pop("config", learner.task.config)
    return obstacle(step or learner.step, config, **{**settings, **changes}) or ""


def test_what_cannot_be_recorded(learner: FoldLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    step, config = learner.step, learner.task.config
    assert reason(learner) == ""
    embed = MicroBatches(learner.model, learner.objective, FLOAT32, max_images=3)
    large = config.model_copy(update={"batch_size": 4096})
    half = Precision("cuda", torch.float16)
    assert "in micro-batches" in reason(learner, replace(step, embed=embed))
    assert "float16" in reason(learner, replace(step, precision=half))
    assert "--profile" in reason(learner, profiles=True)
    assert "no batch has 4096 images" in reason(learner, config=large)
    encoder = learner.model.image_encoder
    encoder.compute_by(encoder._eager, {7})
    assert "is compiled" in reason(learner)
    encoder.compute_eagerly()
    monkeypatch.setattr(encoder, "recomputes", True)
    assert "activation_checkpointing" in reason(learner)
    monkeypatch.undo()
    assert "only NVIDIA GPUs" in reason(learner)


def test_a_loss_that_says_it_waits_is_not_recorded(
    learner: FoldLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOSSES["superclip"], "can_be_recorded", False)
    assert reason(learner) == 'the loss "superclip" waits for the device'


def test_auto_records_where_it_pays() -> None:
    config = RunConfig.model_validate({"batch_size": 7, "img_size": 32})
    side = int((PAYS_UP_TO_PIXELS / 7) ** 0.5)
    assert pays(config, PAYS_FROM_STEPS)
    assert not pays(config, PAYS_FROM_STEPS - 1)
    assert pays(config.model_copy(update={"img_size": side}), PAYS_FROM_STEPS)
    assert not pays(config.model_copy(update={"img_size": side + 1}), PAYS_FROM_STEPS)
    description = str(RunConfig.model_fields["cuda_graphs"].description)
    assert f"{PAYS_FROM_STEPS} steps" in description
    assert f"{PAYS_UP_TO_PIXELS // 224**2} images of 224 px" in description


# --- on a GPU


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("settings", STEPS.values(), ids=STEPS)
def test_a_cuda_graph_is_the_step(settings: dict[str, Any]) -> None:
    eager, step = (a_step(**settings, device="cuda") for _ in range(2))
    graph = CudaRecorder(torch.device("cuda"), [step.negatives_generator])
    recorded = with_recording(step, batch_on("cuda"), graph)
    for ours, theirs in zip(take(recorded), take(eager), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(state_of(step), state_of(eager), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@NEEDS_GPU
def test_a_cuda_graph_draws_other_numbers_in_every_step_and_the_same_under_a_seed() -> None:
    step = a_step(device="cuda")
    graph = CudaRecorder(torch.device("cuda"), [step.negatives_generator])
    recorded = with_recording(step, batch_on("cuda"), graph)
    recorded.step.optimisation._peaks_there.zero_()
    first, second = (take(recorded, (8, 8)) for _ in range(2))
    assert not torch.equal(first[0], first[len(first) // 2])
    torch.testing.assert_close(first, second)


@pytest.mark.gpu
@NEEDS_GPU
def test_a_gpu_goes_on_after_a_step_that_asks_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, step = (a_step(device="cuda") for _ in range(2))

    def ask(loss: Tensor, *arguments: Any) -> None:
        float(loss)
        Optimisation.apply_recordably(step.optimisation, loss, *arguments)

    # Not in the rehearsal, so that the recording itself breaks off.
    monkeypatch.setattr(step.optimisation, "apply_recordably", ask)
    graph = CudaRecorder(torch.device("cuda"), [step.negatives_generator])
    with pytest.raises(Unrecordable):
        with_recording(step, batch_on("cuda"), graph)
    for ours, theirs in zip(take(step), take(eager), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@NEEDS_GPU
def test_a_rehearsal_notices_a_step_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    step = a_step(device="cuda")
    apply = step.optimisation.apply
    monkeypatch.setattr(
        step.optimisation, "apply", lambda loss, *rest: apply(loss * float(loss), *rest)
    )
    with pytest.raises(Unrecordable, match="waits for the device"):
        with_recording(
            step,
            batch_on("cuda"),
            CudaRecorder(torch.device("cuda"), [step.negatives_generator]),
        )
    assert torch.cuda.get_sync_debug_mode() == 0
