"""The ranks (processes) that train one fold together, each with its share of every batch.

Rank 0 leads: it decides, writes every file and announces each order. The others follow: they
iterate over the same batches, compute their shares and write nothing. All hold the whole model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in its list

from clip_pkg.base.errors import UserError

# Until then another rank may be building its model or reading from a slow disk.
TIME_FOR_OTHERS = timedelta(minutes=30)
# Between two orders the leader may write a checkpoint. The loss of the leader is noticed at once.
TIME_FOR_LEADER = timedelta(days=7)


@dataclass(frozen=True, eq=False)
class Ranks:
    """Rank `rank` of `size`: this process. store: where the leader writes orders."""

    rank: int = 0
    size: int = 1
    store: TCPStore | None = None

    @property
    def are_several(self) -> bool:
        return self.size > 1

    def share(self, rows: int) -> slice:
        """Indices of this rank's shard; never empty, because all ranks take part in exchanges."""
        first, last = self._bounds(self.rank, rows)
        return slice(first, last) if first < last else slice(0, 1)

    def joined(self, values: Tensor, rows: int) -> Tensor:
        """All rows, [rows, …], each from the rank whose share it is; values: of this rank."""
        if not self.are_several:
            return values
        bounds = [self._bounds(rank, rows) for rank in range(self.size)]
        lengths = [last - first for first, last in bounds]
        return self.gathered(values[: lengths[self.rank]], lengths)

    def gathered(self, values: Tensor, lengths: Sequence[int]) -> Tensor:
        """Concatenate the rows of all ranks; lengths: number of rows of each rank."""
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
        """Overwrite tensors by those of rank 0."""
        if self.are_several:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    # --- orders

    def announce(self, *order: str | int) -> None:
        """Send the other ranks an order; an empty one ends them. No-op for a single process."""
        if self.store is not None:
            assert self.rank == 0, "rank 0 leads"
            number = self.store.add("orders", 1)
            self.store.set(f"order/{number}", json.dumps(order))

    def orders(self) -> Iterator[list[Any]]:
        """Orders of the leader, until an empty one."""
        assert self.store is not None, "there is a leader"
        number = 1
        while order := json.loads(self.store.get(f"order/{number}")):
            yield order
            number += 1

    def _bounds(self, rank: int, rows: int) -> tuple[int, int]:
        return rank * rows // self.size, (rank + 1) * rows // self.size


ALONE = Ranks()


def open_store() -> TCPStore:
    """Connect to the store of the parent process, by torchrun's environment variables."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=TIME_FOR_LEADER)


def rank_device(device: str) -> torch.device:
    """Device of this rank; device: that of the first.

    Raises UserError if there are fewer GPUs than ranks.
    """
    if not device.startswith("cuda"):
        return torch.device(device)
    rank, visible = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if rank >= visible:
        raise UserError(
            f"the fold needs {os.environ['WORLD_SIZE']} GPUs, but only {visible} are visible where "
            "it runs; ask the cluster for more or lower gpus_per_task"
        )
    return torch.device("cuda", rank)


def join(device: torch.device, store: TCPStore) -> Ranks:
    """Join the process group of torchrun's environment variables; store: for orders."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    settings: dict[str, Any] = {}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        settings = {"device_id": device}
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=open_store(),
        rank=rank,
        world_size=size,
        timeout=TIME_FOR_OTHERS,
        **settings,
    )
    return Ranks(rank, size, store)


def leave() -> None:
    """Leave the process group; all ranks do so at the same time."""
    if dist.is_initialized():
        dist.destroy_process_group()
