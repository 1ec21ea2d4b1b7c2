"""Solutions of lesson 4; each cell goes in place of the one with its number."""
# ruff: noqa: D103, F821


# %% exercise 1
def consensus(vectors):
    return (vectors > 0).all(dim=0)


check(1, consensus)


# %% exercise 2
def select(vectors, Ix, k):
    keys = vectors.mean(dim=0).masked_fill(~Ix, -torch.inf)
    S = torch.zeros_like(Ix)
    S[keys.topk(min(k, len(keys))).indices] = True
    return S & Ix


check(2, select)


# %% exercise 3
def joint(Sx, Sy):
    return Sx | Sy


check(3, joint)


# %% exercise 4
def sim(vx, vy, U):
    x, y = vx * U, vy * U
    return x @ y / (x.norm() * y.norm())


check(4, sim)


# %% exercise 5
def sizes(vectors):
    m = vectors.shape[1]
    in_all = [(vectors[:, :j] > 0).all(dim=1) for j in range(1, m + 1)]
    return torch.tensor([Ix.sum(dim=1).float().mean() for Ix in in_all])


check(5, sizes, vectors)

# %% quiz 1
quiz(1, "b")

# %% quiz 2
quiz(2, "a")

# %% quiz 3
quiz(3, "c")

# %% quiz 4
quiz(4, "b")
