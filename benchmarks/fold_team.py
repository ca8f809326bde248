"""Folds of a small model that train in one process, in one of three ways; takes orders as JSON.

    python -m benchmarks.fold_team WAY --folds 0 1 2 --size 32 --device cpu --threads 2

    alone     one fold after another
    threads   a thread per fold, on a GPU with a stream of its own
    fused     one program of all folds: their parameters stacked, the model mapped over them

A step is forward, backward and AdamW on images that lie on the device, in the precision and memory
format in which folds are trained. The fused program keeps torch's own order of dimensions, because
that of its stacked kernels cannot be chosen.

Orders, a line each on standard input; each is answered by a line:

    {"order": "steps", "number": 3}    so many steps of every fold    {"memory": bytes}
    {"order": "check"}                 training anew in float64       {"losses": …, "statistics": …}
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmarks.drawn_tasks import largest_memory
from clip_pkg.models.precision import Precision, choose_precision

CLASSES = 10
BATCHES = 4  # that each fold has and takes in turn
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
CHECKED_STEPS, CHECKED_BATCH = 2, 8
WAYS = ("alone", "threads", "fused")


@dataclass(frozen=True)
class Work:
    """What each fold trains. folds: their numbers, which are seeds; threads: of the CPU, each."""

    encoder: str
    folds: Sequence[int]
    size: int
    batch: int
    device: torch.device
    precision: Precision
    threads: int
    dtype: torch.dtype = torch.float32

    def model(self, fold: int) -> nn.Module:
        """Make the model of a fold."""
        torch.manual_seed(fold)
        model = timm.create_model(self.encoder, num_classes=CLASSES)
        return model.to(self.device, self.dtype).train()

    def batches(self, fold: int) -> list[tuple[Tensor, Tensor]]:
        """Images [B, 3, size, size] and labels [B] of a fold, on the device."""
        generator = torch.Generator().manual_seed(fold)
        shape = (self.batch, 3, self.size, self.size)
        return [
            (
                torch.randn(shape, generator=generator).to(self.device, self.dtype),
                torch.randint(CLASSES, (self.batch,), generator=generator).to(self.device),
            )
            for _ in range(BATCHES)
        ]

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """Make the optimiser that folds are trained with."""
        return torch.optim.AdamW(
            parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )


def precision_of(encoder: str, size: int, device: torch.device) -> Precision:
    """What training chooses, or float32 where it would have to scale the loss."""
    with torch.device("meta"):
        model = timm.create_model(encoder, num_classes=CLASSES)
    chosen = choose_precision(device, model, img_size=size, use_amp=True, amp_dtype="auto")
    return Precision(device.type, None) if chosen.needs_scaling else chosen


class Team(Protocol):
    """Folds in training."""

    def steps(self, number: int) -> Tensor:
        """Train each fold for so many steps; losses [folds, number]."""
        ...

    def statistics(self) -> list[float]:
        """Sum over the running means of batch normalisation, per fold."""
        ...


class Fold:
    """A fold that is trained as if it were alone."""

    def __init__(self, work: Work, number: int) -> None:
        layout = work.precision.memory_format
        self.model = work.model(number).to(memory_format=layout)
        self._optimizer = work.optimizer(self.model.parameters())
        self._batches = [
            (images.contiguous(memory_format=layout), labels)
            for images, labels in work.batches(number)
        ]
        self._precision = work.precision
        self._done = 0

    def steps(self, number: int) -> Tensor:
        """Train for so many steps; losses [number]."""
        return torch.stack([self._step() for _ in range(number)])

    def _step(self) -> Tensor:
        images, labels = self._batches[self._done % BATCHES]
        self._done += 1
        with self._precision.autocast():
            logits = self.model(images)
        loss = F.cross_entropy(logits.to(images.dtype), labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()


def running_means(state: dict[str, Tensor]) -> list[Tensor]:
    """Running means among the entries of a model's state."""
    return [value for name, value in state.items() if name.endswith("running_mean")]


class Alone:
    """One fold after another."""

    def __init__(self, work: Work) -> None:
        self._folds = [Fold(work, number) for number in work.folds]

    def steps(self, number: int) -> Tensor:
        """See `Team`."""
        return torch.stack([fold.steps(number) for fold in self._folds])

    def statistics(self) -> list[float]:
        """See `Team`."""
        means = [running_means(fold.model.state_dict()) for fold in self._folds]
        return [float(sum(mean.sum() for mean in one)) for one in means]


class Threads(Alone):
    """A thread per fold; on a GPU each has a stream."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._pool = ThreadPoolExecutor(
            len(self._folds), initializer=torch.set_num_threads, initargs=(work.threads,)
        )
        on_gpu = work.device.type == "cuda"
        self._streams = [torch.cuda.Stream(work.device) if on_gpu else None for _ in self._folds]
        self._device = work.device

    def steps(self, number: int) -> Tensor:
        """See `Team`."""

        def train(fold: Fold, stream: torch.cuda.Stream | None) -> Tensor:
            with nullcontext() if stream is None else torch.cuda.stream(stream):
                losses = fold.steps(number)
            if stream is not None:
                stream.synchronize()
            return losses

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what other streams wrote can be read now
        return torch.stack(list(self._pool.map(train, self._folds, self._streams)))


class Fused:
    """One program of all folds.

    Batch normalisation sees each fold's own batch, and its running statistics are stacked like the
    parameters and updated in place, as without the map.
    """

    def __init__(self, work: Work) -> None:
        models = [work.model(number) for number in work.folds]
        self._skeleton = copy.deepcopy(models[0]).to("meta")
        self._parameters, self._buffers = stack_module_state(models)
        self._optimizer = work.optimizer(self._parameters.values())
        per_fold = [work.batches(number) for number in work.folds]
        self._batches = [
            (torch.stack([one[0] for one in batch]), torch.stack([one[1] for one in batch]))
            for batch in zip(*per_fold, strict=True)
        ]
        self._precision = work.precision
        self._done = 0

    def steps(self, number: int) -> Tensor:
        """See `Team`."""
        return torch.stack([self._step() for _ in range(number)], dim=1)

    def _step(self) -> Tensor:
        images, labels = self._batches[self._done % BATCHES]
        self._done += 1
        with self._precision.autocast():
            logits = torch.vmap(self._forward)(self._parameters, self._buffers, images)
        losses = torch.vmap(F.cross_entropy)(logits.to(images.dtype), labels)
        self._optimizer.zero_grad()
        losses.sum().backward()  # a fold's parameters are in no other fold's loss
        self._optimizer.step()
        return losses.detach()

    def _forward(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor
    ) -> Tensor:
        logits: Tensor = functional_call(self._skeleton, (parameters, buffers), (images,))
        return logits

    def statistics(self) -> list[float]:
        """See `Team`."""
        means = running_means(self._buffers)
        return torch.stack([mean.sum(dim=1) for mean in means]).sum(dim=0).tolist()


TEAMS: dict[str, Callable[[Work], Team]] = {"alone": Alone, "threads": Threads, "fused": Fused}


def checked(way: str, work: Work) -> dict[str, list[Any]]:
    """Losses [folds, steps] and running statistics of a training from the start in float64."""
    exact = Work(
        work.encoder,
        work.folds,
        work.size,
        CHECKED_BATCH,
        work.device,
        Precision(work.device.type, None),
        work.threads,
        torch.float64,
    )
    team = TEAMS[way](exact)
    return {"losses": team.steps(CHECKED_STEPS).tolist(), "statistics": team.statistics()}


def serve(way: str, work: Work) -> None:
    """Answer orders until standard input ends."""
    team: Team | None = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["order"] == "check":
                answer: dict[str, Any] = checked(way, work)
            else:
                team = team or TEAMS[way](work)
                team.steps(order["number"]).cpu()  # waits for the device
                answer = {"memory": largest_memory()}
        except (RuntimeError, NotImplementedError) as error:  # what this device cannot do
            answer = {"error": " ".join(str(error).split())[:200]}
        print(json.dumps(answer), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read what to train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--folds", type=int, nargs="+", required=True)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, required=True)
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(parsed.threads)
    torch.backends.cudnn.benchmark = True  # as in training
    precision = precision_of(parsed.encoder, parsed.size, parsed.device)
    serve(
        parsed.way,
        Work(
            parsed.encoder,
            parsed.folds,
            parsed.size,
            parsed.batch,
            parsed.device,
            precision,
            parsed.threads,
        ),
    )


if __name__ == "__main__":
    main()
