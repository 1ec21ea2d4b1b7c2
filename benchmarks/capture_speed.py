"""Capture against a plain loop over the same texts, in one run: texts per second and their ratio.

By the clock, and by the processor time of all threads, which other jobs disturb less. The share of
the matrix peak is of what has to be multiplied (the weights of the blocks, once for each token that
not all prompts share, and in the last block for the last token alone, but for keys and values;
attention's own products are not counted) in the capture's median time, beside a product of two
matrices of 1,024 × 1,024 in float32.

The plain loop is what one writes first: the causal language model in transformers, forward hooks
that keep whole attention outputs, batches of 32 in input order, logits of every position.

    python benchmarks/capture_speed.py --data FOLDER_OF_STS_FILES
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dysem_lab as dl
from dysem_lab.models.loading import locate

BATCH = 32


def plain_loop(model: torch.nn.Module, tokenizer: object, prompts: Sequence[str]) -> torch.Tensor:
    """Return A^L of the last token with plain hooks, whole outputs and full logits."""
    kept: list[torch.Tensor] = []
    gemma = hasattr(model.model.layers[0], "post_feedforward_layernorm")
    handles = [
        (block.post_attention_layernorm if gemma else block.self_attn).register_forward_hook(
            lambda module, inputs, output: kept.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        for block in model.model.layers
    ]
    rows = []
    with torch.no_grad():
        for start in range(0, len(prompts), BATCH):
            batch = list(map(str, prompts[start : start + BATCH]))
            model(**tokenizer(batch, return_tensors="pt", padding=True))
            rows.append(torch.stack([output[:, -1] for output in kept]).sum(0))
            kept.clear()
    for handle in handles:
        handle.remove()
    return torch.cat(rows)


def captured(lens: dl.LensModel, prompts: Sequence[str]) -> torch.Tensor:
    """Return A^L of the last token with `dysem_lab.capture`."""
    return dl.capture(lens, prompts, "attn", progress=False)["attn"]


def multiplications(lens: dl.LensModel, model: torch.nn.Module, prompts: Sequence[str]) -> float:
    """Return the floating-point operations of the tokens after what all prompts share."""
    blocks, every_token = model.model.layers, ("k_proj.weight", "v_proj.weight")
    weights = sum(each.numel() for each in blocks.parameters() if each.dim() == 2)
    alone = sum(
        each.numel()
        for name, each in blocks[-1].named_parameters()
        if each.dim() == 2 and not name.endswith(every_token)
    )
    tokens = [lens.tokenizer(str(prompt))["input_ids"] for prompt in prompts]
    columns = zip(*tokens, strict=False)
    shared = next((i for i, column in enumerate(columns) if len(set(column)) > 1), 0)
    return 2.0 * sum((weights - alone) * (len(of) - shared) + alone for of in tokens)


def matrix_peak() -> float:
    """Return the operations per second of a large product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2.0 * 1024**3 / statistics.median(times)


def seconds(
    function: Callable[..., torch.Tensor], *arguments: object
) -> tuple[float, float, torch.Tensor]:
    """Return the time of one call, the processor time of its threads, and its result."""
    start, start_of_threads = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return time.perf_counter() - start, time.process_time() - start_of_threads, result


def main() -> None:
    """Print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="demo", help="demo or a folder of STS files")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["gemma-3-270m", "smollm2-135m-instruct"])
    arguments = parser.parse_args()
    data = dl.load_data(arguments.data).head(arguments.pairs)
    prompts = dl.wrap(data.texts())
    print(f"{data}; {len(prompts)} prompts, {torch.get_num_threads()} threads, float32")
    for name in arguments.models:
        lens = dl.load_model(name, device="cpu", dtype="float32")
        model = AutoModelForCausalLM.from_pretrained(locate(name), dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(locate(name), padding_side="left")
        ours, theirs, processor = [], [], []
        for _ in range(arguments.rounds):
            took, of_threads, vectors = seconds(captured, lens, prompts)
            ours.append(took)
            processor.append(of_threads)
            took, _, reference = seconds(plain_loop, model, tokenizer, prompts)
            theirs.append(took)
        share = multiplications(lens, model, prompts) / statistics.median(ours) / matrix_peak()
        error = float((vectors - reference).norm() / reference.norm())
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        print(
            f"{name}: capture {len(prompts) / statistics.median(ours):.1f} texts/s, "
            f"{len(prompts) / statistics.median(processor):.1f} per second of processor, plain "
            f"loop {len(prompts) / statistics.median(theirs):.1f} texts/s, ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"{share:.0%} of the matrix peak, "
            f"relative error {error:.0e}"
        )


if __name__ == "__main__":
    main()
