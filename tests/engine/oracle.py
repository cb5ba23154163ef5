"""The truth: every branch read anew at each step, no cache, no batch."""

import torch


@torch.inference_mode()
def guided_tokens(model, prompt, negatives, weights, *, space="log", num_tokens=64):
    """Greedy tokens of the definition, and the margin of each choice in log-probability."""
    branches, tokens, margins = [list(prompt), *map(list, negatives)], [], []
    for _ in range(num_tokens):
        cond, *others = (
            model(torch.tensor([b], device=model.device)).logits[0, -1].float().log_softmax(-1) for b in branches
        )
        if space == "log":
            guided = (1 - sum(weights)) * cond + sum(w * o for w, o in zip(weights, others))
        else:
            guided = (1 - sum(weights)) * cond.exp() + sum(w * o.exp() for w, o in zip(weights, others))
            guided = guided.clamp(min=0).log()
        best = guided.topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        for branch in branches:
            branch.append(tokens[-1])
    return tokens, margins


def assert_same(got, want, margins, tie=1e-4):
    """Equal token for token, but for what follows a tie within rounding."""
    for step, (a, b) in enumerate(zip(got, want, strict=True)):
        if a != b:
            assert margins[step] < tie, f"step {step}: {a} instead of {b}, whose margin is {margins[step]}"
            return


def run_to_the_end(engine):
    """Step until nothing is left: the tokens of the requests that ended well, and the errors of the others."""
    done, failed = {}, {}
    while not engine.is_idle:
        for progress in engine.step():
            if progress.error is not None:
                failed[progress.request_id] = progress.error
            elif progress.completion is not None:
                done[progress.request_id] = progress.completion.token_ids
    return done, failed
