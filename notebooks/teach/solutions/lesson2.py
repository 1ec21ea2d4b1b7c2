"""Solutions of lesson 2; each cell goes in place of the one with its number."""
# ruff: noqa: D103, F821

# %% exercise 1
shapes = {
    "value": (lens.n_kv_heads, lens.d_head),
    "z": (lens.n_heads, lens.d_head),
    "attn": (lens.d_model,),
}

check(1, shapes, lens)


# %% exercise 2
def for_every_head(values, n_heads):
    readers = n_heads // values.shape[-2]
    return values.repeat_interleave(readers, dim=-2)


check(2, for_every_head)


# %% exercise 3
def read(pattern, values):
    return torch.einsum("hqk,khd->qhd", pattern, values)


check(3, read, seen, layer)


# %% exercise 4
def write(z, W_O):
    return torch.einsum("hi,hid->hd", z, W_O)


check(4, write, z, W_O, attention_output)


# %% exercise 5
def on_first(pattern):
    return pattern[:, -1, 0]


check(5, on_first, seen, layer)

# %% quiz 1
quiz(1, "b")

# %% quiz 2
quiz(2, "c")

# %% quiz 3
quiz(3, "a")

# %% quiz 4
quiz(4, "b")
