"""dysem-lab: where in a language model does sentence meaning live?

The names of `__init__.pyi` load on first use, so importing the package is quick and needs no model
library. They are, in the order of the data flow:

- texts and renderings: `load_data`, `load_transfer`, `STSData`, `LANGUAGES`, `ParallelTable`,
  `ApertiumTranslator`, `Seq2SeqTranslator`, `CachedTranslator`, `translated`, `paraphrased`, `wrap`
- a model and its vectors: `load_model`, `presets`, `LensModel`, `untrained`, `capture`,
  `capture_pair`, `read_corpus`, `VectorStore`
- verbs on a forward pass: `ablate`, `patch`, `contrast` (`Contrast`), `logit_lens`,
  `next_token_probabilities`
- the mathematics: `consensus_set`, `joint_set`, `joint_cosine`, `pairwise_similarity`,
  `all_pairs_similarity`, `spearman`, `score`, `score_table`, `aggregate_score`,
  `paired_difference`, `Directions`
- systems: `DySem`, `ContrastivePrompting`, `PromptEncoder`, `MeanPooling`, `EmbedFilter`, `Echo`,
  `GenEOL`, `ValueAggregation`, `KVEmbedding`, `TokenPrepending`, `SentenceBERT`, `SimCSE`,
  `PromptBERT`, `LLM2Vec`, all by `named_systems`; what they give: `SemanticVectors`, `n_dims`;
  changed by what other texts have in common: `Transform`; for other libraries:
  `sentence_encoder`, `mteb_model`, `mteb_scores`; scored: `score_systems`,
  `published_leaderboard`, `transfer_scores`, `compare_encoders`
- a corpus on disk: `SemanticIndex`
- questions of a `Study`, each a `Finding`: `decomposition`, `random_sets`, `components`,
  `languages`, `language_overlap`, `m_sweep`, `prompt_vector`, `k_sweep`, `templates`, `layers`,
  `layer_choice`, `main_results`, `ladder`, `honest_choice`, `stability`, `selection_frequency`,
  `translators`, `contrast_gains`, `layer_alpha`, `output_layers`, `auxiliary_prompts`,
  `positions`, `cp_with_dysem`, `predictions`, `stream_change`, `cost`, `transfer`, `leaderboard`,
  `audit`, `set_ablation`, `set_interchange`, `heads`, `residuals`, `faithfulness`,
  `head_patching`, `concept`; `save_figure` writes any other figure as they are written
- questions of a few texts: `explain`, `explain_difference`, `head_ablation`, `pair`,
  `pair_layer_curves`, `layer_curves`, `dimension`, `attention`, `contrast_effect`,
  `patch_effect`, `search`
- explorers of these in a notebook: `explore_pair`, `explore_layers`, `explore_data_layers`,
  `explore_dimensions`, `explore_attention`, `explore_contrast`, `explore_search`, `explore_patch`;
  as pages that need nothing: `export_explorer`
- errors: `DysemLabError`
"""

from importlib.metadata import version

import lazy_loader

from dysem_lab.startup import garbage_collection_paused, let_waiting_threads_sleep

let_waiting_threads_sleep()
__version__ = version("dysem-lab")
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    with garbage_collection_paused():
        return _load(name)
