"""The language experiment's ideas: a split that leaks nothing, a text of one's own, what heads look at, what learns."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from training import TEXT

from lit_hidden.callbacks import corpus
from lit_hidden.callbacks.heads import Heads
from lit_hidden.callbacks.text import NextToken, TextData
from lit_hidden.callbacks.transformer import LearnedEmbeddings, Transformer
from lit_hidden.code import spec
from lit_hidden.edge_popup import maskers
from lit_hidden.engine.network import make_module, network
from lit_hidden.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:only .* of the matrix weights")  # the rest are embeddings


def test_no_40_characters_of_the_test_stand_in_training_and_a_plain_split_would_leak():
    sha, documents = corpus.source()
    train, test = corpus.split(documents)
    learned = {text[n : n + 40] for text in train for n in range(len(text) - 39)}
    assert not any(text[n : n + 40] in learned for text in test for n in range(len(text) - 39))
    assert 0.08 < sum(map(len, test)) / sum(map(len, train + test)) <= 0.11
    assert not set(train) & set(test)
    assert set(train + test) < set(documents)
    text = "".join(documents)
    last = len(text) * 9 // 10
    assert sum(text[n : n + 40] in text[:last] for n in range(last, len(text) - 40, 400)) > 5
    assert corpus.read(sha)[0] == "".join(sorted(set("\n\n".join(train))))


def test_contained_documents_are_dropped_and_those_that_share_a_gram_are_on_one_side():
    random = np.random.default_rng(0)
    fresh = ["".join(random.choice(list("abcdefgh "), 400)) for _ in range(30)]
    linked = [fresh[0] + fresh[1][:40], fresh[1] + fresh[2][:40], fresh[2]]
    contained = fresh[5][10:200] + "z" * 150
    train, test = corpus.split([*linked, *fresh[3:], contained, fresh[6][:30]])
    assert sum(text in test for text in linked) in (0, 3)
    assert sorted(train + test) == sorted([*linked, *fresh[3:]])
    assert test


def test_windows_follow_each_other_and_targets_are_the_characters_after():
    data = TextData(held_out=0)
    data.setup()
    alphabet, train, test = corpus.read(corpus.source()[0])
    for split, symbols in (("train", train), ("test", test)):
        inputs, targets = (part.flatten().numpy() for part in data.splits[split])
        assert inputs.tolist() == symbols[: len(inputs)].tolist()
        assert targets.tolist() == symbols[1 : len(inputs) + 1].tolist()
        assert 0 < len(symbols) - len(inputs) <= 64
    assert data.sizes == tuple(len(data.splits[split][0]) for split in ("train", "test"))
    assert corpus.told(alphabet, test[:64].tolist()) == corpus.split(corpus.source()[1])[1][0][:64]


def test_a_text_of_ones_own_is_known_by_its_content_and_what_training_has_not_seen_is_symbol_0(tmp_path, monkeypatch):
    random = np.random.default_rng(1)
    paragraphs = ["".join(random.choice(list("etaoin shrdlu"), 900)) for _ in range(90)]
    written = "\n\n".join(paragraphs)
    for name in ("one.txt", "other.txt"):
        (tmp_path / name).write_text(written)
        monkeypatch.setenv("DATA", str(tmp_path / name))
        sha, documents = corpus.source()
        assert "".join(documents) == written
        assert all(4000 <= len(text) < 5000 for text in documents[:-1])
    (tmp_path / "other.txt").write_bytes(b"\xef\xbb\xbf" + written.replace("\n", "\r\n").encode())
    assert corpus.source() == (sha, documents), "a byte order mark and Windows' line ends are no content"
    for n in range(150):  # rare characters, more than there is room for
        paragraphs[n % 90] = paragraphs[n % 90][:400] + chr(0x100 + n) + paragraphs[n % 90][400:]
    (tmp_path / "other.txt").write_text("\n\n".join(paragraphs))
    there = corpus.source()[0]
    assert there != sha
    with pytest.raises(ValueError, match=f"the text {sha}, and here is {there}"):
        corpus.read(sha)
    alphabet, *parts = corpus.read(there)
    assert len(alphabet) == 127
    for symbols, texts in zip(parts, corpus.split(corpus.source()[1]), strict=True):
        known = "".join(one if one in alphabet else "\N{REPLACEMENT CHARACTER}" for one in "\n\n".join(texts))
        assert corpus.told(alphabet, symbols.tolist()) == known
        assert (symbols == 0).any()
    monkeypatch.setenv("DATA", str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match=r"none\.txt cannot be read: .*; give a text in UTF-8"):
        corpus.source()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"1 document\(s\) in 0 cluster"),
        ("a" * 90_000, r"document\(s\) in 1 cluster\(s\) leave none to test on"),
        ("too short", r"1 document\(s\) in 0 cluster\(s\) leave none to test on; give more text"),
        ("".join(map(chr, range(0x4E00, 0x9000))), "of the characters lie outside of 127; at most 1% may"),
    ],
)
def test_texts_that_cannot_be_learned_are_refused(text, message, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("\n\n".join(text[n : n + 1000] for n in range(0, len(text), 1000)))
    monkeypatch.setenv("DATA", str(tmp_path / "mine.txt"))
    with pytest.raises(ValueError, match=message):
        corpus.read(corpus.source()[0])


@pytest.mark.parametrize("end", ["\n", " ", ""])
def test_a_text_without_paragraphs_is_cut_after_a_line_or_a_word_or_anywhere(end, tmp_path, monkeypatch):
    random = np.random.default_rng(2)
    written = "".join("".join(random.choice(list("abcdefgh"), 9)) + end for _ in range(9_000))
    (tmp_path / "mine.txt").write_text(written)
    monkeypatch.setenv("DATA", str(tmp_path / "mine.txt"))
    sha, documents = corpus.source()
    assert "".join(documents) == written
    assert all(text.endswith(end) and 4000 <= len(text) <= 4010 for text in documents[:-2])
    assert min(map(len, corpus.read(sha)[1:])) > 4000


def test_bits_are_those_of_a_case_done_by_hand():
    chances = torch.tensor([[[0.5, 0.25, 0.25], [0.125, 0.375, 0.5]]])  # two characters after 1, then 0: 2 and 3 bits
    targets, task = torch.tensor([[1, 0]]), NextToken()
    assert task.measure(chances.log(), targets).item() == pytest.approx((2 + 3) / 2)
    assert task.loss(chances.log(), targets).item() == pytest.approx(2.5 * math.log(2))


def test_heads_look_where_the_product_of_queries_and_keys_says():
    data = TextData(held_out=0)
    data.setup()
    module = make_module(Run(**TEXT, density=0.5), data)
    heads = Heads(windows=3)
    heads.on_run_start(None, module, data, None)
    net, block, half = module.net, module.net.blocks[0], 32
    assert heads.twice[:, :half].equal(heads.twice[:, half:])

    def maps(characters):  # width 0.25: one head of 16 units
        x = block.norm1(net.token(characters) + net.place)
        queries, keys, _ = (x @ block.attention.in_proj_weight.T).chunk(3, -1)
        scores = queries @ keys.mT / 4 + torch.full((64, 64), -math.inf).triu(1)
        return scores.softmax(-1).detach()

    read, twice = maps(data.splits["test"][0][:3]), maps(heads.twice)
    previous = np.mean([[one[t, t - 1].item() for t in range(1, 64)] for one in read])
    copying = np.mean([[one[t, t - half + 1].item() for t in range(half, 64)] for one in twice])
    assert heads.once[:, half:].equal(heads.twice[:, half:])
    assert (heads.once[:, :half] != heads.twice[:, :half]).any(1).all()

    def bits(characters):  # of the second half but its first character
        chances = net(characters).softmax(-1).detach()
        return np.mean([[-math.log2(chances[n, t, characters[n, t + 1]]) for t in range(half, 63)] for n in range(3)])

    found = heads._looked(module)
    np.testing.assert_allclose(found["previous"], [[100 * previous]], rtol=1e-4)
    np.testing.assert_allclose(found["copying"], [[100 * copying]], rtol=1e-4)
    assert found["copied"] == pytest.approx(bits(heads.once) - bits(heads.twice), abs=1e-4)
    flat = np.mean([1 / (t + 1) for t in range(1, 64)])
    assert previous == pytest.approx(flat, rel=0.5), "untrained attention is nearly flat"


class Copier(Transformer):
    """Surer of what followed 32 places ago; `Fading` is surer of one character early in a window than late."""

    def forward(self, characters, seen=None):
        super().forward(characters, seen)
        return 8.0 * functional.one_hot(characters.roll(31, 1), 128)


class Fading(Transformer):
    def forward(self, characters, seen=None):
        sure = torch.linspace(9, 0, 64)[:, None] * functional.one_hot(torch.tensor(1), 128)
        return super().forward(characters, seen) * 0 + sure


@pytest.mark.parametrize(("net", "gains"), [(Copier, True), (Fading, False)])
def test_a_net_that_copies_gains_and_one_whose_predictions_only_flatten_does_not(net, gains):
    data = TextData(held_out=0)
    data.setup()
    heads, module = Heads(windows=3), SimpleNamespace(net=net(1, False, width=0.25), training=False)
    module.eval = module.train = lambda *mode: module
    heads.on_run_start(None, module, data, None)
    assert heads.untrained["copied"] > 9 if gains else heads.untrained["copied"] == 0


@pytest.mark.parametrize("scores", [True, False])
def test_embeddings_and_head_learn_beside_the_scores_or_alone_and_the_net_comes_back(scores, trained):
    net = {"net": "transformer.learned_2", "optimizer": "adam", "lr": 0.01, "epochs": 1}
    run = Run(**TEXT | net, density=0.5, callbacks=(spec("transformer.LearnedEmbeddings", scores=scores),))
    folder, result = trained(run)
    data = TextData(held_out=0)
    data.setup()
    torch.manual_seed(0)
    before, after = make_module(run, data).net, network(run, folder)
    changed = {n for n, tensor in before.state_dict().items() if not tensor.equal(after.state_dict()[n])}
    own = {f"{name.replace('_proj_weight', '_proj')}" for name in maskers(before)}
    assert {n for n in changed if "scores" not in n} == {"token.weight", "head.weight"}
    assert sum("scores" in n for n in changed) == (len(own) if scores else 0)
    kept = {name: masker.mask() for name, masker in maskers(after).items()}
    assert result["parameters"] == sum(int(mask.sum()) for mask in kept.values())
    assert network(run, folder)(data.splits["test"][0][:2]).shape == (2, 64, 128)
    with pytest.raises(ValueError, match="is not hidden"):
        LearnedEmbeddings().on_run_start(None, SimpleNamespace(net=network_of(data)), data, None)


def network_of(data: TextData) -> torch.nn.Module:
    return make_module(Run(**TEXT | {"net": "transformer.learned_2"}), data).net


def test_a_net_writes_on_from_the_first_window_the_same_at_every_time(trained):
    sha = corpus.source()[0]
    run = Run(**TEXT | {"epochs": 1}, callbacks=(spec("text.Text", sha256=sha, characters=9),))
    folder, result = trained(run)
    alphabet, train, test = corpus.read(sha)
    with np.load(folder / "text.npz") as found:
        written = found["sample"].tobytes()
        begun = written[: found["prompt"]].decode()
    assert begun == corpus.told(alphabet, test[:64].tolist())
    assert len(written.decode()) == 64 + 9
    assert (result["train_characters"], result["test_characters"]) == (len(train), len(test))
