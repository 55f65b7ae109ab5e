"""Where kernels run, and that they are what the plain layers are: values, first and second derivatives."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch_geometric.nn import GATv2Conv, GCNConv

from merc.graphs import DAGEncoder, GraphBuilder
from merc.kernels import DAGLayer, Dropout, Turns, choose, dag_layer, graph_attention, graph_convolution
from support.made_batches import make_batch

D = 4


def gat(batch, dtype):
    edges = replace(batch.edges["text"], attributes=batch.edges["text"].attributes.to(dtype))
    layer = GATv2Conv(D, D // 2, heads=2, edge_dim=edges.attributes.shape[1], add_self_loops=False)
    return layer, graph_attention, (edges,), (edges.index, edges.attributes)


def gcn(batch, dtype):
    edges = replace(batch.edges["text"], weight=batch.edges["text"].weight.to(dtype))
    return GCNConv(D, D, normalize=False), graph_convolution, (edges,), (edges.index, edges.weight)


def dag(batch, dtype):
    turns = Turns.of(batch, *DAGEncoder(D, omega=2).edges(batch), dtype)
    return DAGLayer(D), dag_layer, (turns,), (turns,)


LAYERS = {"gat": gat, "gcn": gcn, "dag": dag}


@pytest.fixture(params=LAYERS)
def case(request):
    """A layer, the function that may take its kernel, what either takes beside the hidden states, and these states."""

    def make(dtype):
        torch.manual_seed(0)
        batch = make_batch([3, 1, 5], {"text": 6}, absent=0.3)
        batch.edges["text"] = GraphBuilder(past=2, future=2, speaker=1, similar=1)(batch, "text")
        layer, chosen, ours, plain = LAYERS[request.param](batch, dtype)
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.5)
        return layer.to(dtype), chosen, ours, plain, torch.randn(9, D, dtype=dtype, requires_grad=True)

    return make


@pytest.fixture
def taken(monkeypatch):
    """Counts how often a kernel was taken."""
    calls = []
    original = choose.hand_written

    def counted(*tensors):
        calls.append(original(*tensors))
        return calls[-1]

    monkeypatch.setattr(choose, "hand_written", counted)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_are_their_layers(case, dtype, taken):
    layer, chosen, ours, plain, hidden = case(dtype)
    inputs = [hidden, *layer.parameters()]
    found, expected = chosen(layer, hidden, *ours), layer(hidden, *plain)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, weight), torch.autograd.grad(expected, inputs, weight), atol=1e-5, rtol=1e-5
    )
    with torch.no_grad():
        torch.testing.assert_close(chosen(layer, hidden, *ours), expected)
    assert taken == [True, True]


def test_second_derivatives_are_those_of_the_layer(case, taken):
    layer, chosen, ours, plain, hidden = case(torch.double)
    inputs = [hidden, *layer.parameters()]

    def second(out):
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        return first, torch.autograd.grad(sum(x.pow(3).sum() for x in first), inputs)

    torch.testing.assert_close(second(chosen(layer, hidden, *ours)), second(layer(hidden, *plain)))
    assert taken == [True]


def test_second_derivatives_are_the_derivatives_of_the_first(case):
    layer, chosen, ours, _, hidden = case(torch.double)
    names = [name for name, _ in layer.named_parameters()]

    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, hidden):
            return chosen(self.layer, hidden, *ours)

    def call(hidden, *parameters):
        named = {f"layer.{name}": value for name, value in zip(names, parameters, strict=True)}
        return functional_call(Chosen(), named, (hidden,))

    inputs = (hidden, *layer.parameters())
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_an_input_made_from_another_counts_once(case):
    """A weight that depends on the hidden states: their second derivative must not count the way through it twice."""
    layer, chosen, ours, plain, hidden = case(torch.double)
    name, weight = next(iter(layer.named_parameters()))

    class Chosen(nn.Module):
        def __init__(self, run):
            super().__init__()
            self.layer, self.run = layer, run

        def forward(self, hidden):
            return self.run(hidden)

    def second(run):
        made = {f"layer.{name}": weight * hidden.square().mean()}
        out = functional_call(Chosen(run), made, (hidden,))
        (first,) = torch.autograd.grad(out.square().sum(), hidden, create_graph=True)
        return torch.autograd.grad(first.square().sum(), hidden)

    ours_twice = second(lambda hidden: chosen(layer, hidden, *ours))
    torch.testing.assert_close(ours_twice, second(lambda hidden: layer(hidden, *plain)))


def test_a_graph_can_be_walked_twice_and_not_after_it_is_freed(case):
    layer, chosen, ours, _, hidden = case(torch.float32)
    loss = chosen(layer, hidden, *ours).square().sum()
    (first,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (second,) = torch.autograd.grad(loss, hidden)
    torch.testing.assert_close(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, hidden)


@pytest.mark.parametrize("frozen", ["hidden", "parameters"])
def test_what_needs_no_gradient_gets_none(case, frozen, taken):
    layer, chosen, ours, _, hidden = case(torch.float32)
    if frozen == "hidden":
        hidden.requires_grad_(False)
    else:
        layer.requires_grad_(False)
    chosen(layer, hidden, *ours).sum().backward()
    assert (hidden.grad is None) == (frozen == "hidden")
    assert all((p.grad is None) == (frozen == "parameters") for p in layer.parameters())
    assert taken == [True]


@pytest.mark.parametrize("attribute", ["attributes", "weight"])
def test_edges_that_learn_take_the_layer_itself(attribute):
    batch = make_batch([3, 5], {"text": 6})
    batch.edges["text"] = GraphBuilder()(batch, "text")
    layer, chosen, (edges,), _ = (gat if attribute == "attributes" else gcn)(batch, torch.float32)
    learned = getattr(edges, attribute).clone().requires_grad_()
    chosen(layer, torch.randn(8, D), replace(edges, **{attribute: learned})).square().sum().backward()
    assert learned.grad.abs().max() > 0


def test_the_choice():
    x = torch.ones(2)
    assert choose.hand_written(x, x.double())
    assert not choose.hand_written(x, x.half()) and not choose.hand_written(x.bfloat16())
    assert not choose.hand_written(x, x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not choose.hand_written(x)
    assert torch.compile(lambda x: x + choose.hand_written(x), backend="eager")(x).equal(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_layer_in_half_precision(case, dtype, taken):
    layer, chosen, ours, plain, hidden = case(dtype)
    found, expected = chosen(layer, hidden, *ours), layer(hidden, *plain)
    assert found.dtype == dtype and found.equal(expected)
    assert taken == [False]


def test_autocast_is_the_layer_under_autocast(case, taken):
    layer, chosen, ours, plain, hidden = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = chosen(layer, hidden, *ours), layer(hidden, *plain)
    assert found.equal(expected) and taken == [False]


def test_compiled_is_the_layer(case):
    layer, chosen, ours, plain, hidden = case(torch.float32)
    inputs = [hidden, *layer.parameters()]
    found, expected = torch.compile(chosen, backend="aot_eager")(layer, hidden, *ours), layer(hidden, *plain)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        atol=1e-5,
        rtol=1e-5,
    )


def test_dropout_is_differentiable_twice_and_compiles():
    x = torch.randn(40, 50, requires_grad=True)
    (first,) = torch.autograd.grad(Dropout(0.5)(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x * (first != 0) * 8)
    compiled = torch.compile(Dropout(0.5), backend="aot_eager")(x)
    kept = compiled != 0
    torch.testing.assert_close(compiled[kept], 2 * x[kept])
    assert 0.4 < kept.float().mean() < 0.6
