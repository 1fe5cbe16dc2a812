"""The most operations a second that a matrix product reaches here, in a child process."""

import torch

from training.bench.plan import CeilingAnswer, CeilingJob
from training.flops import measure_matmul_ceiling

JOB = CeilingJob


def measure(job: CeilingJob) -> CeilingAnswer:
    """Measure the ceiling that a share of arithmetic is told of."""
    torch.set_num_threads(job.num_threads)
    return CeilingAnswer(measure_matmul_ceiling(torch.device(job.device), job.precision))
