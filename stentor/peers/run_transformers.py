"""transformers' own `generate`, as on the model card: `python -m stentor.peers.run_transformers`.

fp32 on a CPU, bf16 on a GPU. Several users are one batch of equal prompts: the only way in which
`generate` serves more than one at a time.
"""

import sys
import time
from functools import partial
from importlib.metadata import version

import torch
import transformers

from stentor.peers.protocol import SAMPLED, Answer, Job, Run, Series, repeated, serve

WARM_UP_TOKENS = 2


def measure(job: Job) -> Answer:
    """Measure every number of users."""
    torch.set_num_threads(job.num_threads)
    began = time.perf_counter()
    model = transformers.LlamaForCausalLM.from_pretrained(
        job.folder,
        dtype=torch.bfloat16 if job.is_on_gpu else torch.float32,
        use_safetensors=True,
    )
    model.to("cuda" if job.is_on_gpu else "cpu")  # type: ignore[arg-type] # as below
    load_seconds = time.perf_counter() - began
    series = []
    for num_users in job.users:
        ids = torch.tensor(job.prompts[:num_users], device=model.device)
        _generate(model, ids, job, WARM_UP_TOKENS)
        first_seconds = _generate(model, ids, job, 1)
        runs = repeated(partial(_run, model, ids, job, first_seconds))
        precision = "bf16" if job.is_on_gpu else "fp32"
        series.append(
            Series(
                engine="transformers",
                precision=precision,
                drawing=SAMPLED,
                num_users=num_users,
                num_threads=job.num_threads,
                load_seconds=load_seconds,
                runs=runs,
            )
        )
    return Answer(version("transformers"), (), tuple(series))


def _run(
    model: "transformers.LlamaForCausalLM", ids: torch.Tensor, job: Job, first_seconds: float
) -> Run:
    """Generate for all; `generate` does not say when the first token came, so that is given."""
    seconds = _generate(model, ids, job, job.num_tokens)
    num_users = len(ids)
    first_seconds = min(first_seconds, seconds)
    return Run((first_seconds,) * num_users, (seconds,) * num_users, num_users * job.num_tokens)


def _generate(
    model: "transformers.LlamaForCausalLM", ids: torch.Tensor, job: Job, num_tokens: int
) -> float:
    """Return the seconds that `num_tokens` for every row take."""
    torch.manual_seed(0)
    began = time.perf_counter()
    output = model.generate(  # type: ignore[misc] # its own hint of `self` is wrong
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,  # the end of a text, drawn by chance, would measure less
        pad_token_id=0,
        do_sample=True,
        temperature=job.temperature,
        top_p=job.top_p,
        top_k=0,
    )
    assert isinstance(output, torch.Tensor)
    assert output.cpu().shape == (len(ids), ids.shape[1] + num_tokens)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(serve(measure))
