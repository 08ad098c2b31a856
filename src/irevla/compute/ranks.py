"""The processes that learn together, each with its part of every batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

from irevla.compute.device import find_device
from irevla.compute.processes import MEETING
from irevla.errors import UserError


@dataclass(frozen=True)
class Part:
    """The samples of a batch that one process has: from `first` to before `last`, of `size`."""

    first: int
    last: int
    size: int

    def __len__(self) -> int:
        return self.last - self.first

    @staticmethod
    def whole(size: int) -> "Part":
        """Return all of a batch of `size`."""
        return Part(0, size, size)

    @property
    def rows(self) -> slice:
        """Where they are in the batch."""
        return slice(self.first, self.last)

    @property
    def share(self) -> float:
        """What the mean over this part counts in the mean over the batch."""
        return len(self) / self.size


@dataclass(frozen=True)
class Ranks:
    """So many processes, of which this is number `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def part(self, size: int) -> Part:
        """Return this process's part of a batch of `size`; parts differ by one sample at most."""
        assert size >= self.size, f"{size} samples for {self.size} processes"
        return Part(size * self.rank // self.size, size * (self.rank + 1) // self.size, size)

    def add(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, the same on each."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def share_gradients(self, module: nn.Module) -> nn.Module:
        """Return `module` such that each process has the mean of all gradients after `backward`.

        All must have the same weights; some may have no gradient. Alone it is `module` itself.
        """
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(
            module,
            broadcast_buffers=False,
            find_unused_parameters=True,
            init_sync=False,  # all read the same files: a frozen VLM of gigabytes need not travel
        )

    def share_weights(self, module: nn.Module) -> None:
        """Let each process keep a part of the frozen weights of `module`, layer by layer (FSDP2).

        A layer's are brought together while it computes. What is trainable stays whole on each.
        Afterwards each call of `module` and of what it is part of is one of all processes.
        """
        if self.size == 1:
            return
        whole = {each for each in module.parameters() if each.requires_grad}
        lists = [each for each in module.modules() if isinstance(each, nn.ModuleList)]
        layers = [layer for each in reversed(lists) for layer in each]  # inner ones first
        for part in (*layers, module):
            if set(part.parameters()) - whole:
                fully_shard(part, ignored_params=whole)


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun or Ray started with this one.

    Yields who is there, and the device that `device` ("auto", "cpu", "cuda") means for this one:
    each process of a machine has a GPU of its own. NCCL carries sums between GPUs, gloo between
    CPUs.
    """
    chosen = find_device(device)
    if distributed.is_initialized():  # Ray Train has made the group, and chosen the GPU
        if chosen.type == "cuda":
            chosen = torch.device("cuda", torch.cuda.current_device())
        yield Ranks(distributed.get_rank(), distributed.get_world_size()), chosen
        return
    if chosen.type == "cuda":
        chosen = _own_gpu(int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    _meet("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size()), chosen
    finally:
        distributed.destroy_process_group()


def _meet(backend: str) -> None:
    """Find the other processes through a file: the port of torch's own store would listen to all
    the network."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = f"file://{os.environ[MEETING]}/group"
    distributed.init_process_group(backend, init_method=place, rank=rank, world_size=size)


def _own_gpu(local_rank: int) -> torch.device:
    """Return the GPU of one of this machine's processes. Raises `UserError` where it has none."""
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"each process needs a GPU of its own, and here are {count}: lower compute.processes, "
            "or choose --device cpu"
        )
    return torch.device("cuda", local_rank)
