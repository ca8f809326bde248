"""The processes that train one fold together, each with a part of every batch.

Rank 0 leads: it decides, writes every file, and says what comes next. The others follow: they go
over the same batches, compute their parts, and write nothing. All have the whole model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in its list

from clip_pkg.base.errors import UserError

# A rank that waits longer than this for another one gives up; until then the other may be building
# its model or reading from a slow disk.
TIME_FOR_OTHERS = timedelta(minutes=30)
# Between what the leader says there can be a checkpoint. A leader that is gone is noticed at once.
TIME_FOR_LEADER = timedelta(days=7)


class Board(Protocol):
    """What the ranks and whoever started them can read and write: a `torch.distributed.Store`."""

    def add(self, key: str, amount: int) -> int:
        """Count."""
        ...

    def set(self, key: str, value: str) -> None:
        """Write."""
        ...

    def get(self, key: str) -> bytes:
        """Read, as soon as it is there."""
        ...


@dataclass(frozen=True, eq=False)
class Ranks:
    """One process, number `rank` of `size`. `board`: where the leader writes what comes next."""

    rank: int = 0
    size: int = 1
    board: Board | None = None

    @property
    def are_several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def share(self, rows: int) -> slice:
        """Which of so many rows are this process's; never none, a row may be computed for nothing.

        Everybody has to have something to compute, because everybody takes part in what follows.
        """
        first, last = self._bounds(self.rank, rows)
        return slice(first, last) if first < last else slice(0, 1)

    def joined(self, values: Tensor, rows: int) -> Tensor:
        """All `rows` [rows, …], each from the process whose share it is; `values` are of mine."""
        if not self.are_several:
            return values
        bounds = [self._bounds(rank, rows) for rank in range(self.size)]
        lengths = [last - first for first, last in bounds]
        return self.gathered(values[: lengths[self.rank]], lengths)

    def gathered(self, values: Tensor, lengths: Sequence[int]) -> Tensor:
        """Rows of all ranks one after another; `lengths` says how many each one has."""
        if not self.are_several:
            return values
        padded = values.new_zeros((max(lengths), *values.shape[1:]))
        padded[: len(values)] = values
        received = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(received, padded)
        return torch.cat([rows[:n] for rows, n in zip(received, lengths, strict=True)])

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their means over the ranks, in one exchange."""
        if not self.are_several or not tensors:
            return
        together = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(together)
        together /= self.size
        pieces = torch.split(together, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.detach().copy_(piece.view_as(tensor))

    def copy_from_leader(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors what they are at rank 0."""
        if self.are_several:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    # --- what comes next

    def announce(self, *order: str | int) -> None:
        """Say what the others are to do now; nothing: that they are done. Alone nobody listens."""
        if self.board is not None:
            assert self.rank == 0, "rank 0 leads"
            number = self.board.add("orders", 1)
            self.board.set(f"order/{number}", json.dumps(order))

    def orders(self) -> Iterator[list[Any]]:
        """What the leader announces, until it announces nothing."""
        assert self.board is not None, "there is a leader"
        number = 1
        while order := json.loads(self.board.get(f"order/{number}")):
            yield order
            number += 1

    def _bounds(self, rank: int, rows: int) -> tuple[int, int]:
        return rank * rows // self.size, (rank + 1) * rows // self.size


ALONE = Ranks()


def connect() -> Board:
    """Reach the store of whoever started the ranks, by torchrun's environment variables."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store: Board = TCPStore(host, port, is_master=False, timeout=TIME_FOR_LEADER)
    return store


def rank_device(device: str) -> torch.device:
    """Name the device of this rank, where `device` is that of the first.

    Raises UserError where there are fewer than ranks.
    """
    if not device.startswith("cuda"):
        return torch.device(device)
    rank, visible = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if rank >= visible:
        raise UserError(
            f"{os.environ['WORLD_SIZE']} GPUs are to train the fold, but where it runs only "
            f"{visible} can be seen; ask the cluster for more or lower gpus_per_task"
        )
    return torch.device("cuda", rank)


def join(device: torch.device, board: Board) -> Ranks:
    """Meet the other ranks that torchrun's environment variables tell of."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    settings: dict[str, Any] = {}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        settings = {"device_id": device}
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=connect(),  # type: ignore[arg-type]  # what is missing of it in `Board` is torch's
        rank=rank,
        world_size=size,
        timeout=TIME_FOR_OTHERS,
        **settings,
    )
    return Ranks(rank, size, board)


def leave() -> None:
    """Part from the others, who do so too."""
    if dist.is_initialized():
        dist.destroy_process_group()
