"""The benchmarks whose responses a judge reads: a benchmark is added by adding its class here."""

from rao_kedro.evals.alpaca_eval.benchmark import AlpacaEval
from rao_kedro.evals.benchmark import Benchmark
from rao_kedro.evals.mt_bench.benchmark import MTBench

BENCHMARKS: dict[str, type[Benchmark]] = {
    AlpacaEval.name: AlpacaEval,
    MTBench.name: MTBench,
}
