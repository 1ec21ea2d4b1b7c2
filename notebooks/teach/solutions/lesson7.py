"""Solutions of lesson 7; each cell goes in place of the one with its number."""
# ruff: noqa: D103, F821


# %% exercise 1
def random_sets(sizes, d, seed):
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(len(sizes), d, generator=generator).argsort(-1).argsort(-1)
    return place < sizes[:, None]


check(1, random_sets)


# %% exercise 2
def fair_gain(table, method):
    own = table[table["method"] == method].iloc[0]
    same_layer = table["output_layer"] == own["output_layer"]
    baseline = table[(table["method"] == "plain") & same_layer].iloc[0]
    return own["spearman"] - baseline["spearman"]


check(2, fair_gain)


# %% exercise 3
def seen_before(dev, test):
    def form(pair):
        return frozenset(sentence.strip().lower() for sentence in pair)

    known = {form(pair) for pair in dev}
    return sum(form(pair) in known for pair in test)


check(3, seen_before)


# %% exercise 4
def honest_score(dev, test):
    return test[max(dev, key=dev.get)]


check(4, honest_score)


# %% exercise 5
def paired_interval(a, b, gold, seed):
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(400):
        drawn = rng.integers(0, len(gold), len(gold))
        differences.append(dl.spearman(a[drawn], gold[drawn]) - dl.spearman(b[drawn], gold[drawn]))
    return np.quantile(differences, [0.025, 0.975])


check(5, paired_interval)


# %% exercise 6
def share_of_averaging(table):
    scores = table.set_index(["rung", "vector"])["spearman"]
    source = scores["source, all d", "source"]
    return (scores["mean, all d", "mean"] - source) / (scores["top k", "mean"] - source)


check(6, share_of_averaging, table)

# %% quiz 1
quiz(1, "a")

# %% quiz 2
quiz(2, "c")

# %% quiz 3
quiz(3, "b")

# %% quiz 4
quiz(4, "a")
