"""Solutions of lesson 5; each cell goes in place of the one with its number."""
# ruff: noqa: D103, F821


# %% exercise 1
def auxiliary_prompt(sentence):
    return f'The irrelevant information of this sentence : "{sentence}" means in one word:"'


check(1, auxiliary_prompt)


# %% exercise 2
def read_z(lens, prompt, layer):
    seen = {}

    def keep(tensor, hook):
        seen["z"] = tensor[0, -1]

    forward(lens, prompt, [(f"blocks.{layer}.attn.hook_z", keep)])
    return seen["z"]


check(2, read_z, lens)


# %% exercise 3
def scale(plus, minus, alpha):
    return alpha * (plus - minus)


def recover(plus, minus):
    difference = plus - minus
    return difference * plus.norm() / difference.norm()


check(3, scale, recover)


# %% exercise 4
def patch_last(new):
    def replace(tensor, hook):
        edited = tensor.clone()
        edited[:, -1] = new
        return edited

    return replace


check(4, patch_last)


# %% exercise 5
def recovered(patched, clean, corrupted):
    return (patched - corrupted) / (clean - corrupted)


check(5, recovered)


# %% exercise 6
def alpha_effect(lens, sentence, position):
    one, three = (
        dl.ContrastivePrompting(lens, layer=1, alpha=alpha, position=position)
        .encode([sentence])
        .vectors[0]
        for alpha in (1.0, 3.0)
    )
    return float((three - one).norm() / one.norm())


gemma = dl.load_model("gemma-3-270m")
check(6, alpha_effect, lens, gemma)

# %% quiz 1
quiz(1, "b")

# %% quiz 2
quiz(2, "c")

# %% quiz 3
quiz(3, "a")

# %% quiz 4
quiz(4, "b")
