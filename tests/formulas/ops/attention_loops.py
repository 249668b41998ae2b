"""Attention by loops over numbers that count their own operations, forward and backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.formulas.counting import Number, Tally, counting, dot, floats, numbers, total


def transposed(matrix: list[list[Number]]) -> list[list[Number]]:
    return [list(column) for column in zip(*matrix, strict=True)]


class NaiveAttention:
    """Attention of one batch by loops."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> None:
        self.q, self.k, self.v = map(numbers, (q, k, v))
        self.scale, self.group, self.mask = scale, q.shape[0] // k.shape[0], mask

    def scores(self, q: Any, k: Any) -> Any:
        scores = [[dot(row, column) for column in k] for row in q]
        if self.scale != 1:
            scores = [[score * self.scale for score in row] for row in scores]
        if self.mask is not None:
            bias = self.mask.tolist()
            scores = [
                [s + b for s, b in zip(*r, strict=True)] for r in zip(scores, bias, strict=True)
            ]
        return scores

    def forward(self) -> Tensor:
        self.out, self.logsumexp = [], []
        for head, queries in enumerate(self.q):
            self.out.append([])
            self.logsumexp.append([])
            keys, columns = self.k[head // self.group], transposed(self.v[head // self.group])
            for row in self.scores(queries, keys):
                largest = row[0]
                for score in row[1:]:
                    largest = largest.larger(score)
                exponentials = [(score - largest).exp() for score in row]
                denominator = total(exponentials)
                weights = [e / denominator for e in exponentials]
                self.out[-1].append([dot(weights, column) for column in columns])
                self.logsumexp[-1].append(largest + denominator.log())
        return floats(self.out)

    def weights_again(self, head: int) -> list[list[Number]]:
        scores = self.scores(self.q[head], self.k[head // self.group])
        return [
            [(s - lse).exp() for s in row]
            for row, lse in zip(scores, self.logsumexp[head], strict=True)
        ]

    def backward(self, grad: Tensor, again: Tally) -> tuple[Tensor, Tensor, Tensor]:
        """Of queries, keys and values; what is computed a second time goes into ``again``."""
        g, dq, dk, dv = numbers(grad), [], [], []
        for shared, (keys, vectors) in enumerate(zip(self.k, self.v, strict=True)):
            all_weights, all_scores, all_grads, all_queries = [], [], [], []
            for head in range(shared * self.group, (shared + 1) * self.group):
                with counting(again):
                    weights = self.weights_again(head)
                sums = [dot(*rows) for rows in zip(g[head], self.out[head], strict=True)]
                score_grads = [
                    [p * (dot(gi, vj) - s) for p, vj in zip(row, vectors, strict=True)]
                    for row, gi, s in zip(weights, g[head], sums, strict=True)
                ]
                if self.scale != 1:
                    score_grads = [[ds * self.scale for ds in row] for row in score_grads]
                dq.append([[dot(row, col) for col in transposed(keys)] for row in score_grads])
                all_weights.extend(weights)
                all_scores.extend(score_grads)
                all_grads.extend(g[head])
                all_queries.extend(self.q[head])
            for results, left, right in (
                (dv, all_weights, all_grads),
                (dk, all_scores, all_queries),
            ):
                results.append([[dot(a, b) for b in transposed(right)] for a in transposed(left)])
        return floats(dq), floats(dk), floats(dv)
