"""The processes that train one model together; most often only this one.

Worker 0, the main one, writes the run folder. `accelerate` gives several workers their devices and
their meetings, gloo on processors and NCCL on GPUs, of one machine or several; gradients are
averaged by DistributedDataParallel. One process alone opens no process group and pays nothing.
Knows no recipe, files or steps.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from accelerate.utils.environment import check_cuda_p2p_ib_support
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stentor.errors import TrainingError
from stentor.provenance import num_cores

# A step waits for its slowest worker, and that for a checkpoint or a validation of the main one.
STEP_TIMEOUT = timedelta(minutes=30)
# Preparing a corpus takes hours and only the main worker does it. gloo tells at once when a
# process at the other end is gone, so patience costs nothing.
PATIENCE = timedelta(days=14)


class Workers:
    """This worker and its view of the others.

    `accelerator` joins them; a process alone has none. Every method that needs the others must be
    called by all of them, in the same order.
    """

    def __init__(self, device: torch.device, accelerator: Accelerator | None = None) -> None:
        self.device = device
        self._accelerator = accelerator
        self._patient: torch.distributed.ProcessGroup | None = None
        self.rank, self.num_workers = 0, 1
        if accelerator is not None:
            self.rank, self.num_workers = accelerator.process_index, accelerator.num_processes
            self._patient = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def is_main(self) -> bool:
        """Tell whether this is the worker that writes and speaks for all."""
        return self.rank == 0

    def prepare(self, network: nn.Module) -> nn.Module:
        """Return the network on this worker's device; its gradients are averaged over all."""
        if self._accelerator is None:
            return nn.Module.to(network, self.device)
        network = nn.Module.to(network, self.device)
        return DistributedDataParallel(
            network,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            forward_sync_buffers=False,  # a rotary table is the same everywhere
            gradient_as_bucket_view=True,
        )

    def share(self, batch: torch.Tensor) -> torch.Tensor:
        """Return this worker's rows of a whole batch (rows, ...), on its device.

        Rows are contiguous, and the first workers have one more where they do not divide.
        """
        rows = torch.tensor_split(batch, self.num_workers)[self.rank]
        return rows.to(self.device, non_blocking=True)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of every worker's `value`; all of them get the same bits."""
        if self._accelerator is None:
            return value
        total: torch.Tensor = self._accelerator.reduce(value, reduction="sum")
        return total

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of every worker's `value`."""
        return self.sum(value) / self.num_workers

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is true for any worker, without waiting for a GPU."""
        return self.any_of((flag,))[0]

    def any_of(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        """Tell of each flag whether it is true for any worker, in one meeting."""
        if self._patient is None:
            return tuple(flags)
        found = torch.tensor(flags, dtype=torch.uint8)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=self._patient)
        return tuple(map(bool, found.tolist()))

    def of_main(self, number: int) -> int:
        """Return the main worker's number on every worker; what the others give is not looked at.

        What is read from the run folder is decided by one: on a shared disk two could see two.
        """
        number = number if self.is_main else 0
        return int(self.sum(torch.tensor(number, dtype=torch.int64, device=self.device)))

    def wait(self) -> None:
        """Return when every worker is here, however many hours one of them takes."""
        self.any(False)

    def close(self) -> None:
        """Leave the others in order, at the end of the work."""
        if self._accelerator is not None:
            self.wait()
            torch.distributed.destroy_process_group()


def open_workers(num_threads: int | None = None) -> Workers:
    """Join the other workers that torchrun or accelerate started, or be alone.

    RANK, WORLD_SIZE and LOCAL_RANK in the environment tell; a GPU is used where there is one.
    `num_threads`: of this process; by default the workers of this machine share its cores.

    Raises:
        TrainingError: this machine has fewer GPUs than workers.
    """
    has_cuda = torch.cuda.is_available()
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(num_threads or max(1, num_cores() // num_local))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Workers(torch.device("cuda" if has_cuda else "cpu"))
    if has_cuda and num_local > torch.cuda.device_count():
        raise TrainingError(
            f"{num_local} workers were started on a machine with {torch.cuda.device_count()} "
            "GPU(s); each needs one of its own."
        )
    if has_cuda and not check_cuda_p2p_ib_support():
        # RTX 40 cards with old drivers; accelerate would refuse where its launcher was not used.
        os.environ.update(NCCL_P2P_DISABLE="1", NCCL_IB_DISABLE="1")
    accelerator = Accelerator(
        cpu=not has_cuda,
        mixed_precision="no",  # autocast is the network's business
        kwargs_handlers=[InitProcessGroupKwargs(timeout=STEP_TIMEOUT)],
    )
    torch.set_num_threads(num_threads or max(1, num_cores() // num_local))  # accelerate sets it too
    return Workers(accelerator.device, accelerator)


def without_averaging(network: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which backward passes leave gradients unaveraged, to be added up."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network that was prepared, without what averages its gradients."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def is_lost_worker(error: BaseException) -> bool:
    """Tell whether an error of a meeting means that another worker is gone."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
