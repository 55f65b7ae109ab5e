"""Graph encoders against dense matrices and loops over edges."""

import math

import pytest
import torch

from merc.batch import Edges
from merc.graphs import EDGE_ATTRIBUTES, GATEncoder, GCNEncoder, GraphBuilder
from merc.kernels import attention
from support.made_batches import make_batch

ENCODERS = {"gat": GATEncoder, "gcn": GCNEncoder}


@pytest.fixture
def batch():
    made = make_batch([5, 1, 8], {"text": 6}, absent=0.3)
    made.edges["text"] = GraphBuilder(past=2, future=2, speaker=1, similar=2)(made, "text")
    return made


def run(model, batch, edges=None):
    return model(batch.features["text"], batch.present["text"], edges or batch.edges["text"])


def slow_gcn(layer, hidden, edges):
    """D^-1/2 A D^-1/2 X W + b with A as a matrix, rows the targets, and D the weighted in-degrees."""
    adjacency = torch.zeros(len(hidden), len(hidden))
    for (source, target), weight in zip(edges.index.T.tolist(), edges.weight, strict=True):
        adjacency[target, source] = weight
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale[None] @ (hidden @ layer.lin.weight.T) + layer.bias


def slow_gat(layer, hidden, edges):
    """GATv2, equation 7 of arXiv 2105.14491 extended by edge attributes, edge by edge and head by head."""
    heads, width = layer.heads, layer.out_channels
    source_part = layer.lin_l(hidden).view(-1, heads, width)
    target_part = layer.lin_r(hidden).view(-1, heads, width)
    edge_part = layer.lin_edge(edges.attributes).view(-1, heads, width)
    out = torch.zeros(len(hidden), heads, width)
    for i in range(len(hidden)):
        incoming = (edges.index[1] == i).nonzero()[:, 0].tolist()
        for head in range(heads):
            scores = []
            for e in incoming:
                mixed = source_part[edges.index[0, e], head] + target_part[i, head] + edge_part[e, head]
                scores.append((layer.att[0, head] * torch.where(mixed > 0, mixed, 0.2 * mixed)).sum())
            share = torch.stack(scores).softmax(0)
            for weight, e in zip(share, incoming, strict=True):
                out[i, head] += weight * source_part[edges.index[0, e], head]
    return out.flatten(1) + layer.bias


@pytest.mark.parametrize(("network", "slow"), [(GCNEncoder, slow_gcn), (GATEncoder, slow_gat)])
def test_layers_equal_their_slow_versions(batch, network, slow):
    model = network(6, 4, hidden_dim=8, num_layers=2).eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.bias)
    torch.nn.init.normal_(model.absent)
    edges, x, present = batch.edges["text"], batch.features["text"], batch.present["text"]
    with torch.no_grad():
        out = run(model, batch)
        hidden = torch.stack([model.project(x[i]) if present[i] else model.absent for i in range(len(x))])
        for layer, norm in zip(model.layers, model.norms, strict=True):
            message = slow(layer, hidden, edges)
            hidden = norm(hidden + message.clamp(min=0))
        torch.testing.assert_close(out.hidden, hidden, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(out.logits, model.classify(hidden), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("block", "kept"), [(1, 0), (20, 0), (20, 1024), (1024, 0), (1024, 1024)])
def test_attention_along_edges_is_that_of_the_library(batch, block, kept, monkeypatch):
    """The same messages and the same gradients as GATv2Conv: in blocks, at once, and with what was kept."""
    monkeypatch.setattr(attention, "BLOCK", block)
    monkeypatch.setattr(attention, "KEPT", kept)
    torch.manual_seed(0)
    layer = GATEncoder(6, 4, hidden_dim=8, num_layers=1).layers[0].double()
    torch.nn.init.normal_(layer.bias)
    edges = batch.edges["text"]
    hidden = torch.randn(14, 8, dtype=torch.double, requires_grad=True)
    attributes = edges.attributes.double()
    expected = layer(hidden, edges.index, attributes)
    found = attention.graph_attention(layer, hidden, edges)
    torch.testing.assert_close(found, expected)
    weights, gradient = [hidden, *layer.parameters()], torch.randn(8, 14, dtype=torch.double).T
    for ours, theirs in zip(
        torch.autograd.grad(found, weights, gradient), torch.autograd.grad(expected, weights, gradient), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_attention_adds_up_in_full_precision_under_autocast(batch):
    layer = GATEncoder(6, 4, hidden_dim=8, num_layers=1).layers[0]
    edges, hidden = batch.edges["text"], torch.randn(14, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention.graph_attention(layer, hidden, edges)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer(hidden, edges.index, edges.attributes), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("nodes", [0, 3])
def test_attention_without_edges_says_nothing(nodes):
    layer = GATEncoder(6, 4, hidden_dim=8, num_layers=1).layers[0]
    torch.nn.init.normal_(layer.bias)
    edges = Edges(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, 8), torch.zeros(0), torch.zeros(2))
    hidden = torch.randn(nodes, 8, requires_grad=True)
    messages = attention.graph_attention(layer, hidden, edges)
    torch.testing.assert_close(messages, layer.bias.expand(nodes, -1))
    messages.sum().backward()
    torch.testing.assert_close(hidden.grad, torch.zeros(nodes, 8))


def test_what_an_edge_carries_reaches_the_output(batch):
    edges = batch.edges["text"]
    lighter = Edges(edges.index, edges.attributes, edges.weight.clone(), edges.ptr)
    lighter.weight[edges.index[0] != edges.index[1]] *= 0.1
    gcn, gat = (network(6, 4, hidden_dim=8).eval() for network in (GCNEncoder, GATEncoder))
    with torch.no_grad():
        assert (run(gcn, batch).logits - run(gcn, batch, lighter).logits).abs().max() > 1e-3
        for column, name in enumerate(EDGE_ATTRIBUTES):
            attributes = edges.attributes.clone()
            attributes[:, column] = torch.rand(len(attributes))
            other = Edges(edges.index, attributes, edges.weight, edges.ptr)
            assert (run(gat, batch).logits - run(gat, batch, other).logits).abs().max() > 1e-5, name


@pytest.mark.parametrize("network", ENCODERS.values(), ids=ENCODERS)
def test_absent_features_are_never_read_and_neighbours_speak(batch, network):
    model = network(6, 4, hidden_dim=8).eval()
    absent = ~batch.present["text"]
    with torch.no_grad():
        before = run(model, batch).logits
        batch.features["text"] = batch.features["text"].where(~absent[:, None], torch.tensor(1e3))
        assert torch.equal(run(model, batch).logits, before)
        company = absent & (batch.lengths[batch.conversation] > 1)
        assert company.sum() > 1 and before[company].std(0).min() > 1e-4


@pytest.mark.parametrize("network", ENCODERS.values(), ids=ENCODERS)
def test_every_parameter_learns(batch, network):
    model = network(6, 4, hidden_dim=16)
    out = run(model, batch)
    torch.nn.functional.cross_entropy(out.logits, batch.label).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert still == []


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="divisible by heads, got 10 and 4"):
        GATEncoder(6, 4, hidden_dim=10)


@pytest.mark.parametrize("network", ENCODERS.values(), ids=ENCODERS)
def test_a_plain_graph_carries_a_signal_as_far_as_it_has_layers(network):
    # A chain in which every utterance hears only the one before it: after L layers, the first is heard L turns on.
    batch = make_batch([8], {"text": 6}, absent=0.0)
    edges = GraphBuilder(past=1, future=0, speaker=0, similar=0)(batch, "text")
    model = network(6, 4, hidden_dim=8, num_layers=3).eval()
    x = batch.features["text"].clone().requires_grad_()
    model(x, batch.present["text"], edges).logits[6].sum().backward()
    heard = x.grad.abs().sum(1)
    assert (heard[:3] == 0).all() and (heard[3:7] > 0).all() and math.isclose(heard[7], 0)
