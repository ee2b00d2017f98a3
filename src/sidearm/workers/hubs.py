"""The hubs of one machine as child processes: one, or a row of which the first leads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..exceptions import HubError, StartError
from ..hub.config import HubConfig
from ..hub.listener import Listener
from .processes import Child, Service, Supervisor

HUB = "The hub"


def name_of(number: int, count: int) -> str:
    """What a hub is called in messages.

    Args:
        number: Which it is, from 0.
        count: How many there are.
    """
    return HUB if count == 1 else f"Hub {number}"


def names_of(count: int) -> list[str]:
    """What all of them are called, the first one first."""
    return [name_of(number, count) for number in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The hubs of an application on this machine.

    Attributes:
        config: Of the first, which says how many there are.
        log_format: ``"text"`` or ``"json"``.
    """

    config: HubConfig
    log_format: str = "text"

    def configs(self) -> Iterator[HubConfig]:
        """Of each, the first one first: the others follow it."""
        return map(self.config.of, range(self.config.hubs))

    def services(self) -> list[Service]:
        """What runs them, in the order in which they begin."""
        return [
            Service(
                name=name_of(config.number, config.hubs),
                program=("-m", "sidearm.hub"),
                arguments=(config.to_json(), "--log-format", self.log_format),
                environment=config.environment(),
                succeeds=True,
            )
            for config in self.configs()
        ]

    def sweep(self) -> None:
        """Open and close each hub's door: finds out whether it can be had, and leaves it clean.

        Raises:
            HubError: One cannot be had.
        """
        for config in self.configs():
            Listener(config.socket).close()

    def describe(self, children: Mapping[str, Child]) -> str:
        """Who they are, in a line."""
        pids = [_pid(children[name]) for name in names_of(self.config.hubs)]
        if len(pids) == 1:
            return f"process {pids[0]}, socket {self.config.socket}"
        return f"{len(pids)} processes ({', '.join(pids)}), socket {self.config.socket}"

    def run(self, say: Callable[[str], None]) -> None:
        """Run them alone until a signal stops them.

        Args:
            say: Prints a line.

        Raises:
            HubError: A socket cannot be had.
            StartError: One could not be started.
        """
        self.sweep()

        def say_ready(children: Mapping[str, Child]) -> None:
            say(f"The hubs listen: {self.describe(children)} (Ctrl-C stops them)")

        def say_stop(failure: StartError | None) -> None:
            if failure is None:
                say("Stopping the hubs.")

        try:
            Supervisor(self.services(), say=say, on_ready=say_ready, on_stop=say_stop).run()
        finally:
            self.sweep_quietly()

    def sweep_quietly(self) -> None:
        """Leave no socket of a hub that was killed; one that began since then keeps its own."""
        for config in self.configs():
            try:
                Listener(config.socket).close()
            except HubError:
                continue


def _pid(child: Child) -> str:
    return str(child.process.pid) if child.process is not None else "gone"
