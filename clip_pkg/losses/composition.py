"""A main objective and its auxiliary ones as one objective."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from clip_pkg.losses.contract import LossInputs, LossOutput, Objective


class ComposedObjective(Objective):
    """total = main + Σ weight · auxiliary; the main objective predicts.

    Parts are those of the main objective with the weights they have there, and one per auxiliary
    objective under its name. What every objective can rely on is seen to here, once: inputs in
    single precision or better, and blank where an image does not count.

    Args:
        main: any objective.
        auxiliary: name → (weight, objective whose only part has that name).
    """

    def __init__(
        self, main: Objective, auxiliary: Mapping[str, tuple[float, Objective]] | None = None
    ) -> None:
        added = dict(auxiliary or {})
        super().__init__(
            {**main.part_weights, **{name: weight for name, (weight, _) in added.items()}}
        )
        assert len(self.part_weights) == len(main.part_weights) + len(added), "part names clash"
        self.main = main
        self.auxiliary = nn.ModuleDict({name: part for name, (_, part) in added.items()})

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        prepared = inputs.prepared()
        output: LossOutput = self.main(prepared)
        parts, statistics = dict(output.parts), dict(output.statistics)
        for objective in self.auxiliary.values():
            further: LossOutput = objective(prepared)
            parts |= further.parts
            statistics |= further.statistics
        return self.weighted_sum(parts, statistics)

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Logits of the main objective, [B, C]."""
        return self.main.prediction_logits(inputs)
