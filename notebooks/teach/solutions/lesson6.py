"""Solutions of lesson 6; each cell goes in place of the one with its number."""
# ruff: noqa: D103, F821


# %% exercise 1
def read_out(lens, stream):
    return lens.bridge.unembed(lens.bridge.ln_final(stream[None]))[0].softmax(-1)


check(1, read_out, lens)


# %% exercise 2
def settled(probabilities, token):
    first = len(probabilities)
    while first > 0 and probabilities[first - 1].argmax() == token:
        first -= 1
    return first


check(2, settled)


# %% exercise 3
def ablate(head):
    def remove(tensor, hook):
        edited = tensor.clone()
        if head is None:
            edited[:, -1] = 0
        else:
            edited[:, -1, head] = 0
        return edited

    return remove


check(3, ablate)


# %% exercise 4
def drop(before, after, token):
    return (before[token].log() - after[token].log()).item()


check(4, drop)


# %% exercise 5
def random_like(vector, seed):
    drawn = torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed))
    return drawn * vector.norm() / drawn.norm()


check(5, random_like)


# %% exercise 6
def p_value(effect, controls):
    return (1 + sum(abs(control) >= abs(effect) for control in controls)) / (1 + len(controls))


check(6, p_value)

# %% quiz 1
quiz(1, "c")

# %% quiz 2
quiz(2, "a")

# %% quiz 3
quiz(3, "b")

# %% quiz 4
quiz(4, "c")
