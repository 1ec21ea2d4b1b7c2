"""Solutions of lesson 0; each cell goes in place of the one with its number."""
# ruff: noqa: D103, F821

# %% exercise 1
first = "The storm uprooted dozens of trees."
second = "Dozens of trees were torn out of the ground by the storm."

check(1, first, second)


# %% exercise 2
def place(similarity, others):
    return (others < similarity).float().mean()


check(2, place)

# %% exercise 3
tokens = why.table[why.table["of_text"].eq(True)].groupby("token")["contribution"].sum()
word = tokens.idxmax()

check(3, word, why)

# %% exercise 4
control = place(fresh_similarity, fresh_others)

check(4, control, fresh_similarity, fresh_others)

# %% exercise 5
supported = "B"

check(5, supported)

# %% quiz 1
quiz(1, "b")

# %% quiz 2
quiz(2, "c")

# %% quiz 3
quiz(3, "a")
