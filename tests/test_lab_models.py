"""The models of the laboratory: their sizes are the published ones, their special layers do what they say."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from rotational.lab.declare import Model
from rotational.lab.models import MODELS, ImageForm, PairForm, TextForm, beam, build, layers
from rotational.lab.models.gpt import GPT, Shape
from rotational.lab.models.seq2seq import BOS, EOS, PAD, Seq2Seq, positions
from rotational.lab.models.seq2seq import Shape as PairShape
from rotational.lab.models.vgg import VGG
from rotational.layers import groups, partition

CIFAR, IMAGENET = ImageForm(10, 3, 32), ImageForm(1000, 3, 224)
SMALL = ImageForm(10, 3, 16)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Sizes ----------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "resnet20": (Model("resnet20"), CIFAR, 272_474),  # He et al. 2016: 0.27M; with option B shortcuts
    "resnet18": (Model("resnet18"), CIFAR, 11_173_962),  # kuangliu/pytorch-cifar: 11.17M
    "resnet50": (Model("resnet50"), IMAGENET, 25_557_032),  # torchvision
    "deit_tiny": (Model("deit_tiny"), IMAGENET, 5_717_416),  # Touvron et al. 2020, timm
    "gpt2": (Model("gpt2"), TextForm(50_257, 1024), 124_439_808),  # Radford et al. 2019
    "vgg13": (Model("vgg13", features=4096, window=7), IMAGENET, 133_047_848),  # torchvision
    "vgg13_bn": (Model("vgg13", features=4096, window=7, norm="batch"), IMAGENET, 133_053_736),  # torchvision
}


@pytest.mark.parametrize(("model", "form", "expected"), PUBLISHED.values(), ids=PUBLISHED)
def test_sizes_are_the_published_ones(model, form, expected):
    with torch.device("meta"):
        assert size(build(model, form)) == expected


def test_the_translator_is_fairseqs_layer_by_layer():
    width, inner, source, target = 512, 1024, 8848, 6632
    attention, mlp, norm = 4 * (width**2 + width), 2 * width * inner + inner + width, 2 * width
    encoder, decoder = 6 * (attention + mlp + 2 * norm), 6 * (2 * attention + mlp + 3 * norm)
    with torch.device("meta"):
        model = build(Model("transformer"), PairForm(source, target))
    assert size(model) == encoder + decoder + (source + target) * width == 39_469_056


def test_a_width_factor_scales_channels():
    half = build(Model("resnet20", width=0.5), CIFAR)
    assert next(m.out_channels for m in half.modules() if isinstance(m, nn.Conv2d)) == 8
    assert size(half) < 0.26 * size(build(Model("resnet20"), CIFAR))


# Every model ----------------------------------------------------------------------------------------------------

EVERY = {
    "resnet20": (Model("resnet20", width=0.25), SMALL),
    "resnet20 layer ws": (Model("resnet20", width=0.25, norm="layer", layers="ws"), SMALL),
    "resnet20 leaky": (Model("resnet20", width=0.25, activation="leaky_relu"), SMALL),
    "resnet18": (Model("resnet18", width=0.1, norm="layer"), SMALL),
    "resnet50": (Model("resnet50"), ImageForm(5, 3, 64)),
    "vgg13": (Model("vgg13", width=0.1, features=16), CIFAR),
    "vgg13 tracked": (Model("vgg13", width=0.1, features=16, layers="tracked"), CIFAR),
    "vgg13 at another side": (Model("vgg13", width=0.1, features=16, norm="batch"), ImageForm(10, 3, 96)),
    "vgg_small": (Model("vgg_small", width=0.25, layers="ws"), SMALL),
    "vit": (Model("vit", width=24, heads=3, blocks=2), SMALL),
    "deit_tiny": (Model("deit_tiny"), ImageForm(10, 3, 32)),
    "mlp": (Model("mlp", norm="batch"), ImageForm(10, 1, 8)),
    "gpt": (Model("gpt", width=16, blocks=1, heads=2), TextForm(30, 12)),
    "gpt ws": (Model("gpt", width=16, blocks=2, heads=2, layers="ws", dropout=0.1), TextForm(30, 12)),
    "gpt gained": (Model("gpt", width=16, blocks=2, heads=2, layers="gained", residual=True), TextForm(30, 12)),
    "transformer": (Model("transformer", width=16, inner=8, heads=2, blocks=1), PairForm(20, 25)),
    "transformer pre": (Model("transformer", width=16, heads=2, blocks=1, order="pre"), PairForm(20, 25)),
    "transformer gained": (Model("transformer", width=16, heads=2, blocks=1, layers="gained"), PairForm(20, 25)),
}


def answer(model: nn.Module, form: ImageForm | TextForm | PairForm) -> tuple[torch.Tensor, tuple[int, ...]]:
    g = torch.Generator().manual_seed(0)
    if isinstance(form, ImageForm):
        return model(torch.randn(2, form.channels, form.side, form.side, generator=g)), (2, form.classes)
    if isinstance(form, TextForm):
        x = torch.randint(form.vocabulary, (2, form.context), generator=g)
        return model(x), (2, form.context, form.vocabulary)
    source, target = torch.randint(4, 20, (2, 6), generator=g), torch.randint(4, 20, (2, 5), generator=g)
    return model(source, target), (2, 5, form.target)


@pytest.mark.parametrize(("model", "form"), EVERY.values(), ids=EVERY)
def test_a_model_answers_trains_and_is_known_neuron_by_neuron(model, form):
    made = build(model, form)
    out, shape = answer(made, form)
    assert out.shape == shape
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    with warnings.catch_warnings():  # a layer that nobody knows would warn here
        warnings.simplefilter("error")
        known = groups(made, weight_decay=0.1)
    matrices = {n for n, p in made.named_parameters() if p.ndim > 1 and n != "positions.weight"}
    assert set(partition(made)) == matrices
    assert len(known) == 2


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_from_the_seed_and_leave_torchs_generator_alone(name):
    model, form = next((m, f) for m, f in EVERY.values() if m.name == name) if name != "gpt2" else EVERY["gpt"]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, two, other = (build(model, form, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


# Options --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "a name": (Model("resnet21"), CIFAR, ValueError, r"Model\('resnet21'\): no such name; write 'resnet20'"),
    "an option": (Model("resnet20", witdh=2.0), CIFAR, TypeError, "witdh=2.0.*no such option; write 'width'"),
    "a type": (Model("gpt", width="64"), TextForm(9, 4), TypeError, "expected a whole number, such as 64; got str"),
    "a truth": (Model("gpt", width=True), TextForm(9, 4), TypeError, "expected a whole number, such as 64; got bool"),
    "a sign": (Model("gpt", width=-4), TextForm(9, 4), ValueError, "expected a number of 0 or above"),
    "a kind": (Model("vgg13", layers="wz"), CIFAR, ValueError, "expected one of 'plain', 'ws', 'gained', 'tracked'"),
    "a norm": (Model("resnet20", norm="group"), CIFAR, ValueError, "expected one of 'batch', 'layer', 'none'"),
    "an order": (Model("transformer", order="mid"), PairForm(9, 9), ValueError, "expected one of 'post', 'pre'"),
    "other data": (Model("gpt"), CIFAR, ValueError, "the data is images; expected one of resnet20"),
    "heads": (Model("gpt", width=10), TextForm(9, 4), ValueError, "expected heads that divide the width"),
    "a patch": (Model("vit", patch=5), SMALL, ValueError, "a patch that divides the image's side, 16"),
    "a drop": (Model("vit", drop_path=1.0), SMALL, ValueError, "expected a probability below 1"),
}


@pytest.mark.parametrize(("model", "form", "error", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_becomes_a_sentence(model, form, error, says):
    with pytest.raises(error, match=says):
        build(model, form)


def test_a_whole_number_passes_where_a_float_is_expected():
    assert size(build(Model("resnet20", width=1), CIFAR)) == 272_474


# Layers that use another matrix ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ws", "gained", "tracked"])
@pytest.mark.parametrize("make", [lambda k: layers.linear(k, 20, 6), lambda k: layers.conv(k, 5, 6, 2)])
def test_what_a_layer_uses(kind, make):
    torch.manual_seed(0)
    layer = make(kind)
    with torch.no_grad():
        layer.weight.mul_(3).add_(0.5)
        layer.gain.uniform_(0.5, 2)
    layers.settle(layer)
    used, rows = layer.used().detach().flatten(1), layer.weight.detach().flatten(1)
    gain = layer.gain.detach()[:, None]
    if kind == "gained":
        torch.testing.assert_close(used, gain * rows)
    elif kind == "tracked":  # at first the tracked moments are the weight's own: only the mean goes
        torch.testing.assert_close(used, gain * (rows - rows.mean()), rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(used.mean(1), torch.zeros(6), atol=1e-6, rtol=0)
        expected = (gain[:, 0] * rows.std()).abs()
        torch.testing.assert_close(used.square().mean(1).sqrt(), expected, rtol=1e-4, atol=0)


def radial(layer: nn.Module) -> float:
    """|cos| between gradient and weights, the largest of all neurons."""
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(1))
    layer.zero_grad()
    layer(x).relu().square().mean().backward()
    return float(torch.cosine_similarity(layer.weight.grad, layer.weight.detach(), dim=1).abs().max())


def test_standardized_neurons_are_scale_invariant_and_tracked_ones_are_not():
    torch.manual_seed(0)
    assert radial(layers.linear("ws", 20, 6)) < 1e-3
    assert radial(layers.linear("tracked", 20, 6)) > 0.05
    assert radial(layers.linear("gained", 20, 6)) > 0.05


def test_tracked_moments_follow_the_weight_in_training_only():
    torch.manual_seed(0)
    layer = layers.linear("tracked", 200, 50)
    before = float(layer.variance)
    with torch.no_grad():
        layer.weight.mul_(2)
    x = torch.randn(4, 200)
    layer.eval()
    layer(x)
    assert float(layer.variance) == before
    layer.train()
    first = layer(x).detach().std()
    for _ in range(700):
        layer(x)
    assert float(layer.variance) == pytest.approx(4 * before, rel=0.01)
    assert float(layer(x).detach().std()) == pytest.approx(float(first) / 2, rel=0.02)
    assert {"mean", "variance", "spread"} <= layer.state_dict().keys()


def test_convolutions_start_as_he_et_al_say_whatever_their_kind():
    for kind in ("plain", "ws"):
        model = build(Model("resnet20", layers=kind), CIFAR)
        conv = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]
        used = conv.used() if kind == "ws" else conv.weight
        assert float(used.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_layers_that_end_residual_paths_start_smaller():
    model = GPT(Shape(30, width=64, blocks=8, std=0.02, residual=True))
    assert float(model.blocks[0].down.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.05)
    assert float(model.blocks[0].up.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_the_demos_model_is_the_small_gpt():
    from rotational.lab import gpt

    assert gpt.GPT is GPT
    assert gpt.Shape is Shape


def test_vgg_without_a_norm_has_none():
    assert not any(isinstance(m, nn.BatchNorm2d) for m in VGG(10, 3, features=8, window=1).modules())


# Translation ----------------------------------------------------------------------------------------------------


def test_a_part_that_is_left_out_of_some_images_is_whole_on_average():
    x = torch.randn(2000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = build(Model("vit", width=8, heads=2, blocks=1), ImageForm(10, 3, 8))
    block, tokens = (
        model.blocks[0],
        model.positions(torch.cat([x.new_zeros(2000, 1, 8), x.view(2000, 4, 48)[..., :8]], 1)),
    )
    block.norm2.weight.data.zero_()  # the MLP then adds nothing, and attention is all there is
    whole = block(tokens)
    block.drop = 0.25
    assert torch.equal(block.eval()(tokens), whole)
    torch.manual_seed(1)
    some = block.train()(tokens)
    step, taken = whole - tokens, some - tokens
    out = (taken.abs().amax((1, 2)) < 1e-6).double().mean()
    assert float(out) == pytest.approx(0.25, abs=0.03)
    left = taken[taken.abs().amax((1, 2)) > 1e-6]
    assert torch.allclose(left, step[taken.abs().amax((1, 2)) > 1e-6] / 0.75, atol=1e-5)
    drops = [b.drop for b in build(Model("deit_tiny", drop_path=0.11), ImageForm(10, 3, 32)).blocks]
    assert drops == pytest.approx([0.01 * i for i in range(12)])


@pytest.fixture
def translator():
    torch.manual_seed(0)
    return Seq2Seq(PairShape(12, 11, width=16, inner=16, heads=2, blocks=2, dropout=0.0)).eval()


@torch.no_grad()
def test_padding_and_the_future_change_nothing(translator):
    source, target = torch.tensor([[4, 5, 6, EOS]]), torch.tensor([[BOS, 4, 5, 6]])
    plain = translator(source, target)
    filled = translator(torch.tensor([[4, 5, 6, EOS, PAD, PAD]]), target)
    torch.testing.assert_close(filled, plain)
    other = translator(source, torch.tensor([[BOS, 4, 5, 9]]))
    torch.testing.assert_close(other[:, :3], plain[:, :3])
    assert not torch.allclose(other[:, 3], plain[:, 3])
    torch.testing.assert_close(translator.decode(target, *translator.encode(source), last=True), plain[:, -1:])


def test_positions_are_sines_of_falling_frequency():
    where = positions(torch.zeros(1, 50, dtype=torch.long), 8)
    assert where.shape == (50, 8)
    torch.testing.assert_close(where[:, :4].square() + where[:, 4:].square(), torch.ones(50, 4))
    assert float(where[1, 3]) == pytest.approx(1e-4)


@torch.no_grad()
def score(model: Seq2Seq, source: torch.Tensor, said: list[int]) -> float:
    target = torch.tensor([[BOS, *said, EOS]])
    chances = model(source, target[:, :-1])
    chances[..., [PAD, BOS]] = -torch.inf
    return float(chances.log_softmax(2)[0].gather(1, target[0, 1:, None]).mean())


def every(words: list[int], longest: int) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for sentence in found:
        if len(sentence) < longest:
            found += [[*sentence, w] for w in words]
    return found


def test_a_wide_beam_finds_the_best_of_all_sentences(translator):
    torch.manual_seed(3)
    with torch.no_grad():
        for p in translator.parameters():
            p.mul_(1.5)
    source = torch.tensor([[4, 7, 5, EOS], [9, 6, EOS, PAD]])
    found = beam.search(translator, source, beam=200, ratio=0.0, extra=3)
    words = [s for s in range(11) if s not in (PAD, BOS, EOS)]
    for row, said in zip(source, found, strict=True):
        alone = row[row != PAD][None]
        best = max(every(words, 2), key=lambda s: score(translator, alone, s))
        assert score(translator, alone, said) == pytest.approx(score(translator, alone, best), abs=1e-5)


def test_a_beam_of_one_takes_the_likeliest_word_each_time(translator):
    source = torch.tensor([[4, 7, 5, EOS]])
    (found,) = beam.search(translator, source, beam=1, ratio=0.0, extra=6)
    said: list[int] = []
    with torch.no_grad():
        while len(said) < 5:
            chances = translator(source, torch.tensor([[BOS, *said]]))[0, -1]
            chances[[PAD, BOS]] = -torch.inf
            if int(chances.argmax()) == EOS:
                break
            said.append(int(chances.argmax()))
    assert found == said


def test_sentences_are_translated_alike_alone_and_together(translator):
    source = torch.tensor([[4, 7, 5, EOS, PAD], [9, 6, 4, 4, EOS], [5, EOS, PAD, PAD, PAD]])
    together = beam.search(translator, source, beam=3, ratio=0.0, extra=8)
    alone = [beam.search(translator, s[s != PAD][None], beam=3, ratio=0.0, extra=8)[0] for s in source]
    assert together == alone
