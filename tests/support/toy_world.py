"""Languages so small that every sequence can be listed: the exact optimum and its normaliser are known."""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from rao_kedro.objectives import LogProbBatch

Sequence = tuple[int, ...]


class TablePolicy(torch.nn.Module):
    """Logits of its own for every prefix, so that prompts and responses share no parameter."""

    def __init__(self, vocabulary: int, length: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.tables = torch.nn.ParameterList(
            torch.nn.Parameter(torch.randn(vocabulary**depth, vocabulary, generator=generator, dtype=torch.float64))
            for depth in range(length)
        )
        self.vocabulary = vocabulary

    def logp(self, sequence: Sequence, given: int = 0) -> Tensor:
        """Return log pi(sequence[given:] | sequence[:given]) in nats; every sequence starts after t_0."""
        total, row = torch.zeros((), dtype=torch.float64), 0
        for depth, token in enumerate(sequence):
            if depth >= given:
                total = total + self.tables[depth][row].log_softmax(0)[token]
            row = row * self.vocabulary + token
        return total


@dataclass
class ToyWorld:
    """A reference policy and a reward on every whole sequence."""

    vocabulary: int
    length: int
    beta: float
    seed: int = 0

    def __post_init__(self) -> None:
        self.reference = TablePolicy(self.vocabulary, self.length, self.seed)
        self.reference.requires_grad_(False)
        generator = torch.Generator().manual_seed(self.seed + 1)
        self.sequences = self.continuations(self.length)
        rewards = torch.rand(len(self.sequences), generator=generator, dtype=torch.float64)
        self.reward = dict(zip(self.sequences, rewards, strict=True))

    def continuations(self, length: int) -> list[Sequence]:
        return list(product(range(self.vocabulary), repeat=length))

    def log_z(self, prefix: Sequence = ()) -> Tensor:
        """Return log Z(prefix) = log sum_y pi_ref(y | prefix) exp(r / beta), over all completions y."""
        whole = [prefix + y for y in self.continuations(self.length - len(prefix))]
        terms = [self.reference.logp(s, len(prefix)) + self.reward[s] / self.beta for s in whole]
        return torch.stack(terms).logsumexp(0)

    def optimal_logp(self, sequence: Sequence, given: int = 0) -> Tensor:
        """Return log pi*(sequence[given:] | sequence[:given]); prefixes get their marginal probability."""

        def marginal(prefix: Sequence) -> Tensor:
            whole = [prefix + y for y in self.continuations(self.length - len(prefix))]
            terms = [self.reference.logp(s) + self.reward[s] / self.beta - self.log_z() for s in whole]
            return torch.stack(terms).logsumexp(0)

        return marginal(sequence) - marginal(sequence[:given])

    def optimal_policy(self) -> TablePolicy:
        policy = TablePolicy(self.vocabulary, self.length, self.seed)
        with torch.no_grad():
            for depth, table in enumerate(policy.tables):
                for row, prefix in enumerate(self.continuations(depth)):
                    for token in range(self.vocabulary):
                        table[row, token] = self.optimal_logp((*prefix, token), given=depth)
        return policy

    def groups(self, policy: TablePolicy, prompt_length: int, responses: list[Sequence] | None = None) -> LogProbBatch:
        """Return every prompt with every response (or the given ones) as one batch."""
        prompts = self.continuations(prompt_length)
        responses = responses or self.continuations(self.length - prompt_length)

        def table(source: TablePolicy) -> Tensor:
            return torch.stack([torch.stack([source.logp(x + y, prompt_length) for y in responses]) for x in prompts])

        shape = (len(prompts), len(responses))
        return LogProbBatch(
            policy=table(policy),
            reference=table(self.reference),
            policy_prompt=torch.stack([policy.logp(x) for x in prompts]),
            reference_prompt=torch.stack([self.reference.logp(x) for x in prompts]),
            rewards=torch.stack([torch.stack([self.reward[x + y] for y in responses]) for x in prompts]),
            lengths=torch.full(shape, self.length - prompt_length),
            mask=torch.ones(shape, dtype=torch.bool),
        )


def minimise(policy: TablePolicy, loss, steps: int = 300) -> float:
    """Train `policy` by L-BFGS until nothing moves; return the final loss."""
    optimizer = torch.optim.LBFGS(
        policy.parameters(), max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-16
    )

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return float(loss())
