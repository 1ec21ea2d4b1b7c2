"""Solutions of lesson 1; each cell goes in place of the one with its number."""
# ruff: noqa: D103, F821


# %% exercise 1
def names_of(layer):
    block = f"blocks.{layer}"
    return [f"{block}.{name}" for name in ("hook_in", "hook_attn_out", "hook_mlp_out", "hook_out")]


check(1, names_of, lens, prompts)


# %% exercise 2
def keep(activation):
    return activation[:, -1]


check(2, keep)


# %% exercise 3
def rebuild(h0, attn, ffn):
    return h0[:, None] + (attn + ffn).cumsum(dim=1)


check(3, rebuild, acts)


# %% exercise 4
def share(parts, whole):
    return (parts @ whole) / (whole @ whole)


check(4, share, acts)

# %% exercise 5
component = "attn"

check(5, component, acts)

# %% quiz 1
quiz(1, "a")

# %% quiz 2
quiz(2, "c")

# %% quiz 3
quiz(3, "b")

# %% quiz 4
quiz(4, "a")
