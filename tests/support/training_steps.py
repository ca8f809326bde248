"""Single training steps of tiny models, and the gradients that they leave.

As a program it takes steps on several ranks, compares them with steps in one process, and prints
what it found: `python training_steps.py '[{"ranks": 2, "kind": "clip", "aux": []}, …]'`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported by name only

from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import LabelMixing
from clip_pkg.data.batches import Batch
from clip_pkg.losses.contract import Objective, TrainingSet
from clip_pkg.losses.registry import build_objective
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.models.precision import Precision
from clip_pkg.training import ranks
from clip_pkg.training.image_forward import Embed, MicroBatches
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.step import TrainingStep
from support.tiny import TINY

FLOAT32 = Precision("cpu", None)
CLASSES, PROMPTS = ("a", "b", "c"), [["an a"], ["a b"], ["some c"]]
BATCH_SIZE, MICRO = 8, 3


def build(
    kind: str,
    aux: tuple[str, ...],
    dtype: torch.dtype,
    dropout: float,
    encoder: str = "test_vit:scratch",  # has no BatchNorm
) -> tuple[ImageTextModel, Objective]:
    """A model and an objective, the same ones each time."""
    tokens = {"text_encoder_name": "clip:ViT-S-32-alt:scratch"} if LOSSES[kind].needs_tokens else {}
    torch.manual_seed(0)
    config = {**TINY, "image_encoder_name": encoder, **tokens}
    model = build_model(RunConfig.model_validate(config), CLASSES, PROMPTS)
    for module in model.image_encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    training_set = TrainingSet(torch.tensor([4, 4, 4]), 16, torch.ones(3), model.vocabulary_size)
    objective = build_objective(
        LOSSES[kind](), training_set, [AUXILIARY_LOSSES[name](weight=0.5) for name in aux]
    )
    return model.to(dtype), objective.to(dtype)


def step(model: ImageTextModel, objective: Objective, embed: Embed, batch: Batch) -> None:
    """One step at the learning rate 0, which leaves the gradients behind."""
    groups = [*model.parameter_groups(0, 0), *objective.parameter_groups(0, 0)]
    torch.manual_seed(1)
    TrainingStep(
        model,
        objective,
        embed,
        Optimisation(groups, precision=FLOAT32, total_steps=9, warmup_steps=1, grad_clip_norm=None),
        precision=FLOAT32,
        mixing=LabelMixing(3),
        needs_tokens=model.vocabulary_size is not None,
        prompt_generator=torch.Generator().manual_seed(0),
        negatives_generator=torch.Generator().manual_seed(0),
    )(batch)


def a_batch(dtype: torch.dtype = torch.float32, size: int = BATCH_SIZE) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, 32, 32, generator=generator).to(dtype)
    return Batch(images, torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])[:size], torch.arange(size))


def gradients(*modules: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                yield name, parameter.grad


def distance(ours: Iterable[nn.Module], reference: Iterable[nn.Module]) -> float:
    """Largest difference of a parameter's gradient, with the length of the whole one as 1."""
    mine, wanted = dict(gradients(*ours)), dict(gradients(*reference))
    assert list(mine) == list(wanted)
    assert any(name.startswith("image_encoder.") for name in mine)
    length = torch.stack([gradient.norm() for gradient in wanted.values()]).norm()
    assert length > 0
    return max(float((mine[name] - wanted[name]).norm() / length) for name in mine)


def compare(case: dict[str, Any], group: ranks.Ranks) -> dict[str, Any]:
    """One step on all ranks; at rank 0 also one without the others, in the same parts."""

    def one() -> tuple[ImageTextModel, Objective]:
        encoder = case.get("encoder", "test_vit:scratch")
        return build(case["kind"], tuple(case["aux"]), torch.float64, 0.3, encoder)

    together, alone = one(), one()
    batch = a_batch(torch.float64, case.get("images", BATCH_SIZE))
    most = case.get("most")
    step(*together, MicroBatches(*together, FLOAT32, max_images=most, ranks=group), batch)
    size = min(most or len(batch.targets), len(batch.targets))
    parts = MicroBatches(*alone, FLOAT32, max_images=-(-size // group.size))
    step(*alone, parts, batch)
    found = {**dict(gradients(*together)), **dict(together[0].named_buffers())}
    same = True
    for value in found.values():
        theirs = value.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(theirs, src=0)
        same &= torch.equal(theirs, value)
    every: list[Any] = [None] * group.size
    dist.all_gather_object(every, same)
    return {"distance": distance(together, alone), "same": all(every)}


def rank_process(rank: int, port: int, cases: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    size = cases[0]["ranks"]
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group = ranks.join(torch.device("cpu"), ranks.open_store())
    found = [compare(case, group) for case in cases]
    if rank == 0:
        print(json.dumps(found), flush=True)
    ranks.leave()


def main(cases: list[dict[str, Any]]) -> None:
    """Print a list of findings for each run of cases that have the same number of ranks."""
    context = multiprocessing.get_context("fork")
    for size, of_size in groupby(cases, key=lambda case: case["ranks"]):
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        arguments = (store.port, list(of_size))
        processes = [
            context.Process(target=rank_process, args=(rank, *arguments)) for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert not any(process.exitcode for process in processes)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
