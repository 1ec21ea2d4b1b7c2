"""dysem-lab: where in a language model does sentence meaning live?

The names below load on first use, so importing the package is quick and needs no model library.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from dysem_lab.startup import garbage_collection_paused

if TYPE_CHECKING:
    from dysem_lab.analyses.leaderboard import published_leaderboard as published_leaderboard
    from dysem_lab.analyses.leaderboard import score_systems as score_systems
    from dysem_lab.analyses.study import Study as Study
    from dysem_lab.analyses.transfer import compare_encoders as compare_encoders
    from dysem_lab.analyses.transfer import transfer_scores as transfer_scores
    from dysem_lab.consensus import consensus_set as consensus_set
    from dysem_lab.data.languages import LANGUAGES as LANGUAGES
    from dysem_lab.data.sts import STSData as STSData
    from dysem_lab.data.sts import load_data as load_data
    from dysem_lab.data.transfer_data import load_transfer as load_transfer
    from dysem_lab.encoders.aggregation import ValueAggregation as ValueAggregation
    from dysem_lab.encoders.base import MeanPooling as MeanPooling
    from dysem_lab.encoders.base import PromptEncoder as PromptEncoder
    from dysem_lab.encoders.contrastive import ContrastivePrompting as ContrastivePrompting
    from dysem_lab.encoders.dysem import DySem as DySem
    from dysem_lab.encoders.dysem import SemanticVectors as SemanticVectors
    from dysem_lab.encoders.dysem import n_dims as n_dims
    from dysem_lab.encoders.echo import Echo as Echo
    from dysem_lab.encoders.llm2vec import LLM2Vec as LLM2Vec
    from dysem_lab.encoders.prepending import TokenPrepending as TokenPrepending
    from dysem_lab.encoders.systems import named_systems as named_systems
    from dysem_lab.encoders.trained import PromptBERT as PromptBERT
    from dysem_lab.encoders.trained import SentenceBERT as SentenceBERT
    from dysem_lab.encoders.trained import SimCSE as SimCSE
    from dysem_lab.errors import DysemLabError as DysemLabError
    from dysem_lab.evaluate import aggregate_score as aggregate_score
    from dysem_lab.evaluate import paired_difference as paired_difference
    from dysem_lab.evaluate import score as score
    from dysem_lab.evaluate import score_table as score_table
    from dysem_lab.evaluate import spearman as spearman
    from dysem_lab.explorers.attention_explorer import explore_attention as explore_attention
    from dysem_lab.explorers.contrast_explorer import explore_contrast as explore_contrast
    from dysem_lab.explorers.dimension_explorer import explore_dimensions as explore_dimensions
    from dysem_lab.explorers.layer_explorer import explore_data_layers as explore_data_layers
    from dysem_lab.explorers.layer_explorer import explore_layers as explore_layers
    from dysem_lab.explorers.pair_explorer import explore_pair as explore_pair
    from dysem_lab.explorers.search_explorer import explore_search as explore_search
    from dysem_lab.figures.saving import save_figure as save_figure
    from dysem_lab.harnesses.mteb_api import mteb_model as mteb_model
    from dysem_lab.harnesses.mteb_api import mteb_scores as mteb_scores
    from dysem_lab.harnesses.sentence_api import sentence_encoder as sentence_encoder
    from dysem_lab.joint import all_pairs_similarity as all_pairs_similarity
    from dysem_lab.joint import joint_cosine as joint_cosine
    from dysem_lab.joint import joint_set as joint_set
    from dysem_lab.joint import pairwise_similarity as pairwise_similarity
    from dysem_lab.models.activations import capture as capture
    from dysem_lab.models.lens import LensModel as LensModel
    from dysem_lab.models.loading import load_model as load_model
    from dysem_lab.models.loading import presets as presets
    from dysem_lab.models.steering import Contrast as Contrast
    from dysem_lab.models.store import VectorStore as VectorStore
    from dysem_lab.prompts import wrap as wrap
    from dysem_lab.translation.apertium import ApertiumTranslator as ApertiumTranslator
    from dysem_lab.translation.translate import ParallelTable as ParallelTable
    from dysem_lab.translation.translate import Seq2SeqTranslator as Seq2SeqTranslator
    from dysem_lab.translation.translation_cache import CachedTranslator as CachedTranslator

_HOMES = {
    "models.activations": "capture",
    "encoders.aggregation": "ValueAggregation",
    "translation.apertium": "ApertiumTranslator",
    "explorers.attention_explorer": "explore_attention",
    "consensus": "consensus_set",
    "explorers.contrast_explorer": "explore_contrast",
    "encoders.contrastive": "ContrastivePrompting",
    "data.sts": "STSData load_data",
    "explorers.dimension_explorer": "explore_dimensions",
    "encoders.dysem": "DySem SemanticVectors n_dims",
    "encoders.echo": "Echo",
    "encoders.base": "MeanPooling PromptEncoder",
    "errors": "DysemLabError",
    "evaluate": "aggregate_score paired_difference score score_table spearman",
    "joint": "all_pairs_similarity joint_cosine joint_set pairwise_similarity",
    "data.languages": "LANGUAGES",
    "explorers.layer_explorer": "explore_data_layers explore_layers",
    "analyses.leaderboard": "published_leaderboard score_systems",
    "models.lens": "LensModel",
    "encoders.llm2vec": "LLM2Vec",
    "models.loading": "load_model presets",
    "harnesses.mteb_api": "mteb_model mteb_scores",
    "explorers.pair_explorer": "explore_pair",
    "encoders.prepending": "TokenPrepending",
    "prompts": "wrap",
    "figures.saving": "save_figure",
    "explorers.search_explorer": "explore_search",
    "harnesses.sentence_api": "sentence_encoder",
    "models.steering": "Contrast",
    "models.store": "VectorStore",
    "analyses.study": "Study",
    "encoders.systems": "named_systems",
    "encoders.trained": "PromptBERT SentenceBERT SimCSE",
    "analyses.transfer": "compare_encoders transfer_scores",
    "data.transfer_data": "load_transfer",
    "translation.translate": "ParallelTable Seq2SeqTranslator",
    "translation.translation_cache": "CachedTranslator",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__version__ = version("dysem-lab")
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dysem_lab' has no attribute {name!r}")
    with garbage_collection_paused():
        home = import_module(f"dysem_lab.{_MODULE_OF[name]}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
