"""The STS tasks by name: their files, their published sizes, and where the hub has them."""

from typing import NamedTuple


class Task(NamedTuple):
    """Where one STS task lives."""

    # File names inside a local folder, in order of preference, without the suffix.
    folder: tuple[str, ...]
    sizes: dict[str, int]  # split → published number of pairs
    # Hub data set id of the English pairs; empty where the hub has no such form of them.
    hub: str = ""
    revision: str = ""  # its pinned commit
    part: str = ""  # only the pairs of this subset count; empty for all of them


STSB_SIZES = {"test": 1379, "dev": 1500}
SICK_TEST_SIZES = {"test": 4927}
# Tasks by name: a plain name is what MTEB scores (and DySem reports), a suffix another form of the
# same task. Papers that use SentEval (SimCSE, PromptEOL, CP) report STS12 … STS16 and the two forms
# named after it. All but STSB, SICKR and SICKR-test are in English only.
#
# name                   pairs                       text
# STS12 … STS16          all with a rating           Moses tokens, lower-cased (MTEB and SentEval)
# STS12-raw … STS16-raw  the same                    as SemEval released it
# STSB                   test or dev                 as released (MTEB)
# STSB-senteval          the same                    Moses tokens, lower-cased (SentEval)
# SICKR                  all 9,927                   as released (MTEB)
# SICKR-test             the 4,927 of the test part  as released
# SICKR-senteval         the same 4,927              Moses tokens (SentEval)
TASKS: dict[str, Task] = {
    **{
        f"STS{year}": Task(
            (f"en_mteb/STS{year}",), {"test": n_pairs}, f"mteb/sts{year}-sts", revision
        )
        for year, n_pairs, revision in (
            (12, 3108, "a0d554a64d88156834ff5ae9920b964011b16384"),
            (13, 1500, "7e90230a92c190f1bf69ae9002b8cea547a64cca"),
            (14, 3750, "6031580fec1f6af667f0bd2da0a551cf4f0b2375"),
            (15, 3000, "ae752c7c21bf194d8b67fd573edf7ae58183cbe3"),
            (16, 1186, "4d8694f8f0e0100860b497b999b3dbed754a0513"),
        )
    },
    "STSB": Task(
        ("stsb/{split}.{language}", "stsb/partial/{split}.{language}"),
        STSB_SIZES,
        "mteb/stsbenchmark-sts",
        "b0fddb56ed78048fa8b90373c8a3cfc37b684831",
    ),
    "SICKR": Task(
        ("sick/SICK.{language}",),
        {"test": 9927},
        "mteb/sickr-sts",
        "20a6d6f312dd54037fe07a32d58e5e168867909d",
    ),
}
TASKS |= {
    **{
        f"STS{year}-raw": Task((f"en/STS{year}",), TASKS[f"STS{year}"].sizes)
        for year in range(12, 17)
    },
    "STSB-senteval": Task(("en_senteval/STSB.{split}",), STSB_SIZES),
    "SICKR-test": Task(("sick/SICK.{language}",), SICK_TEST_SIZES, part="TEST"),
    "SICKR-senteval": Task(("en_senteval/SICK-R.test",), SICK_TEST_SIZES),
}
# MTEB's copy of PhilipMay/stsb_multi_mt: STS-B in ten languages (DeepL, not corrected). It has no
# Japanese, Korean, Arabic and Hindi.
MULTILINGUAL_STSB = ("mteb/stsb_multi_mt", "29afa2569dcedaaa2fe6a3dcfebab33d28b82e8c")
MULTILINGUAL_BY = "DeepL"
HUB_LANGUAGES = ("en", "zh", "fr", "de", "es", "ru", "it", "pt")  # of these and of ours
