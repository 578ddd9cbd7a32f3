"""A rank that does wrong, for tests/test_collectives.py: one element of what it sends (all_gather) or holds (others) is off."""

from torch import Tensor

from workloads.collectives import peer
from workloads.collectives.member import Member


class Saboteur(Member):
    """Adds 1 to element 3."""

    def reset(self) -> None:
        """Send one wrong element."""
        super().reset()
        if self.problem.collective == "all_gather":
            self.inputs[0][3] += 1

    def run(self) -> Tensor:
        """Receive one wrong element."""
        output = super().run()
        if self.problem.collective != "all_gather":
            output[3] += 1
        return output


if __name__ == "__main__":
    peer.main(Saboteur)
