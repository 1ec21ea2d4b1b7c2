"""Shared fixtures: where real data is, the embedded models, and tiny random models."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests import shapes

if os.environ.get("DYSEM_LAB_SHAPES"):  # before any module of ours is imported
    install_import_hook("dysem_lab", f"{shapes.__name__}.check_shapes")

from dysem_lab import paths

# A shared machine may be slow at any moment; time is not what the properties are about.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# Some tests take a part of their data, unless all is asked for.
WHOLE = bool(os.environ.get("DYSEM_LAB_WHOLE"))
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def sts_folder() -> Path:
    """Return the folder of real STS data, or skip where there is none."""
    named = os.environ.get(paths.DATA_VARIABLE)
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "stsb").is_dir():
        pytest.skip(f"real STS data is absent: no {folder}/stsb (set {paths.DATA_VARIABLE})")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep test vectors and translations out of the user's cache; converted models stay there."""
    models = paths.models_dir()
    cache = tmp_path_factory.mktemp("cache")
    (cache / "models").symlink_to(models, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.CACHE_VARIABLE, str(cache))
        yield


@pytest.fixture
def open_folder():
    """Return a temporary folder that everybody may enter, unlike one of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def _one_thread():
    """Run torch on one thread: where tensors are small, others of a busy machine only wait."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


SPECIAL = ("<pad>", "<s>", "</s>")


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE tokenizer without merges: any text in any language, one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def tiny_config(architecture: str, n_tokens: int, n_layers: int = 3):
    """Return the configuration of a random model: a few narrow blocks, grouped-query attention."""
    import transformers

    common = {
        "vocab_size": n_tokens,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    special = {
        "Llama": {},
        "Qwen2": {},
        "Qwen3": {"head_dim": 12},  # not hidden_size / heads
        "Phi3": {},
        "Mistral": {"sliding_window": 16},
        "Gemma2": {"head_dim": 8, "sliding_window": 16},
    }
    config = getattr(transformers, f"{architecture}Config")(**common, **special[architecture])
    config.architectures = [f"{architecture}ForCausalLM"]
    return config


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_tokenizer):
    """Return a function: architecture, number of blocks → folder with a random model."""
    import torch
    from transformers import AutoModelForCausalLM

    folders = {}

    def make(architecture: str = "Llama", n_layers: int = 3) -> Path:
        if (architecture, n_layers) not in folders:
            torch.manual_seed(0)
            config = tiny_config(architecture, len(tiny_tokenizer), n_layers)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            for weights in model.parameters():
                if weights.ndim > 1:
                    torch.nn.init.normal_(weights, std=0.2)
            folder = tmp_path_factory.mktemp(architecture.lower())
            model.save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            folders[architecture, n_layers] = folder
        return folders[architecture, n_layers]

    return make


@pytest.fixture(scope="session")
def tiny_lens(tiny_folder):
    """Return a random Llama as a loaded model."""
    from dysem_lab.models.loading import load_model

    return load_model(tiny_folder("Llama"))


@pytest.fixture(scope="session")
def plain_llama(tiny_folder):
    """Return the same random Llama, untouched by any bridge."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder("Llama"), dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def embedded():
    """Return a function: embedded name → loaded model, kept for the session."""
    from dysem_lab.models.embedded import EMBEDDED, installed_files
    from dysem_lab.models.loading import load_model

    loaded = {}

    def load(name: str):
        if installed_files(EMBEDDED[name]) is None:
            pytest.skip(f"{name} is not installed: {EMBEDDED[name].install}")
        if name not in loaded:
            loaded[name] = load_model(name)
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def demo():
    """Return the demo set in three languages."""
    from dysem_lab.data.sts import load_data

    return load_data("demo", languages=("en", "ja", "ru"))
