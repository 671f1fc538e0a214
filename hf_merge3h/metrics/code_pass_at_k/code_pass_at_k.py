"""Code: pass@k, for the evaluate library. The logic is in the package, this is its shape."""

from typing import Any

import evaluate

from hf_merge3h.metrics import module, records


class CodePassAtK(module.Metric):
    """Chance that one of k programs passes its tests, run in a sandbox."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info("code_pass_at_k", module.features(module.listed("string"), module.text()))

    def _compute(
        self,
        predictions: Any,
        references: Any,
        return_items: bool = False,
        k: Any = (1, 10),
        timeout: float = 10.0,
        memory: int = 2 << 30,
        workers: int | None = None,
        sandbox: str = "auto",
    ) -> dict[str, Any]:
        """Run programs.

        >>> metric = evaluate.load("hf_merge3h/code_pass_at_k")
        >>> programs = [["def half(x): return x / 2", "def half(x): return x // 2"]]
        >>> told = metric.compute(predictions=programs, references=["assert half(3) == 1.5"], k=[1, 2, 10])
        >>> told["pass@1"], told["pass@2"], "pass@10" in told, told["failed"]
        (0.5, 1.0, False, 1)
        """
        return records.get("code_pass_at_k").compute(
            predictions,
            references,
            return_items=return_items,
            k=k,
            timeout=timeout,
            memory=memory,
            workers=workers,
            sandbox=sandbox,
        )
