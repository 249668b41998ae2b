"""What the tools are compared on, with figures that none of them made."""

from benchmarks.peers.cases import layers, products, uses  # noqa: F401
from benchmarks.peers.cases.catalogue import LAYERS, Case
from benchmarks.peers.cases.networks import NETWORKS
from benchmarks.peers.cases.weights import LIMIT, weights

__all__ = ["LAYERS", "LIMIT", "NETWORKS", "Case", "weights"]
